"""Make the example pictures: 3-D drawings (Fluent Emoji, MIT) over photographs (CC-BY-4.0) and synthesised surfaces.

    python demo/examples/make_examples.py --npm node_modules --wallpapers wallpapers

needs the unpacked packages that weights/tiny/make_data.py names. Writes the pictures and examples.json beside itself;
the same packages give the same pictures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "weights" / "tiny"))
from compose import texture  # noqa: E402

Bytes = NDArray[np.uint8]
DRAWINGS = "Drawings: Fluent Emoji, Microsoft, MIT."


@dataclass(frozen=True)
class Thing:
    """A drawing by code point, its centre and height as shares of the picture, its turn in degrees, its label."""

    code: str
    x: float
    y: float
    size: float
    label: str
    turn: float = 0.0
    mirror: bool = False


@dataclass(frozen=True)
class Example:
    """One picture: its file, background, things, and what to ask."""

    file: str
    width: int
    height: int
    background: str
    things: tuple[Thing, ...]
    absent: tuple[str, ...]
    note: str
    lying: bool = False  # seen from above: a soft shadow all round instead of one on the floor
    orientation: int = 1  # EXIF

    @property
    def prompts(self) -> list[str]:
        return list(dict.fromkeys(thing.label for thing in self.things))


STALL = {
    "apple": "1f34e", "banana": "1f34c", "carrot": "1f955", "strawberry": "1f353", "lemon": "1f34b", "grapes": "1f347",
    "tomato": "1f345", "pineapple": "1f34d", "broccoli": "1f966", "eggplant": "1f346", "watermelon": "1f349",
}  # fmt: skip
ROWS = (
    "apple banana carrot strawberry lemon grapes", "tomato pineapple apple carrot broccoli banana",
    "lemon strawberry eggplant grapes tomato watermelon", "carrot watermelon pineapple banana eggplant broccoli",
)  # fmt: skip


def market() -> tuple[Thing, ...]:
    """Four rows of six, each turned a little."""
    things = []
    for row, labels in enumerate(ROWS):
        for column, label in enumerate(labels.split()):
            x, turn = 0.09 + 0.164 * column + 0.02 * (row % 2), 14 * ((row * 5 + column * 3) % 5 - 2)
            things.append(Thing(STALL[label], x, 0.14 + 0.24 * row, 0.19, label, turn))
    return tuple(things)


EXAMPLES = (
    Example(
        "meadow.jpg", 640, 448, "aitzgorri",
        (
            Thing("1f404", 0.27, 0.66, 0.40, "cow"),
            Thing("1f411", 0.54, 0.72, 0.34, "sheep"),
            Thing("1f415", 0.80, 0.76, 0.32, "dog", mirror=True),
            Thing("1f388", 0.62, 0.26, 0.26, "balloon"),
        ),
        ("cat", "car", "piano"), "Animals on a photographed meadow.",
    ),
    Example(
        "breakfast.jpg", 640, 480, "table",
        (
            Thing("1fad6", 0.20, 0.44, 0.44, "teapot"),
            Thing("1f34e", 0.52, 0.34, 0.36, "apple"),
            Thing("1f950", 0.80, 0.46, 0.38, "croissant", 8),
            Thing("2615", 0.36, 0.76, 0.40, "cup"),
            Thing("1f353", 0.68, 0.80, 0.26, "strawberry", -20),
        ),
        ("dog", "bicycle", "guitar"), "Five things on a table.",
    ),
    Example(
        "workbench.jpg", 640, 480, "bench",
        (
            Thing("1f528", 0.22, 0.36, 0.50, "hammer", -15),
            Thing("1fa9a", 0.68, 0.28, 0.46, "saw", 20),
            Thing("1fa9b", 0.46, 0.66, 0.44, "screwdriver", 35),
            Thing("2702-fe0f", 0.82, 0.72, 0.38, "scissors", 10),
            Thing("1f511", 0.16, 0.80, 0.26, "key", -40),
        ),
        ("wrench", "axe", "banana"), "Tools from above; there is no wrench and no axe.",
        lying=True,
    ),
    Example(
        "stage.jpg", 640, 480, "stage",
        (
            Thing("1f3b8", 0.20, 0.52, 0.62, "guitar"),
            Thing("1f941", 0.48, 0.70, 0.38, "drum"),
            Thing("1f3ba", 0.76, 0.36, 0.36, "trumpet"),
            Thing("1f3bb", 0.80, 0.74, 0.44, "violin"),
        ),
        ("saxophone", "microphone", "bicycle"), "Instruments in front of a wall; no saxophone.",
    ),
    Example(
        "sky.jpg", 640, 426, "picosdeeuropa",
        (
            Thing("2708-fe0f", 0.28, 0.28, 0.40, "airplane"),
            Thing("1f681", 0.72, 0.30, 0.40, "helicopter"),
            Thing("1f697", 0.50, 0.80, 0.34, "car"),
        ),
        ("boat", "bird", "horse"), "Vehicles over photographed mountains; no bird in the sky.",
    ),
    Example(
        "trap.jpg", 560, 480, "fabric",
        (Thing("1f34b", 0.34, 0.42, 0.46, "lemon"), Thing("1f34a", 0.68, 0.62, 0.50, "orange")),
        ("apple", "banana", "tomato", "cat"), "Only a lemon and an orange.",
        lying=True,
    ),
    Example(
        "portrait.jpg", 448, 640, "carpet",
        (Thing("1fab4", 0.72, 0.42, 0.40, "potted plant"), Thing("1f408", 0.40, 0.74, 0.42, "cat")),
        ("dog", "chair"), "Held upright: stored lying, with EXIF orientation 6.", orientation=6,
    ),
    Example(
        "market.jpg", 640, 480, "fabric2",
        market(),
        ("onion", "egg", "fish"), "Twenty-four small things of eleven kinds.", lying=True,
    ),
)  # fmt: skip


def surface(word: str, seed: int, height: int, width: int, like: Sequence[int] | None = None) -> Bytes:
    """A synthesised surface; ``like`` picks, of many, the one whose mean colour is nearest."""
    side = max(height, width)
    trials = [texture(word, np.random.default_rng((seed, number)), side) for number in range(16 if like else 1)]
    target = np.array(like or (0, 0, 0))
    best = min(trials, key=lambda sheet: float(np.abs(sheet.mean((0, 1)) - target).sum()))
    return np.ascontiguousarray(best[:height, :width])


def floor(word: str, like: Sequence[int], height: int, width: int, seed: int) -> Bytes:
    """A surface seen lying in front of us, its far edge narrower."""
    flat = surface(word, seed, width, width, like)
    far = np.array([[-0.35 * width, height], [1.35 * width, height], [width, 0], [0, 0]], np.float32)
    source = np.array([[0, width], [width, width], [width, 0], [0, 0]], np.float32)
    tilt = cv2.getPerspectiveTransform(source, far)
    return cv2.warpPerspective(flat, tilt, (width, height), borderMode=cv2.BORDER_REFLECT)


def background(example: Example, wallpapers: Path) -> Bytes:
    height, width = example.height, example.width
    rooms = {
        "table": ("wall", (205, 200, 185), "wood", (150, 105, 65), 0.30),
        "stage": ("brick wall", (130, 65, 45), "wood", (95, 62, 40), 0.62),
        "carpet": ("wall", (190, 198, 205), "carpet", (120, 70, 60), 0.50),
    }
    flats = {
        "bench": ("concrete", (150, 150, 146)),
        "fabric": ("fabric", (70, 100, 130)),
        "fabric2": ("fabric", (205, 195, 180)),
    }
    if example.background in flats:
        word, like = flats[example.background]
        canvas = surface(word, 4, height, width, like)
    elif example.background in rooms:
        back, back_like, front, front_like, edge = rooms[example.background]
        top = int(edge * height)
        wall = surface(back, 3, top, width, back_like)
        canvas = np.concatenate([wall, floor(front, front_like, height - top, width, 5)])
        shade = np.abs(np.arange(height) - top)[:, None, None]
        canvas = (canvas * (1 - 0.35 * np.exp(-shade / 30))).astype(np.uint8)
    else:
        path = next(iter(sorted(wallpapers.glob(f"*/usr/share/**/{example.background}*.jpg"))))
        photo = Image.open(path).convert("RGB")
        scale = max(width / photo.width, height / photo.height)
        photo = photo.resize((round(photo.width * scale), round(photo.height * scale)), Image.Resampling.LANCZOS)
        left, top = (photo.width - width) // 2, (photo.height - height) // 2
        return np.asarray(photo.crop((left, top, left + width, top + height)))
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    vignette = 1.08 - 0.28 * np.hypot(rows + 0.25, columns - 0.2)[..., None]
    return (canvas * vignette).clip(0, 255).astype(np.uint8)


def put(canvas: Bytes, drawing: Image.Image, thing: Thing, lying: bool) -> Bytes:
    """The drawing on the canvas with its shadow."""
    height, width = canvas.shape[:2]
    drawing = drawing.crop(drawing.getchannel("A").getbbox())
    if thing.mirror:
        drawing = drawing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    scale = thing.size * height / max(drawing.size)
    drawing = drawing.resize((round(drawing.width * scale), round(drawing.height * scale)), Image.Resampling.LANCZOS)
    drawing = drawing.rotate(thing.turn, Image.Resampling.BICUBIC, expand=True)
    sheet = Image.new("RGBA", (width, height))
    left, top = round(thing.x * width - drawing.width / 2), round(thing.y * height - drawing.height / 2)
    sheet.paste(drawing, (left, top))
    rgba = np.asarray(sheet).astype(np.float32)
    alpha = rgba[..., 3:] / 255
    flying = thing.label in ("airplane", "helicopter", "balloon")
    if lying:
        move = np.array([[1, 0, 0.012 * width], [0, 1, 0.018 * height]], np.float32)
        shadow = 0.5 * cv2.GaussianBlur(cv2.warpAffine(alpha, move, (width, height)), (0, 0), 0.011 * height)
    else:
        shadow = np.zeros((height, width), np.float32)
        bottom = top + drawing.height - round(0.03 * thing.size * height)
        axes = (round(0.44 * drawing.width), max(3, round(0.07 * drawing.height)))
        cv2.ellipse(shadow, (left + drawing.width // 2, bottom), axes, 0, 0, 360, 1, -1)
        shadow = 0.0 * shadow if flying else 0.6 * cv2.GaussianBlur(shadow, (0, 0), 0.014 * height)
    shaded = canvas * (1 - shadow[..., None])
    return (shaded * (1 - alpha) + rgba[..., :3] * alpha).clip(0, 255).astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--npm", type=Path, required=True)
    parser.add_argument("--wallpapers", type=Path, required=True)
    args = parser.parse_args()
    rows = []
    for example in EXAMPLES:
        canvas = background(example, args.wallpapers)
        for thing in example.things:
            path = args.npm / "@lobehub/fluent-emoji-3d/assets" / f"{thing.code}.webp"
            canvas = put(canvas, Image.open(path).convert("RGBA"), thing, example.lying)
        sensor = np.random.default_rng(1).normal(0, 2.0, canvas.shape)
        picture = Image.fromarray((canvas + sensor).clip(0, 255).astype(np.uint8))
        exif = Image.Exif()
        if example.orientation == 6:  # a viewer turns it a quarter clockwise
            picture = picture.transpose(Image.Transpose.ROTATE_90)
            exif[0x0112] = 6
        picture.save(HERE / example.file, quality=90, exif=exif)
        credit = DRAWINGS
        if example.background in ("aitzgorri", "picosdeeuropa"):
            credit += f" Photograph: {example.background}, Aitzol Berasategi, CC-BY-4.0."
        row = {"file": example.file, "prompts": example.prompts, "absent": list(example.absent)}
        rows.append(row | {"note": example.note, "credit": credit})
    (HERE / "examples.json").write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
