"""Pictures with known masks: cut-out sprites in random styles over textures and photographs.

    composer = Composer(sprites, names, photos, textures, rng)
    scene = composer.compose(144, 144)      # scene.picture (H, W, 3), scene.segments (H, W), scene.words[segment]

Every random choice comes from the generator given, so that a seed fixes the picture. Colours, outlines and surfaces are
changed so often that only the shape and the parts of a thing predict its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
MAX_SEGMENTS = 8  # ground regions first, then objects; the last number is "ignored"
IGNORED = MAX_SEGMENTS - 1
BACKGROUND = "background"


@dataclass(frozen=True)
class Scene:
    """A picture, which segment each pixel belongs to, and the word of each segment ("" = do not learn from it)."""

    picture: Bytes  # (H, W, 3) RGB
    segments: Bytes  # (H, W), values 0..IGNORED
    words: tuple[str, ...]  # one of each segment number


# ---------------------------------------------------------------- synthesised textures


def noise(
    rng: np.random.Generator, side: int, cells: float, octaves: int = 4, stretch: float = 1.0, gain: float = 0.55
) -> Floats:
    """Fractal value noise in 0..1, (side, side); ``stretch`` > 1 lengthens it along the rows."""
    total = np.zeros((side, side), np.float32)
    weight = 1.0
    for octave in range(octaves):
        rows = max(2, min(side, round(cells * 2**octave)))
        columns = max(2, min(side, round(rows / stretch)))
        total += weight * cv2.resize(
            rng.random((rows, columns), np.float32), (side, side), interpolation=cv2.INTER_CUBIC
        )
        weight *= gain
    return normal(total)


def normal(values: Floats) -> Floats:
    low, high = float(values.min()), float(values.max())
    return ((values - low) / max(high - low, 1e-6)).astype(np.float32)


def cells(rng: np.random.Generator, side: int, count: int) -> tuple[Floats, Floats]:
    """Voronoi cells: (a random grey of each cell, the distance to the nearest seed over the distance to the next)."""
    seeds = rng.integers(0, side, (count, 2))
    picture = np.full((side, side), 255, np.uint8)
    picture[seeds[:, 0], seeds[:, 1]] = 0
    distance, labels = cv2.distanceTransformWithLabels(picture, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    greys = rng.random(labels.max() + 1).astype(np.float32)
    return greys[labels], normal(distance.astype(np.float32))


def ramp(grey: Floats, colours: Sequence[Sequence[float]]) -> Bytes:
    """Grey 0..1 to RGB through colours spaced evenly."""
    table = np.array(colours, np.float32)
    steps = np.linspace(0, 1, len(table))
    return (
        np.stack([np.interp(grey, steps, table[:, channel]) for channel in range(3)], -1).clip(0, 255).astype(np.uint8)
    )


def jitter(rng: np.random.Generator, colour: Sequence[float], amount: float) -> list[float]:
    return list(np.clip(np.array(colour) * rng.uniform(0.7, 1.25) + rng.normal(0, amount, 3), 0, 255))


def grout(
    rng: np.random.Generator, side: int, height: int, width: int, line: int, shift: bool
) -> tuple[Floats, Floats]:
    """Rows of blocks: (1 inside a block and 0 in the joint, a random grey of each block)."""
    rows, columns = np.mgrid[:side, :side]
    band = rows // height
    moved = columns + (band % 2) * (width // 2 if shift else 0)
    inside = ((rows % height) >= line) & ((moved % width) >= line)
    greys = rng.random((side // height + 2, side // width + 3)).astype(np.float32)
    return inside.astype(np.float32), greys[band, moved // width]


def texture(word: str, rng: np.random.Generator, side: int = 224) -> Bytes:
    """One random surface of the kind ``word`` names, (side, side, 3)."""
    r = rng.uniform
    fine, coarse = noise(rng, side, r(30, 80), 3), noise(rng, side, r(2, 8), 5)
    if word == "grass":
        blades = noise(rng, side, r(10, 25), 4, stretch=r(0.15, 0.4), gain=0.8)
        return ramp(
            0.6 * blades + 0.25 * fine + 0.15 * coarse,
            [jitter(rng, (25, 50, 15), 8), jitter(rng, (85, 130, 45), 15), jitter(rng, (165, 190, 90), 15)],
        )
    if word == "sky":
        fade = np.linspace(0, 1, side, dtype=np.float32)[:, None] + 0.08 * coarse
        return ramp(fade, [jitter(rng, (70, 130, 215), 18), jitter(rng, (190, 215, 240), 15)])
    if word == "clouds":
        return ramp(
            coarse ** r(0.7, 1.6), [jitter(rng, (95, 140, 205), 15), jitter(rng, (215, 220, 228), 8), (255, 255, 255)]
        )
    if word in ("brick wall", "tiles"):
        wide = int(r(24, 60))
        brick = word == "brick wall"
        inside, greys = grout(rng, side, max(8, wide // 2 if brick else wide), wide, int(r(2, 5)), brick)
        base = jitter(rng, (165, 80, 55), 15) if brick else jitter(rng, rng.uniform(90, 235, 3), 10)
        body = ramp(
            0.5 * greys + 0.3 * fine + 0.2 * coarse,
            [np.multiply(base, 0.65), base, np.clip(np.multiply(base, 1.25), 0, 255)],
        )
        joint = ramp(fine, [jitter(rng, (150, 145, 140), 10), jitter(rng, (205, 200, 195), 10)])
        return np.where(inside[..., None] > 0, body, joint)
    if word == "sand":
        waves = np.sin(np.mgrid[:side, :side][0] / r(4, 14) + 6 * coarse) * r(0, 0.25)
        return ramp(
            normal(0.5 * fine + 0.3 * coarse + waves),
            [jitter(rng, (165, 130, 85), 10), jitter(rng, (215, 185, 135), 10), jitter(rng, (240, 220, 180), 8)],
        )
    if word == "water":
        waves = noise(rng, side, r(8, 24), 4, stretch=r(2, 6))
        return ramp(
            waves, [jitter(rng, (10, 45, 75), 12), jitter(rng, (45, 110, 145), 15), jitter(rng, (190, 220, 230), 15)]
        )
    if word == "wood":
        grain = noise(rng, side, r(25, 60), 3, stretch=r(8, 25))
        rings = np.sin(40 * noise(rng, side, r(1, 3), 2, stretch=6)) * 0.3
        planks, greys = grout(rng, side, int(r(30, 80)), side * 3, 2, False)
        base = jitter(rng, (150, 100, 60), 18)
        body = ramp(
            normal(grain + rings + 0.4 * greys),
            [np.multiply(base, 0.55), base, np.clip(np.multiply(base, 1.4), 0, 255)],
        )
        body = (body * (0.5 + 0.5 * planks[..., None])).astype(np.uint8) if r() < 0.6 else body
        return np.ascontiguousarray(body.transpose(1, 0, 2)) if r() < 0.3 else body
    if word in ("stone", "gravel"):
        greys, edges = cells(rng, side, int(r(40, 120) if word == "stone" else r(500, 2500)))
        shade = 0.45 * greys + 0.25 * fine + 0.3 * (1 - edges if word == "gravel" else coarse)
        base = jitter(rng, (130, 125, 118), 15)
        return ramp(normal(shade), [np.multiply(base, 0.4), base, np.clip(np.multiply(base, 1.6), 0, 255)])
    if word == "leaves":
        greys, edges = cells(rng, side, int(r(150, 700)))
        shade = normal(0.5 * greys + 0.5 * (1 - edges) + 0.2 * fine)
        autumn = r() < 0.2
        return ramp(
            shade,
            [
                jitter(rng, (70, 35, 15) if autumn else (15, 35, 12), 8),
                jitter(rng, (190, 110, 40) if autumn else (60, 105, 40), 15),
                jitter(rng, (225, 170, 80) if autumn else (150, 185, 95), 15),
            ],
        )
    if word in ("fabric", "carpet"):
        rows, columns = np.mgrid[:side, :side].astype(np.float32)
        period = r(1.5, 5)
        weave = np.sin(rows / period) * np.sin(columns / period)
        folds = noise(rng, side, r(1, 4), 3) * (1.2 if word == "fabric" else 0.3)
        base = rng.uniform(30, 225, 3)
        body = ramp(
            normal(0.3 * weave + folds + (0.2 if word == "fabric" else 0.7) * fine),
            [np.multiply(base, 0.5), base, np.clip(np.multiply(base, 1.35), 0, 255)],
        )
        if r() < 0.35:
            stripes = np.sin(columns / r(5, 20)) * (np.sin(rows / r(5, 20)) if r() < 0.5 else 1) > 0
            body = np.where(
                stripes[..., None], body, (body * np.array(rng.uniform(0.5, 1.2, 3))).clip(0, 255).astype(np.uint8)
            )
        return body
    if word == "metal":
        brushed = noise(rng, side, r(60, 110), 2, stretch=r(10, 40))
        base = jitter(rng, (165, 168, 172), 8)
        return ramp(
            normal(0.5 * brushed + coarse * r(0.3, 1)),
            [np.multiply(base, 0.6), base, np.clip(np.multiply(base, 1.4), 0, 255)],
        )
    if word == "marble":
        veins = 1 - np.abs(np.sin(r(5, 12) * noise(rng, side, r(2, 4), 5)))
        base = jitter(rng, (230, 228, 224), 8)
        return ramp(veins**6 + 0.1 * fine, [base, np.multiply(base, 0.6)])
    if word == "snow":
        return ramp(normal(coarse + 0.3 * fine), [jitter(rng, (195, 208, 226), 5), (242, 246, 252), (255, 255, 255)])
    base = {"concrete": (150, 148, 144), "road": (88, 88, 90), "dirt": (108, 78, 52), "paper": (238, 232, 218)}.get(
        word
    )
    base = jitter(rng, base, 8) if base else jitter(rng, rng.uniform(90, 240, 3), 5)
    rough = {"concrete": 0.5, "road": 0.9, "dirt": 0.8}.get(word, 0.12)
    low, high = np.multiply(base, 1 - 0.5 * rough), np.clip(np.multiply(base, 1 + 0.4 * rough), 0, 255)
    return ramp(normal(fine * r(0.4, 1) + coarse * r(0.3, 1)), [low, base, high])


def texture_bank(words: Sequence[str], seed: int, each: int = 20) -> dict[str, list[Bytes]]:
    """``each`` surfaces of every ground word; the same for the same seed."""
    return {
        word: [texture(word, np.random.default_rng((seed, index, number))) for number in range(each)]
        for index, word in enumerate(words)
    }


# ---------------------------------------------------------------- style


def colour_matrix(rng: np.random.Generator, strength: float) -> Floats:
    """A random hue rotation, saturation and channel mixture as a 3 x 3 matrix."""
    angle = rng.normal(0, 0.5 * strength) if rng.random() < 0.7 else rng.uniform(-np.pi, np.pi)
    grey = np.full((3, 3), 1 / 3, np.float32)
    cosine, sine = np.cos(angle), np.sin(angle)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]], np.float32) / np.sqrt(3)
    rotation = cosine * np.eye(3, dtype=np.float32) + sine * cross + (1 - cosine) * grey
    saturation = rng.uniform(max(0.0, 1 - strength), 1 + 0.4 * strength) if rng.random() < 0.85 else 0.0
    return (saturation * rotation + (1 - saturation) * grey).astype(np.float32)


def curve(rng: np.random.Generator, strength: float) -> Bytes:
    """A lookup table (1, 256, 3): gamma, contrast, brightness and white balance."""
    x = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    y = x ** np.exp(rng.normal(0, 0.35 * strength) + rng.normal(0, 0.1 * strength, 3))
    y = (y - 0.5) * np.exp(rng.normal(0, 0.25 * strength)) + 0.5 + rng.normal(0, 0.08 * strength)
    return (255 * y * np.exp(rng.normal(0, 0.08 * strength, 3))).clip(0, 255).astype(np.uint8)[None]


def crop(rng: np.random.Generator, surface: Bytes, height: int, width: int) -> Bytes:
    """A random part of a surface at a random zoom, turned by quarters and mirrored, (height, width, 3)."""
    rows, columns = surface.shape[:2]
    largest = min(rows / height, columns / width)
    zoom = largest * rng.uniform(0.35, 1.0)
    h, w = max(2, int(height * zoom)), max(2, int(width * zoom))
    top, left = rng.integers(0, rows - h + 1), rng.integers(0, columns - w + 1)
    part = cv2.resize(
        surface[top : top + h, left : left + w],
        (width, height),
        interpolation=cv2.INTER_AREA if zoom > 1 else cv2.INTER_LINEAR,
    )
    return part[:, ::-1] if rng.random() < 0.5 else part


def light(rng: np.random.Generator, height: int, width: int, strength: float) -> Floats:
    """A slanted or radial gradient of brightness around 1, (height, width, 1)."""
    rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    if rng.random() < 0.7:
        angle = rng.uniform(0, 2 * np.pi)
        slope = rows * np.sin(angle) + columns * np.cos(angle)
    else:
        slope = 0.7 - np.hypot(rows - rng.uniform(-1, 1), columns - rng.uniform(-1, 1))
    return (1 + strength * rng.uniform(0.2, 1) * slope).clip(0.1, 2).astype(np.float32)[..., None]


def random_filter(rng: np.random.Generator, picture: Bytes) -> Bytes:
    """A random 3 x 3 convolution that mixes the channels, blended with the picture (RandConv)."""
    kernel = rng.normal(0, 1 / 3, (3, 3)).astype(np.float32)
    mixing = rng.normal(0, 0.6, (3, 3)).astype(np.float32)
    odd = cv2.transform(cv2.filter2D(picture, cv2.CV_32F, kernel), mixing)
    odd = (odd - odd.mean()) / (odd.std() + 1e-3) * 50 + 127
    share = rng.uniform(0.3, 0.9)
    return cv2.addWeighted(picture, 1 - share, odd.clip(0, 255).astype(np.uint8), share, 0)


def blur(rng: np.random.Generator, picture: Bytes, most: float) -> Bytes:
    if rng.random() < 0.7:
        return cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, most))
    length = int(rng.integers(2, 3 + int(2 * most)))
    kernel = np.zeros((length, length), np.float32)
    cv2.line(kernel, (0, int(rng.integers(0, length))), (length - 1, int(rng.integers(0, length))), 1)
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def jpeg(rng: np.random.Generator, picture: Bytes) -> Bytes:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 90))])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)


def smaller(rng: np.random.Generator, picture: Bytes) -> Bytes:
    height, width = picture.shape[:2]
    share = rng.uniform(0.4, 0.8)
    less = cv2.resize(picture, (max(8, int(width * share)), max(8, int(height * share))), interpolation=cv2.INTER_AREA)
    return cv2.resize(less, (width, height), interpolation=cv2.INTER_LINEAR)


def grain(rng: np.random.Generator, picture: Bytes) -> Bytes:
    spread = rng.uniform(2, 18)
    sheet = rng.integers(0, 256, picture.shape, np.uint8).astype(np.float32) - 127.5
    return (picture + sheet * (spread / 74)).clip(0, 255).astype(np.uint8)


def posterise(rng: np.random.Generator, picture: Bytes) -> Bytes:
    step = 256 // int(rng.integers(4, 9))
    return (picture // step * step + step // 2).astype(np.uint8)


def sharpen(rng: np.random.Generator, picture: Bytes) -> Bytes:
    amount = rng.uniform(0.3, 1.5)
    return cv2.addWeighted(picture, 1 + amount, cv2.GaussianBlur(picture, (0, 0), 1.2), -amount, 0)


def grey(rng: np.random.Generator, picture: Bytes) -> Bytes:
    return cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)


WHOLE_PICTURE: tuple[tuple[float, Callable[[np.random.Generator, Bytes], Bytes]], ...] = (
    (0.25, lambda rng, picture: (picture * light(rng, *picture.shape[:2], 0.45)).clip(0, 255).astype(np.uint8)),
    (0.25, lambda rng, picture: blur(rng, picture, 1.5)),
    (0.10, smaller),
    (0.12, sharpen),
    (0.07, grey),
    (0.04, posterise),
    (0.04, lambda rng, picture: cv2.bilateralFilter(picture, 5, 60, 3)),
    (0.05, random_filter),
    (0.70, lambda rng, picture: cv2.LUT(picture, curve(rng, 0.9))),
    (0.15, lambda rng, picture: cv2.transform(picture, colour_matrix(rng, 0.4))),
    (0.35, grain),
    (0.25, jpeg),
)


# ---------------------------------------------------------------- composition


class Composer:
    """Draws scenes out of sprites (N, S, S, 4), the word of each, photographs and textures.

    ``style`` 1 is the training mixture; 0 leaves the drawings as they are (shadow, light and sensor effects stay).
    """

    def __init__(
        self,
        sprites: Bytes,
        words: Sequence[str],
        photos: dict[str, Bytes],
        textures: dict[str, list[Bytes]],
        rng: np.random.Generator,
        weights: Sequence[float] | None = None,
        style: float = 1.0,
    ) -> None:
        self.sprites, self.photos, self.textures, self.rng, self.style = sprites, photos, textures, rng, style
        shares = np.ones(len(words)) if weights is None else np.asarray(weights, float)
        self.by_word: dict[str, tuple[NDArray[np.int64], Floats]] = {}
        for word in sorted(set(words)):
            index = np.flatnonzero(np.asarray(words) == word)
            self.by_word[word] = (index, (shares[index] / shares[index].sum()).astype(np.float64))
        self.words = list(self.by_word)
        # Words with many different drawings teach more, but a word with one must not be forgotten.
        counts = np.array([len(index) for index, _ in self.by_word.values()], float)
        self.chance = np.sqrt(counts.clip(1, 16))
        self.chance /= self.chance.sum()
        self.surfaces = [surface for surfaces in textures.values() for surface in surfaces] + list(photos.values())

    # -- background

    def surface(self) -> tuple[str, Bytes]:
        """(its word, a texture or photograph)."""
        rng = self.rng
        if rng.random() < 0.3 and self.photos:
            name = list(self.photos)[rng.integers(len(self.photos))]
            return (BACKGROUND if "/" in name else name), self.photos[name]
        word = list(self.textures)[rng.integers(len(self.textures))]
        bank = self.textures[word]
        return word, bank[rng.integers(len(bank))]

    def clutter(self, height: int, width: int) -> Bytes:
        """Something like the unsharp things behind a subject: sprites, large and blurred, over a surface."""
        rng = self.rng
        canvas = crop(rng, self.surface()[1], height, width)
        for _ in range(int(rng.integers(2, 6))):
            rgba = self.place(self.sprites[rng.integers(len(self.sprites))], height, width, rng.uniform(0.4, 1.6))
            colour = cv2.transform(rgba[..., :3], colour_matrix(rng, 1.0))
            alpha = rgba[..., 3:].astype(np.float32) / 255
            canvas = (canvas * (1 - alpha) + colour * alpha).astype(np.uint8)
        return cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.02, 0.09) * max(height, width))

    def background(self, height: int, width: int) -> tuple[Bytes, Bytes, list[str]]:
        """(picture, segment numbers, their words): one surface, two with a border, a gradient or clutter."""
        rng, kind = self.rng, self.rng.random()
        segments = np.zeros((height, width), np.uint8)
        if kind < 0.12:
            ends = rng.integers(0, 256, (2, 2, 3)).astype(np.uint8)
            return cv2.resize(ends, (width, height), interpolation=cv2.INTER_LINEAR), segments, [BACKGROUND]
        if kind < 0.34:
            return self.clutter(height, width), segments, [BACKGROUND]
        word, surface = self.surface()
        canvas = crop(rng, surface, height, width)
        if kind < 0.64:
            return canvas, segments, [word]
        other, surface = self.surface()
        rows = np.linspace(0, 1, height, dtype=np.float32)[:, None]
        border = (
            rng.uniform(0.25, 0.75)
            + rng.normal(0, 0.25) * (np.linspace(-0.5, 0.5, width, dtype=np.float32))
            + 0.05 * rng.standard_normal() * np.sin(np.linspace(0, rng.uniform(2, 20), width))
        )
        upper = rows < border[None]
        below = crop(rng, surface, height, width)
        soft = cv2.GaussianBlur(upper.astype(np.float32), (0, 0), rng.uniform(0.3, 2))[..., None]
        return (
            (canvas * soft + below * (1 - soft)).astype(np.uint8),
            np.where(upper, 0, 1).astype(np.uint8),
            [word, other],
        )

    # -- objects

    def place(self, sprite: Bytes, height: int, width: int, share: float) -> Bytes:
        """The sprite turned, sheared, mirrored and put somewhere on an empty canvas, (height, width, 4)."""
        rng = self.rng
        target = share * min(height, width)
        while sprite.shape[0] > 2.2 * target and sprite.shape[0] > 24:
            sprite = cv2.resize(sprite, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
        side = sprite.shape[0]
        angle = rng.normal(0, 12) if rng.random() < 0.85 else rng.uniform(-180, 180)
        scale = target / side
        aspect, shear = np.exp(rng.normal(0, 0.16)), rng.normal(0, 0.1)
        turn = np.deg2rad(angle)
        linear = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.array(
            [[scale * aspect, shear * scale], [0, scale / aspect]]
        )
        if rng.random() < 0.5:
            linear[:, 0] *= -1
        slack = 0.5 * target * 0.75  # a quarter of the thing may leave the picture
        x = rng.uniform(min(slack, width / 2), max(width - slack, width / 2))
        y = rng.uniform(min(slack, height / 2), max(height - slack, height / 2))
        matrix = np.eye(3)
        matrix[:2, :2] = linear
        matrix[:2, 2] = np.array([x, y]) - linear @ np.array([side / 2, side / 2])
        if rng.random() < 0.3:
            tilt = np.eye(3)
            tilt[2, :2] = rng.normal(0, 0.12, 2) / side
            back = np.eye(3)
            back[:2, 2] = side / 2
            away = np.eye(3)
            away[:2, 2] = -side / 2
            matrix = matrix @ back @ tilt @ away
        placed = cv2.warpPerspective(sprite, matrix, (width, height), flags=cv2.INTER_LINEAR)
        if rng.random() < 0.3:
            grid = (rng.standard_normal((2, 4, 4)) * 0.03 * target).astype(np.float32)
            shift = [cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC) for part in grid]
            columns, rows = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
            placed = cv2.remap(placed, columns + shift[0], rows + shift[1], cv2.INTER_LINEAR)
        return placed

    def dress(self, rgba: Bytes) -> tuple[Bytes, Floats]:
        """(its colours restyled, its alpha 0..1 with the drawing's outline sometimes cut off)."""
        rng, style = self.rng, self.style
        height, width = rgba.shape[:2]
        colour, alpha = np.ascontiguousarray(rgba[..., :3]), np.ascontiguousarray(rgba[..., 3])
        if rng.random() < 0.4 * style:
            alpha = cv2.erode(alpha, np.ones((3, 3), np.uint8), iterations=int(rng.integers(1, 3)))
        if rng.random() < 0.25 * style:
            colour = cv2.GaussianBlur(colour, (0, 0), rng.uniform(0.6, 2.0))
        if rng.random() < 0.5 * style:
            colour = cv2.transform(colour, colour_matrix(rng, 0.8))
        if rng.random() < 0.04 * style:
            colour = 255 - colour
        if rng.random() < 0.7 * style:
            colour = cv2.LUT(colour, curve(rng, 1.0))
        if rng.random() < 0.12 * style:
            colour = random_filter(rng, colour)
        if rng.random() < 0.5 * style:
            surface = crop(rng, self.surfaces[rng.integers(len(self.surfaces))], height, width).astype(np.float32)
            if rng.random() < 0.3:  # shape from the drawing, colours from the surface
                shade = cv2.cvtColor(colour, cv2.COLOR_RGB2GRAY).astype(np.float32)[..., None] / 140
                share = rng.uniform(0.4, 1.0)
                colour = (colour * (1 - share) + surface * shade * share).clip(0, 255).astype(np.uint8)
            else:  # the surface's relief on the drawing's colours
                relief = surface.mean(2, keepdims=True)
                relief = 1 + rng.uniform(0.3, 1.2) * (relief / relief.mean() - 1)
                colour = (colour * relief.clip(0.2, 2)).clip(0, 255).astype(np.uint8)
        if rng.random() < 0.5:
            colour = (colour * light(rng, height, width, 0.7)).clip(0, 255).astype(np.uint8)
        soft = alpha.astype(np.float32) / 255
        if rng.random() < 0.5:
            soft = cv2.GaussianBlur(soft, (0, 0), rng.uniform(0.3, 1.2))
        return colour, soft

    def shadow(self, canvas: Bytes, alpha: Floats) -> Bytes:
        rng = self.rng
        height, width = alpha.shape
        move = np.array(
            [
                [1, rng.normal(0, 0.2), rng.normal(0, 0.05) * width],
                [0, rng.uniform(0.7, 1.05), rng.uniform(0, 0.08) * height],
            ],
            np.float32,
        )
        cast = cv2.GaussianBlur(cv2.warpAffine(alpha, move, (width, height)), (0, 0), rng.uniform(1, 5))
        return (canvas * (1 - rng.uniform(0.15, 0.7) * cast[..., None])).astype(np.uint8)

    def blob(self, height: int, width: int) -> NDArray[np.bool_]:
        """A random occluder: the high part of a smooth noise, or a band."""
        rng = self.rng
        if rng.random() < 0.4:
            rows, columns = np.ogrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            angle = rng.uniform(0, np.pi)
            return np.abs(rows * np.sin(angle) + columns * np.cos(angle) - rng.uniform(-0.8, 0.8)) < rng.uniform(
                0.04, 0.15
            )
        field = cv2.resize(rng.random((4, 4), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        return field > np.quantile(field, rng.uniform(0.85, 0.95))

    def compose(
        self, height: int, width: int, words: Sequence[str] | None = None, sizes: tuple[float, float] = (0.18, 1.05)
    ) -> Scene:
        """A scene of 1 to 4 things (or of these words). Things hidden for more than 60 % are not to be learned from."""
        rng = self.rng
        canvas, segments, names = self.background(height, width)
        chosen = (
            list(words)
            if words is not None
            else list(rng.choice(self.words, int(rng.choice([1, 2, 3, 4], p=[0.35, 0.3, 0.2, 0.15])), p=self.chance))
        )
        if rng.random() < 0.5:
            canvas = cv2.LUT(canvas, curve(rng, 0.7))
        if rng.random() < 0.3:
            canvas = cv2.GaussianBlur(canvas, (0, 0), rng.uniform(0.5, 3))
        first = len(names)
        areas = []
        for word in chosen:
            index, weights = self.by_word[word]
            high = sizes[1] if len(chosen) == 1 else min(sizes[1], 1.15 / len(chosen) ** 0.5)
            share = (
                float(np.exp(rng.uniform(np.log(sizes[0]), np.log(high))))
                if len(chosen) > 1
                else rng.uniform(max(sizes[0], 0.3), sizes[1])
            )
            rgba = self.place(self.sprites[rng.choice(index, p=weights)], height, width, share)
            colour, alpha = self.dress(rgba)
            if rng.random() < 0.5:
                canvas = self.shadow(canvas, alpha)
            canvas = (canvas + (colour.astype(np.float32) - canvas) * alpha[..., None]).astype(np.uint8)
            covered = alpha > 0.5
            segments[covered] = len(names)
            names.append(str(word))
            areas.append(int(covered.sum()))
        if rng.random() < 0.12 * self.style:
            hidden = self.blob(height, width)
            canvas[hidden] = crop(rng, self.surfaces[rng.integers(len(self.surfaces))], height, width)[hidden]
            segments[hidden] = IGNORED
        for number, area in enumerate(areas, first):
            if (segments == number).sum() < max(40, 0.4 * area):
                names[number] = ""
        for chance, effect in WHOLE_PICTURE:
            if rng.random() < chance * (0.4 + 0.6 * self.style):
                canvas = effect(rng, canvas)
        names += [""] * (MAX_SEGMENTS - len(names))
        return Scene(np.ascontiguousarray(canvas), segments, tuple(names))
