"""The paper around a picture: its colours, the size of its text, and a pen that draws on an enlarged sheet."""

from dataclasses import dataclass

from PIL import ImageDraw

from ovseg.draw.text import FINE, Number, Place, put

INK, SOFT, FAINT, PAPER = (31, 35, 40), (101, 109, 118), (208, 212, 217), (255, 255, 255)


def text_size(height: int, width: int) -> int:
    """Height of the text in pixels: about 2 % of a picture, never too small to read."""
    return max(13, round(0.0125 * (height + width)))


def fineness(unit: int) -> int:
    """How much larger than life text is drawn; large text needs no help."""
    return FINE if unit <= 40 else 1


@dataclass(frozen=True)
class Pen:
    """Draws on a sheet that is `fine` times larger than life; all numbers here are of the sheet once shrunk."""

    sheet: ImageDraw.ImageDraw
    fine: int

    def write(self, at: Place, text: str, size: int, colour: tuple[int, int, int], anchor: str) -> None:
        put(self.sheet, (at[0] * self.fine, at[1] * self.fine), text, size * self.fine, colour, anchor)

    def line(self, at: Place, to: Number, unit: int) -> None:
        """A level hair line."""
        x, y = at[0] * self.fine, round(at[1]) * self.fine
        self.sheet.rectangle((x, y, to * self.fine - 1, y + max(1, unit // 14) * self.fine - 1), FAINT)

    def swatch(self, at: Place, size: int, colour: tuple[int, int, int] | None) -> None:
        """A square with round corners, middle left at `at`; hollow without a colour."""
        x, y = at[0] * self.fine, (at[1] - size / 2) * self.fine
        corners = (x, y, x + size * self.fine - 1, y + size * self.fine - 1)
        edge = FAINT if colour is None else (colour[0] * 2 // 3, colour[1] * 2 // 3, colour[2] * 2 // 3)
        self.sheet.rounded_rectangle(corners, size * self.fine * 0.22, colour, edge, max(1, size * self.fine // 14))

    def marker(self, middle: Number, start: Number, end: Number, half: Number) -> None:
        """A white level bar in a dark one."""
        box = [side * self.fine for side in (start, middle - 2 * half, end, middle + 2 * half)]
        self.sheet.rectangle(box, INK)
        inner = half * self.fine
        self.sheet.rectangle([box[0] + inner, box[1] + inner, box[2] - inner, box[3] - inner], PAPER)


__all__ = ["FAINT", "INK", "PAPER", "Pen", "SOFT", "fineness", "text_size"]
