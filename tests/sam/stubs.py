"""A SAM without a network: scenes of ellipses whose masks look like SAM's, for segment-anything's generator and ours.

Every point gets three masks (the object it is in, a part and a part of the part) as signed distances, with slopes that
put stability on both sides of 0.95 and predicted IoUs from a seeded table, of which about a third passes 0.88. Masks of
one object differ by a few per cent from point to point, so box NMS has its usual work.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
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
