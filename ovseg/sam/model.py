"""One face for every network with segment-anything's parts: pictures to embeddings, prompts to logits.

`MaskModel` answers as `SamPredictor` does (facebookresearch/segment-anything@dca509f), holding no picture: an embedding
is a value, made once, kept where the caller likes, and given to any number of calls from any thread.

Who computes is a choice: by default torch in float32 in segment-anything's own order of operations ("exact": its bits),
else any runtime and precision of `ovseg.runtime` in the order of `folded`, several times as fast and the same up to
rounding: in float32 about one of a million logits changes its sign, in bfloat16 four of a thousand.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from weakref import ref

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from PIL import Image
from torch import Tensor, nn

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.runtime import Prepared, Run, check, kernels, prepare
from ovseg.sam.decoder import Attend, Encode, Shared, Upscale, share
from ovseg.sam.folded import FoldedAttend, FoldedUpscale
from ovseg.sam.networks import CUTS, require_float32
from ovseg.sam.stretch import Stretch, stretch

# Prompts in one call of the decoder. More are no faster (the image tokens of four, 17 MB, stay in the heap), and a call
# is filled up with repetitions: so a prompt's numbers do not depend on its neighbours, and they are those of
# segment-anything at any batch that is a multiple of four. A lone prompt is asked alone, as there: a click waits.
AT_ONCE = 4
ALGEBRAS = ("exact", "folded")
# Bytes of image tokens in one call of the folded decoder: torch is fastest where a call's tensors stay in the cache, a
# graph where it has work for its threads. Small networks gain by more prompts, up to a number.
ROOM = {"torch": 4 << 20, "openvino": 16 << 20}
MOST_AT_ONCE = 64
# Of each input of a part, the axes that vary from call to call (prompts, their tokens; the picture's side is one for
# all prompts or one each), and how many rows a graph is made from: two where they are prompts.
FREE = {
    "encode": (((), 1),),
    "attend": (((0, 1), 2), ((0,), 1), ((), 1), ((0,), 1), ((0,), 1), ((0,), 1)),
    "several": (((0,), 2), ((0,), 2)),
    "single": (((0,), 2), ((0,), 2)),
}


@dataclass(frozen=True, eq=False)
class Embedding:
    """A picture as a SAM sees it, of which only the first `kept` (rows, cols) of the square hold picture.

    `maps` are finer ones, of networks that make masks from them too (`foreign`).
    """

    features: Float[Tensor, "1 channels rows cols"]
    height: int
    width: int
    kept: tuple[int, int]
    maps: tuple[Float[Tensor, "1 ..."], ...] = ()

    @property
    def nbytes(self) -> int:
        return sum(map_.numel() * map_.element_size() for map_ in (self.features, *self.maps))


@dataclass(frozen=True, eq=False)
class Answer:
    """What the decoder says to one call of prompts, before any mask exists: qualities, and what masks are made from."""

    quality: Float[Tensor, "b masks"]
    tokens: Float[Tensor, "b all channels"]
    image: Float[Tensor, "b cells channels"]


class MaskModel:
    """A SAM-type network in float32, ready to answer; the network itself stays as it is.

    `algebra` is "exact" where torch computes in float32 and nothing else is asked, else "folded". `cache` is a folder
    for compiled graphs. Several threads may ask one model.
    """

    def __init__(
        self,
        sam: Any,
        *,
        runtime: str = "torch",
        precision: str = "float32",
        algebra: str = "",
        cache: Path | None = None,
    ) -> None:
        self.sam = require_float32(sam)
        check(runtime, precision, self.device)
        plain = (runtime, precision) == ("torch", "float32")
        self.algebra = algebra or ALGEBRAS[0 if plain else 1]
        if self.algebra not in ALGEBRAS:
            raise UnknownName.of("algebra", algebra, ALGEBRAS)
        if self.algebra == "exact" and not plain:
            raise BadUsage(f'algebra exact is torch\'s in float32: got {runtime} in {precision}; take algebra="folded"')
        self.runtime, self.precision, self.cache = runtime, precision, cache
        decoder = self.sam.mask_decoder
        self.grid: tuple[int, int] = tuple(self.sam.prompt_encoder.image_embedding_size)
        self.cells: tuple[int, int] = (4 * self.grid[0], 4 * self.grid[1])
        self.side = int(self.sam.image_encoder.img_size)
        self.threshold = float(self.sam.mask_threshold)
        self.cuts: tuple[float, float] = getattr(sam, "cuts", CUTS)
        self._prepared = Prepared()
        self._last: tuple[ref[Embedding], Shared] | None = None  # one picture is clicked many times
        self.parts: dict[str, nn.Module] = {"encode": Encode(self.sam.image_encoder).eval()}
        picked = {"several": (1, decoder.num_mask_tokens), "single": (0, 1)}
        if self.algebra == "exact":
            self.at_once = AT_ONCE
            self.parts["attend"] = Attend(decoder).eval()
            self.parts |= {name: Upscale(decoder, *some, self.grid).eval() for name, some in picked.items()}
        else:
            size = 4 * decoder.transformer_dim * self.grid[0] * self.grid[1]
            self.at_once = max(1, min(MOST_AT_ONCE, ROOM[runtime] // size))
            together = runtime != "torch" or self.device.type != "cpu"
            self.parts["attend"] = FoldedAttend(decoder, together=together).eval()
            self.parts |= {name: FoldedUpscale(decoder, *some, self.grid).eval() for name, some in picked.items()}

    @property
    def device(self) -> torch.device:
        place: torch.device = next(self.sam.mask_decoder.parameters()).device
        return place

    @property
    def computed(self) -> str:
        """Who computes, in which order: embeddings and masks of two models are equal where this and `digest` are.

        >>> from ovseg.sam.load import KINDS, build
        >>> MaskModel(build(KINDS["tiny"])).computed
        'torch float32 exact'
        """
        return f"{self.runtime} {self.precision} {self.algebra}"

    @cached_property
    def digest(self) -> str:
        """Of the weights: the same for the same network wherever it was read from."""
        digest = hashlib.sha256()
        for name, value in sorted(self.sam.state_dict().items()):
            digest.update(f"{name}{tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        return digest.hexdigest()

    def encode(self, image: UInt8[np.ndarray, "height width 3"]) -> Embedding:
        """The embedding of an RGB picture: the long side becomes the network's, the rest of the square is padding."""
        from segment_anything.utils.transforms import ResizeLongestSide

        height, width = image.shape[:2]
        own = image if getattr(self.sam, "image_format", "RGB") == "RGB" else image[..., ::-1]
        high, wide = ResizeLongestSide.get_preprocess_shape(height, width, self.side)
        # segment-anything's own resize, but for very narrow pictures: they keep a pixel where it would leave none.
        size = (max(1, wide), max(1, high))
        pixels = np.array(Image.fromarray(np.ascontiguousarray(own)).resize(size, Image.Resampling.BILINEAR))
        with torch.inference_mode():
            tensor = torch.as_tensor(pixels, device=self.device).permute(2, 0, 1).contiguous()[None]
            (features,) = self._run("encode", self.sam.preprocess(tensor))
        return Embedding(features, height, width, (pixels.shape[0], pixels.shape[1]))

    def fits(self, embedding: Embedding, height: int, width: int) -> None:
        """Nothing, or the error that says why this embedding is not one of a picture of that size by this network."""
        if (embedding.height, embedding.width) != (height, width):
            raise BadInput(
                f"embedding and picture must match: the embedding is of {embedding.height}x{embedding.width}, the "
                f"picture is {height}x{width} (rows x cols); encode the picture again"
            )
        channels = self.sam.mask_decoder.transformer_dim
        if tuple(embedding.features.shape) != (1, channels, *self.grid):
            raise BadInput(
                f"this network needs embeddings of {channels} x {self.grid[0]} x {self.grid[1]}: got "
                f"{' x '.join(str(n) for n in embedding.features.shape[1:])}, of another network"
            )

    def shared(self, embedding: Embedding, dense: Float[Tensor, "n channels rows cols"] | None = None) -> Shared:
        """What prompts have in common on this picture; `dense` is the prompt encoder's map of the masks they bring."""
        last = self._last
        if dense is None and last is not None and last[0]() is embedding:
            return last[1]
        encoder = self.sam.prompt_encoder
        with torch.inference_mode():
            masks = dense
            if masks is None:
                _, masks = encoder(points=None, boxes=torch.zeros(1, 4, device=self.device), masks=None)
            if self.algebra == "exact":
                own = share(self.sam.mask_decoder, embedding.features, masks, encoder.get_dense_pe())
            else:
                with kernels(self.device):
                    own = share(self.sam.mask_decoder, embedding.features, masks, encoder.get_dense_pe())
                own = Shared(*(part.contiguous() for part in own.parts))  # once, not in every call
        if dense is None:
            self._last = (ref(embedding), own)
        return own

    def answer(
        self, shared: Shared, prompts: Float[Tensor, "b m channels"], *, single: bool = False
    ) -> Iterator[tuple[slice, Answer]]:
        """Answers to prompts, some at a time, each with the prompts that it is to."""
        for begin in range(0, len(prompts), self.at_once):
            some = prompts[begin : begin + self.at_once]
            count = len(some)
            full = self.at_once if self.algebra == "exact" and len(prompts) > 1 else count
            picked = slice(begin, begin + self.at_once)
            quality, tokens, image = self._run("attend", _filled(some, full), *_of(shared, picked, full).parts)
            own = slice(0, 1) if single else slice(1, None)
            yield slice(begin, begin + count), Answer(quality[:count, own], tokens[:count], image[:count])

    def logits(
        self, answer: Answer, wanted: Int[Tensor, " n"], *, single: bool = False
    ) -> Float[Tensor, "n masks high wide"]:
        """Masks of the wanted prompts of an answer, at a quarter of the network's side."""
        (out,) = self._run("single" if single else "several", answer.image[wanted], answer.tokens[wanted])
        if not torch.isfinite(out).all():
            raise BadInput(
                f"mask logits are not finite: {self.runtime} computes them in {self.precision} on {self.device}; try "
                "float32, or check the checkpoint"
            )
        return out

    def points(
        self, coordinates: Float[np.ndarray, "b m 2"], labels: Int[np.ndarray, "b m"], embedding: Embedding
    ) -> Float[Tensor, "b tokens channels"]:
        """Tokens of point prompts, (x, y) in pixels of the picture; labels are 1 (inside) and 0 (outside)."""
        with torch.inference_mode():
            place = torch.as_tensor(self.placed(coordinates, embedding), device=self.device)
            label = torch.as_tensor(labels.astype(np.int32), device=self.device)
            sparse: Tensor
            sparse, _ = self.sam.prompt_encoder(points=(place, label), boxes=None, masks=None)
        return sparse

    def prompts(
        self,
        embedding: Embedding,
        *,
        boxes: Float[np.ndarray, "b 4"] | None = None,
        points: Float[np.ndarray, "b m 2"] | None = None,
        labels: Int[np.ndarray, "b m"] | None = None,
        masks: Float32[np.ndarray, "b high wide"] | None = None,
    ) -> tuple[Float[Tensor, "b tokens channels"], Float[Tensor, "b channels rows cols"] | None]:
        """Tokens of prompts in pixels of the picture and, where they bring masks, the map of these for `shared`.

        Boxes are XYXY, labels 1 (inside), 0 (outside) and -1 (no point), masks logits of `cells`.
        """
        dots = corners = maps = None
        if points is not None and labels is not None:
            place = torch.as_tensor(self.placed(points, embedding), device=self.device).float()
            dots = (place, torch.as_tensor(labels.astype(np.int32), device=self.device))
        if boxes is not None:
            corners = torch.as_tensor(self.placed(boxes.reshape(-1, 2, 2), embedding), device=self.device).float()
            corners = corners.reshape(-1, 4)
        if masks is not None:
            maps = torch.as_tensor(masks, device=self.device)[:, None]
        with torch.inference_mode():
            sparse: Tensor
            dense: Tensor
            sparse, dense = self.sam.prompt_encoder(points=dots, boxes=corners, masks=maps)
        return sparse, dense if masks is not None else None

    def _run(self, name: str, *tensors: Tensor) -> tuple[Tensor, ...]:
        """What a part of the network computes, by whom it was asked of."""
        part = self.parts[name]
        if self.algebra == "exact":
            with torch.inference_mode():
                out: tuple[Tensor, ...] = part(*tensors)
            return out

        def make() -> Run:
            inputs = [_filled(tensor[:1], rows) for tensor, (_, rows) in zip(tensors, FREE[name], strict=True)]
            return prepare(
                part,
                inputs,
                runtime=self.runtime,
                precision=self.precision,
                free=[axes for axes, _ in FREE[name]],
                cache=self.cache,
                key=f"{name} {self.grid}",
            )

        return self._prepared.get(part, name, make)(*tensors)

    def placed(self, coordinates: Float[np.ndarray, "... 2"], embedding: Embedding) -> Float[np.ndarray, "... 2"]:
        """Pixels (x, y) of the picture as pixels of the network's square."""
        scale = np.array([embedding.kept[1] / embedding.width, embedding.kept[0] / embedding.height])
        return np.asarray(coordinates * scale, float)

    def stretch(self, embedding: Embedding) -> Stretch:
        """The way from logits to the picture's frame."""
        return stretch(self.cells, self.side, embedding.kept, embedding.height, embedding.width)


def _of(shared: Shared, picked: slice, full: int) -> Shared:
    """The part of a shared part that belongs to some prompts, filled up as they are."""
    if len(shared.tokens) == 1:
        return shared
    tokens, places, *rest = shared.parts
    own = [_filled(part[picked], full) for part in (tokens, *rest)]
    return Shared(own[0], places, *own[1:])


def _filled(part: Float[Tensor, "b ..."], full: int) -> Float[Tensor, "full ..."]:
    """So many rows, the last one repeated."""
    short = full - len(part)
    return torch.cat([part, part[-1:].expand(short, *part.shape[1:])]) if short else part


__all__ = ["ALGEBRAS", "AT_ONCE", "Answer", "Embedding", "FREE", "MOST_AT_ONCE", "MaskModel", "ROOM"]
