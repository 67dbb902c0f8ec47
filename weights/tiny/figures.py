"""Pictures of many things, their parts and grounds, whose masks are all known: what the tiny SAM learns from.

    painter = Painter(composer, FIGURES)
    sheet = painter.paint(256)       # sheet.picture (256, 256, 3), sheet.leaves (256, 256), sheet.masks: sets of leaves

Things are cut-out sprites (as in ``compose.py``) and figures drawn here: filled with a colour, a gradient or a surface,
with an outline or without, with parts inside or cut in two. Every pixel belongs to one leaf; a mask is a set of leaves,
as a number whose bit ``n`` stands for leaf ``n``. So a whole and its parts share their pixels exactly, and a thing that
hides another takes its pixels from all masks of that other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from compose import WHOLE_PICTURE, Composer, crop, curve, light
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Line = NDArray[np.float64]  # (points, 2): x, y in -1..1
LEAVES = 64  # a mask is a set of leaves in 64 bits
SMALLEST = 40 / 256**2  # of the picture: what is smaller is no mask


@dataclass(frozen=True)
class Sheet:
    """A picture, the leaf of each pixel, and the masks as bit sets of leaves: grounds first, then things and parts."""

    picture: Bytes  # (S, S, 3) RGB
    leaves: Bytes  # (S, S), values 0..63
    masks: NDArray[np.uint64]  # (N,)
    grounds: int  # so many of the masks are surfaces


# ---------------------------------------------------------------- outlines: closed lines, filled by the even-odd rule


def circle(count: int) -> Line:
    turn = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return np.stack([np.cos(turn), np.sin(turn)], 1)


def polar(radius: NDArray[np.float64]) -> Line:
    return circle(len(radius)) * radius[:, None]


def ellipse(rng: np.random.Generator) -> list[Line]:
    return [circle(48) * [1, rng.uniform(0.35, 1)]]


def polygon(rng: np.random.Generator) -> list[Line]:
    count = int(rng.integers(3, 9))
    return [polar(rng.uniform(0.5, 1, count))]


def box(rng: np.random.Generator) -> list[Line]:
    return [np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [1, rng.uniform(0.2, 1)]]


def blob(rng: np.random.Generator) -> list[Line]:
    turn = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    waves = sum(rng.normal(0, 0.3 / wave) * np.cos(wave * turn + rng.uniform(0, 6.3)) for wave in range(1, 6))
    return [polar(np.clip(0.7 + waves, 0.2, 1.2))]


def ring(rng: np.random.Generator) -> list[Line]:
    outer = circle(48) * [1, rng.uniform(0.6, 1)]
    return [outer, outer * rng.uniform(0.4, 0.8)]


def frame(rng: np.random.Generator) -> list[Line]:
    outer = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [1, rng.uniform(0.5, 1)]
    return [outer, outer * rng.uniform(0.5, 0.8)]


def stroke(rng: np.random.Generator) -> list[Line]:
    """A band of changing direction: a curve and the same curve moved along its normals."""
    bends = cv2.resize(rng.normal(0, 1.6, (4, 1)), (1, 40), interpolation=cv2.INTER_CUBIC)[:, 0]
    angle = np.cumsum(bends) / 8
    curve_ = np.cumsum(np.stack([np.cos(angle), np.sin(angle)], 1), 0)
    curve_ = (curve_ - curve_.mean(0)) / np.abs(curve_ - curve_.mean(0)).max()
    normal = np.stack([-np.sin(angle), np.cos(angle)], 1) * rng.uniform(0.06, 0.25)
    return [np.concatenate([curve_ + normal, (curve_ - normal)[::-1]])]


def comb(rng: np.random.Generator) -> list[Line]:
    """A letter-like thing of bars: E, F, T, L, H and such."""
    thick = rng.uniform(0.2, 0.4)
    shape = np.zeros((80, 80), np.uint8)
    w = int(40 * thick)
    shape[:, :w] = 1
    for row in rng.choice([0, 40 - w // 2, 80 - w], int(rng.integers(1, 4)), replace=False):
        shape[row : row + w, : int(rng.uniform(0.6, 1) * 80)] = 1
    if rng.random() < 0.3:
        shape[:, -w:] = 1
    lines, _ = cv2.findContours(shape, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    return [line[:, 0].astype(float) / 40 - 1 for line in lines]


def star(rng: np.random.Generator) -> list[Line]:
    count = int(rng.integers(4, 9))
    return [polar(np.tile([1, rng.uniform(0.35, 0.6)], count))]


def crescent(rng: np.random.Generator) -> list[Line]:
    turn = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 24)
    outer = np.stack([np.cos(turn), np.sin(turn)], 1)
    return [np.concatenate([outer, (outer * [rng.uniform(0.2, 0.7), 1])[::-1]])]


def heart(rng: np.random.Generator) -> list[Line]:
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    y = -(13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn))
    return [np.stack([16 * np.sin(turn), y], 1) / 17]


def gear(rng: np.random.Generator) -> list[Line]:
    count = int(rng.integers(6, 12))
    return [polar(np.repeat(np.tile([1, 0.75], count), 2)), circle(24) * rng.uniform(0.2, 0.45)]


def cross(rng: np.random.Generator) -> list[Line]:
    w = rng.uniform(0.2, 0.4)
    quarter = np.array([[w, 1], [w, w], [1, w]])
    turn = np.array([[0, -1], [1, 0]])
    return [np.concatenate([quarter @ np.linalg.matrix_power(turn, n).T for n in (0, 3, 2, 1)])]


Figure = Callable[[np.random.Generator], list[Line]]
FIGURES: dict[str, Figure] = {
    "ellipse": ellipse, "polygon": polygon, "box": box, "blob": blob, "ring": ring, "frame": frame, "stroke": stroke,
    "comb": comb,
}  # fmt: skip
HELD_OUT: dict[str, Figure] = {"star": star, "crescent": crescent, "heart": heart, "gear": gear, "cross": cross}


def filled(lines: Sequence[Line], centre: Sequence[float], radius: float, angle: float, side: int) -> Bytes:
    """How much of each pixel the figure covers, 0..255, (side, side)."""
    cosine, sine = np.cos(angle) * radius, np.sin(angle) * radius
    turn = np.array([[cosine, -sine], [sine, cosine]])
    canvas = np.zeros((side, side), np.uint8)
    points = [np.round((line @ turn.T + np.asarray(centre)) * 16).astype(np.int32) for line in lines]
    cv2.fillPoly(canvas, points, 255, lineType=cv2.LINE_AA, shift=4)
    return canvas


# ---------------------------------------------------------------- sheets


class Painter:
    """Paints sheets; every random choice comes from the composer's generator."""

    def __init__(self, composer: Composer, figures: dict[str, Figure], sprites: float = 0.6) -> None:
        self.composer, self.rng, self.sprites = composer, composer.rng, sprites
        self.figures = list(figures.values())

    def paint(self, side: int, things: tuple[int, int] = (1, 8), sizes: tuple[float, float] = (0.12, 0.95)) -> Sheet:
        """A sheet with so many things, whose sizes are shares of the side."""
        rng, composer = self.rng, self.composer
        canvas, ground, _ = composer.background(side, side)
        if rng.random() < 0.5:
            canvas = cv2.LUT(canvas, curve(rng, 0.7))
        leaves = ground.copy()
        masks = [1 << int(number) for number in np.unique(ground)]
        grounds = len(masks)
        free = 2
        count = int(rng.integers(things[0], things[1] + 1))
        high = min(sizes[1], 1.6 * sizes[1] / count**0.5)
        # Large things tend to lie behind small ones: otherwise most small things would be hidden.
        shares = np.exp(rng.uniform(np.log(sizes[0]), np.log(high), count))
        for share in shares[np.argsort(-shares * np.exp(rng.normal(0, 0.5, count)))]:
            if rng.random() < self.sprites:
                sprite = composer.sprites[rng.integers(len(composer.sprites))]
                colour, alpha = composer.dress(composer.place(sprite, side, side, float(share)))
                parts = np.zeros((side, side), np.uint8)
            else:
                colour, alpha, parts = self.figure(side, float(share))
            if rng.random() < 0.4:
                canvas = composer.shadow(canvas, alpha)
            canvas = (canvas + (colour.astype(np.float32) - canvas) * alpha[..., None]).astype(np.uint8)
            covered = alpha > 0.5
            found = [int(number) for number in np.unique(parts[covered])]
            if not found or free + len(found) > LEAVES:
                continue
            order = np.zeros(256, np.uint8)
            order[found] = np.arange(free, free + len(found))
            leaves[covered] = order[parts[covered]]
            bits = [1 << number for number in range(free, free + len(found))]
            masks += [sum(bits), *bits] if len(bits) > 1 else bits
            free += len(found)
        for chance, effect in WHOLE_PICTURE:
            if rng.random() < 0.6 * chance:
                canvas = effect(rng, canvas)
        areas = np.bincount(leaves.ravel(), minlength=LEAVES)
        sizes_ = [sum(int(areas[leaf]) for leaf in range(free) if mask >> leaf & 1) for mask in masks]
        kept = [index for index, size in enumerate(sizes_) if size >= SMALLEST * side**2]
        picture = np.ascontiguousarray(canvas)
        return Sheet(
            picture,
            leaves,
            np.array([masks[index] for index in kept], np.uint64),
            sum(index < grounds for index in kept),
        )

    def fill(self, side: int) -> Bytes:
        """One colour, a gradient or a tinted surface, (side, side, 3)."""
        rng, kind = self.rng, self.rng.random()
        if kind < 0.4:
            sheet = np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8)
        elif kind < 0.6:
            sheet = cv2.resize(
                rng.integers(0, 256, (2, 2, 3)).astype(np.uint8), (side, side), interpolation=cv2.INTER_LINEAR
            )
        else:
            surfaces = self.composer.surfaces
            sheet = cv2.LUT(crop(rng, surfaces[rng.integers(len(surfaces))], side, side), curve(rng, 1.5))
        if rng.random() < 0.3:
            sheet = (sheet * light(rng, side, side, 0.6)).clip(0, 255).astype(np.uint8)
        return sheet

    def shape(self, side: int, centre: Sequence[float], radius: float) -> Bytes:
        rng = self.rng
        lines = self.figures[rng.integers(len(self.figures))](rng)
        return filled(lines, centre, radius, rng.uniform(0, 2 * np.pi) if rng.random() < 0.7 else 0.0, side)

    def figure(self, side: int, share: float) -> tuple[Bytes, NDArray[np.float32], Bytes]:
        """(colours, cover 0..1, number of the part that each pixel is of): a drawn thing with up to three parts."""
        rng = self.rng
        radius = 0.5 * share * side
        low = min(0.75 * radius, 0.5 * side)
        centre = rng.uniform(low, side - low, 2)
        cover = self.shape(side, centre, radius)
        colour, parts = self.fill(side), np.zeros((side, side), np.uint8)
        inside = np.argwhere(cover > 127)
        if len(inside) > 300 and rng.random() < 0.55:
            for number in range(1, int(rng.integers(2, 5))):
                if rng.random() < 0.25:  # cut in two by a straight line
                    turn, (row, column) = rng.uniform(0, 2 * np.pi), inside[rng.integers(len(inside))]
                    rows, columns = np.ogrid[:side, :side]
                    piece = ((rows - row) * np.sin(turn) + (columns - column) * np.cos(turn) > 0).astype(np.uint8) * 255
                else:
                    row, column = inside[rng.integers(len(inside))]
                    piece = self.shape(side, (column, row), radius * rng.uniform(0.2, 0.6))
                soft = piece[..., None].astype(np.float32) / 255
                colour = (colour * (1 - soft) + self.fill(side) * soft).astype(np.uint8)
                parts[piece > 127] = number
        if rng.random() < 0.3:
            width = int(rng.integers(1, 4))
            rim = cover.astype(np.int16) - cv2.erode(cover, np.ones((3, 3), np.uint8), iterations=width)
            dark = rng.integers(0, 256, 3) if rng.random() < 0.4 else np.zeros(3)
            soft = (rim[..., None] / 255).astype(np.float32)
            colour = (colour * (1 - soft) + dark * soft).astype(np.uint8)
        soft_cover = cover.astype(np.float32) / 255
        if rng.random() < 0.4:
            soft_cover = cv2.GaussianBlur(soft_cover, (0, 0), rng.uniform(0.3, 1.2))
        return colour, soft_cover, parts
