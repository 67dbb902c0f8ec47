"""A SAM without a network: scenes of ellipses whose masks look like SAM's, for segment-anything's generator and ours.

Every point gets three masks (the object it is in, a part and a part of the part) as signed distances, with slopes that
put stability on both sides of 0.95 and predicted IoUs from a seeded table, of which about a third passes 0.88. Masks of
one object differ by a few per cent from point to point, so box NMS has its usual work. In `Scene` objects lie through
each other; in `OpaqueScene` each pixel belongs to one, so there is a truth to find.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from segment_anything.modeling import Sam
from torch import Tensor, nn

from ovseg.sam.model import AT_ONCE, Answer, MaskModel

SIDE, CELLS, CHANNELS = 1024, 256, 8


class Scene:
    """Ellipses in the part of the square that a picture of this size fills; `masks(x, y)` is what a point is told."""

    def __init__(self, height: int, width: int, objects: int = 60, seed: int = 0, grid: int = 32) -> None:
        rng = np.random.default_rng(seed)
        self.size, self.grid = (height * SIDE / max(height, width), width * SIDE / max(height, width)), grid
        high, wide = self.size[0] / 4, self.size[1] / 4  # cells
        self.centre = rng.uniform(0, 1, (objects, 2)) * (wide, high)
        self.radius = rng.uniform(0.04, 0.25, (objects, 2)) * min(high, wide) + 2
        self.slope = rng.uniform(2, 16, (objects, 3))
        self.iou = rng.uniform(0.63, 1.01, (grid, grid, 3)).astype(np.float32)
        self.jitter = 1 + rng.normal(0, 0.01, (grid, grid, 3, 4))
        self.kept: dict[tuple[int, int], np.ndarray] = {}

    def objects_of(self, x: float, y: float) -> int:
        """The topmost object under a point of the square, the nearest where there is none."""
        away = np.hypot(*((np.array([x, y]) / 4 - self.centre) / self.radius).T)
        inside = np.flatnonzero(away <= 1)
        return int(inside[-1] if len(inside) else away.argmin())

    def cell(self, x: float, y: float) -> tuple[int, int]:
        """The place of a point on the grid."""
        last = self.grid - 1
        return min(last, int(y / self.size[0] * self.grid)), min(last, int(x / self.size[1] * self.grid))

    def quality(self, x: float, y: float) -> np.ndarray:
        return self.iou[self.cell(x, y)]

    def masks(self, x: float, y: float) -> np.ndarray:
        place = self.cell(x, y)
        if place not in self.kept:
            return self._drawn(self.objects_of(x, y), place)
        return self.kept[place]

    def store(self) -> "Scene":
        """Draw all masks now (3 MB a point on average), so that no clock sees it."""
        for row in range(self.grid):
            for col in range(self.grid):
                x, y = (col + 0.5) / self.grid * self.size[1], (row + 0.5) / self.grid * self.size[0]
                self.kept[row, col] = self._drawn(self.objects_of(x, y), (row, col))
        return self

    def _drawn(self, thing: int, place: tuple[int, int]) -> np.ndarray:
        out = np.empty((3, CELLS, CELLS), np.float32)
        axis = np.arange(CELLS) + 0.5
        for level, share in enumerate((1, 0.55, 0.25)):
            jitter = self.jitter[*place, level]
            centre = self.centre[thing] + (1 - share) * 0.4 * self.radius[thing] + (jitter[:2] - 1) * 20
            radius = self.radius[thing] * share * jitter[2:]
            x, y = (axis - centre[0]) / radius[0], (axis - centre[1]) / radius[1]
            away = np.sqrt((y**2)[:, None] + x**2)
            out[level] = (1 - away) * radius.min() * self.slope[thing, level]
        return out


class OpaqueScene(Scene):
    """30 to 150 opaque things with up to three parts each upon two grounds: what is seen of a thing is its mask.

    A point is told the thing (or the ground) it is on, its part there and a scrap round it. Masks are a few per cent
    off, each its own way; one point in ten takes too much and is less sure. What a point is told does not depend on
    what its neighbours are: a thing may be missed by all but one of them. About a third of the masks passes 0.88, and a
    fifth the stability as well.
    """

    def __init__(self, height: int, width: int, seed: int = 0, grid: int = 32) -> None:
        rng = np.random.default_rng((11, seed))
        self.size, self.grid = (height * SIDE / max(height, width), width * SIDE / max(height, width)), grid
        self.kept = {}
        self.cells = tuple(int(np.ceil(side / 4)) for side in self.size)
        high, wide = self.cells
        y, x = np.mgrid[:CELLS, :CELLS] + 0.5
        skyline = high * (0.45 + 0.1 * np.sin(x / wide * rng.uniform(3, 9) + rng.uniform(0, 6)))
        self.whole = (y > skyline).astype(int)  # which thing each cell shows; 0 and 1 are the grounds
        self.part = np.full((CELLS, CELLS), -1)
        count = int(rng.integers(30, 151))
        radii = np.exp(rng.uniform(np.log(0.015), np.log(0.2), count)) * min(high, wide) + 1
        parts = 0
        for thing, radius in enumerate(radii[np.argsort(-radii * np.exp(rng.normal(0, 0.4, count)))], 2):
            left, top, turn, flat = (
                rng.uniform(0, wide),
                rng.uniform(0, high),
                rng.uniform(0, np.pi),
                rng.uniform(0.5, 1),
            )
            along = ((x - left) * np.cos(turn) + (y - top) * np.sin(turn)) / radius
            across = ((y - top) * np.cos(turn) - (x - left) * np.sin(turn)) / radius / flat
            away = np.hypot(along, across)
            shown = away <= 1 if rng.random() < 0.6 else np.maximum(np.abs(along), np.abs(across)) <= 0.85
            self.whole[shown], self.part[shown] = thing, -1
            pieces = int(rng.integers(0, 4)) if radius > 4 else 0
            if pieces == 1:
                self.part[shown & (away <= 0.55)] = parts
            elif pieces:
                self.part[shown] = parts + np.searchsorted(np.sort(rng.uniform(-0.8, 0.8, pieces - 1)), along[shown])
            parts += pieces
        beyond = (y >= high) | (x >= wide)
        self.whole[beyond], self.part[beyond] = -1, -1
        self.things = [thing for thing in range(2, count + 2) if (self.whole == thing).sum() >= 16]
        rng = np.random.default_rng((12, seed))
        shape = (grid, grid, 3)
        self.noise, self.slope = rng.normal(0, 0.04, shape), rng.uniform(2, 16, shape)
        self.off, self.chance = rng.normal(0, 0.006, (*shape, 3)), rng.random((grid, grid, 2))
        self.far: dict[tuple[str, int], np.ndarray] = {}
        self.answers: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}

    def distance(self, thing: int) -> np.ndarray:
        """Logits of a thing as it is: how far inside of it each cell lies."""
        return self._distance("whole", thing)

    def quality(self, x: float, y: float) -> np.ndarray:
        return self._answer(x, y)[1]

    def masks(self, x: float, y: float) -> np.ndarray:
        return self._answer(x, y)[0]

    def _distance(self, kind: str, number: int) -> np.ndarray:
        if (kind, number) not in self.far:
            inside = getattr(self, kind) == number
            far = distance_transform_edt(inside) - distance_transform_edt(~inside) + np.where(inside, -0.5, 0.5)
            self.far[kind, number] = far.astype(np.float32)
        return self.far[kind, number]

    def _answer(self, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
        place = self.cell(x, y)
        if place not in self.answers:
            self.answers[place] = self._told(place, min(CELLS - 1, int(x / 4)), min(CELLS - 1, int(y / 4)))
        return self.answers[place]

    def _told(self, place: tuple[int, int], col: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        thing, part = int(self.whole[row, col]), int(self.part[row, col])
        axis = np.arange(CELLS, dtype=np.float32)
        across, down = axis - col, axis[:, None] - row
        masks, told = [], []
        for level in range(3):
            far, sure = self._distance("whole", thing), 0.95
            if level == 1 and part >= 0:
                far, sure = self._distance("part", part), 0.94
            elif level:
                far, sure = np.minimum(far, np.float32(2 + 10 * self.chance[place][1]) - np.hypot(across, down)), 0.82
            size = max(1, np.count_nonzero(far > 0)) ** 0.5
            if not level and self.chance[place][0] < 0.1:
                far, sure = far + 0.08 * size, sure - 0.08
            inset, tilt, lean = (self.off[place][level] * [size, size / (size + 1), size / (size + 1)]).astype(
                np.float32
            )
            wrong = (inset + tilt * across + lean * down).clip(-0.05 * size, 0.05 * size)
            masks.append((far + wrong) * np.float32(self.slope[place][level]))
            edge = 0.06 * max(0.0, 1.5 - float(far[row, col]))
            told.append(sure + self.noise[place][level] - edge - (0.06 if thing < 2 else 0))
        return np.stack(masks).astype(np.float32), np.array(told, np.float32)


class _Encoder(nn.Module):
    img_size = SIDE

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.zeros(len(pixels), CHANNELS, CELLS // 4, CELLS // 4)


class _Prompts(nn.Module):
    """Tokens of a point are its coordinates."""

    image_embedding_size = (CELLS // 4, CELLS // 4)

    def forward(self, points: Any, boxes: Any, masks: Any) -> tuple[Tensor, Tensor]:
        sparse = points[0] if points is not None else torch.zeros(1, 1, 2)
        return sparse, torch.zeros(len(sparse), CHANNELS, *self.image_embedding_size)

    def get_dense_pe(self) -> Tensor:
        return torch.zeros(1, CHANNELS, *self.image_embedding_size)


class _Decoder(nn.Module):
    num_mask_tokens, transformer_dim = 4, CHANNELS

    def __init__(self, scene: Scene) -> None:
        super().__init__()
        self.scene = scene
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        image_embeddings: Tensor,
        image_pe: Tensor,
        sparse_prompt_embeddings: Tensor,
        dense_prompt_embeddings: Tensor,
        multimask_output: bool,
    ) -> tuple[Tensor, Tensor]:
        points = sparse_prompt_embeddings[:, 0].tolist()
        masks = np.stack([self.scene.masks(*point) for point in points])
        return torch.from_numpy(masks), torch.from_numpy(np.stack([self.scene.quality(*point) for point in points]))


class StubModel(MaskModel):
    """The face over such a SAM: what the decoder's parts would say is looked up."""

    def __init__(self, sam: Sam, scene: Scene) -> None:
        super().__init__(sam)
        self.scene = scene

    def shared(self, embedding: Any) -> Any:
        return None

    def answer(self, shared: Any, prompts: Tensor, *, single: bool = False) -> Iterator[tuple[slice, Answer]]:
        for begin in range(0, len(prompts), AT_ONCE):
            some = prompts[begin : begin + AT_ONCE]
            quality = np.stack([self.scene.quality(*point) for point in some[:, 0].tolist()])
            yield slice(begin, begin + len(some)), Answer(torch.from_numpy(quality), some, some)

    def logits(self, answer: Answer, wanted: Tensor, *, single: bool = False) -> Tensor:
        points = answer.tokens[wanted, 0].tolist()
        return torch.from_numpy(np.stack([self.scene.masks(*point) for point in points]))


def stubs(scene: Scene) -> tuple[Sam, StubModel]:
    """The same scene for segment-anything's own generator and for ours."""
    sam = Sam(_Encoder(), _Prompts(), _Decoder(scene)).eval()
    return sam, StubModel(sam, scene)
