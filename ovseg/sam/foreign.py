"""Mask networks of transformers with the face of `MaskModel`: HQ-SAM, SAM 2 and 2.1, and SAM 3's clicks.

SAM 2 and 3 squeeze a picture to their square, HQ-SAM pads it as segment-anything does. What else is the network's own:
the sigmoid on SAM 2's qualities, its one mask (the best of three where its own is not stable at 0.98), HQ-SAM's three
masks, best first. How they are walked is told in `families`.
"""

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from PIL import Image
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor

from ovseg.clip.load import pick_device
from ovseg.errors import BadInput, BadUsage, BadWeights, MissingExtra, MissingWeights
from ovseg.sam.decoder import Attend, Shared, share
from ovseg.sam.families import FAMILIES, AnswerMaps, Foreign, family_of
from ovseg.sam.model import AT_ONCE, Answer, Embedding, MaskModel
from ovseg.sam.stretch import Stretch, stretch

SHOWN = 3  # keys that an error names, of each sort


class ForeignModel(MaskModel):
    """The face of `MaskModel` for a network of transformers whose class is in `FAMILIES`; torch in float32."""

    def __init__(
        self,
        network: Any,
        *,
        runtime: str = "torch",
        precision: str = "float32",
        cache: Path | None = None,
        pixels: tuple[Sequence[float], Sequence[float]] | None = None,
    ) -> None:
        if (runtime, precision) != ("torch", "float32"):
            raise BadUsage(
                f"networks of transformers run by torch in float32: got {runtime} in {precision}; leave runtime and "
                "precision out, or take a SAM of segment-anything's form (vit_b, mobile-sam)"
            )
        self.family, self.network = family_of(network), network.eval().requires_grad_(False)
        super().__init__(Foreign(network, self.family))
        self.cuts = self.family.cuts
        self._pixels = pixels or self.family.pixels
        self._attend = Attend(self.sam.mask_decoder).eval()

    @cached_property
    def digest(self) -> str:
        """Of the weights, and of the mean and spread that pixels are normalised with: folders may tell their own."""
        levels = [[float(number) for number in row] for row in self._pixels]
        return hashlib.sha256(f"{super().digest} {levels}".encode()).hexdigest()

    def pixels(self, image: UInt8[np.ndarray, "height width 3"]) -> tuple[Float[Tensor, "1 3 s s"], tuple[int, int]]:
        """The network's input for an RGB picture, and how much of it (rows, cols) holds picture."""
        if self.family.squeezed:
            return squeezed(image, self.side, *self._pixels).to(self.device), (self.side, self.side)
        high, wide = ResizeLongestSide.get_preprocess_shape(*image.shape[:2], self.side)
        rows, cols = max(1, high), max(1, wide)
        small = np.array(Image.fromarray(np.ascontiguousarray(image)).resize((cols, rows), Image.Resampling.BILINEAR))
        normal = _normal(torch.from_numpy(small).permute(2, 0, 1), *self._pixels)
        return F.pad(normal, (0, self.side - cols, 0, self.side - rows))[None].to(self.device), (rows, cols)

    def encode(self, image: UInt8[np.ndarray, "height width 3"]) -> Embedding:
        """The embedding of an RGB picture, with the finer maps that masks are made from."""
        pixels, kept = self.pixels(image)
        with torch.inference_mode():
            # Packed, as they are read back from a file: the last bits depend on the layout.
            features, *maps = (one.contiguous() for one in self.sam.image_encoder(pixels))
        return Embedding(features, image.shape[0], image.shape[1], kept, tuple(maps))

    def fits(self, embedding: Embedding, height: int, width: int) -> None:
        """As of `MaskModel`; the finer maps must be there."""
        super().fits(embedding, height, width)
        if len(embedding.maps) != self.sam.upscale.maps:
            raise BadInput(
                f"this network needs embeddings with {self.sam.upscale.maps} finer maps: got {len(embedding.maps)}, of "
                "another network"
            )

    def shared(self, embedding: Embedding, dense: Float[Tensor, "n channels rows cols"] | None = None) -> Shared:
        """As of `MaskModel`, with the finer maps."""
        encoder = self.sam.prompt_encoder
        with torch.inference_mode():
            nothing = encoder(points=None, boxes=torch.zeros(1, 4, device=self.device), masks=None)[1]
            given = nothing if dense is None else dense
            own = share(self.sam.mask_decoder, embedding.features, given, encoder.get_dense_pe())
        return _SharedMaps(own.tokens, own.positions, own.key, own.value, own.query, embedding.maps)

    def answer(
        self, shared: Shared, prompts: Float[Tensor, "b m channels"], *, single: bool = False
    ) -> Iterator[tuple[slice, Answer]]:
        """As of `MaskModel`; the one mask of SAM 2 is chosen here, since it is the masks that decide."""
        maps = shared.maps if isinstance(shared, _SharedMaps) else ()
        for begin in range(0, len(prompts), AT_ONCE):
            picked = slice(begin, min(begin + AT_ONCE, len(prompts)))
            own = [part if len(part) == 1 else part[picked] for part in shared.parts]
            with torch.inference_mode():
                quality, tokens, image = self._attend(prompts[picked], *own)
                yield picked, self.sam.upscale.chosen(quality, tokens, image, maps, single)

    def logits(
        self, answer: Answer, wanted: Int[Tensor, " n"], *, single: bool = False
    ) -> Float[Tensor, "n masks high wide"]:
        """Masks of the wanted prompts of an answer, at a quarter of the network's side."""
        assert isinstance(answer, AnswerMaps)
        if answer.ready is not None:
            return answer.ready[wanted]
        with torch.inference_mode():
            every = self.sam.upscale(answer.image[wanted], answer.tokens[wanted], *answer.maps)
            out: Tensor = every[:, :1] if single else every[:, 1:]
            if answer.order is not None:
                order = answer.order[wanted][..., None, None].expand_as(out)
                out = out.gather(1, order)
        if not torch.isfinite(out).all():
            raise BadInput(f"mask logits are not finite: torch computes them on {self.device}; check the checkpoint")
        return out

    def stretch(self, embedding: Embedding) -> Stretch:
        """The way from logits to the picture's frame: one step where the picture was squeezed, else two."""
        if not self.family.squeezed:
            return super().stretch(embedding)
        return stretch(self.cells, self.cells[0], self.cells, embedding.height, embedding.width)


def squeezed(
    image: UInt8[np.ndarray, "height width 3"], side: int, mean: Sequence[float], spread: Sequence[float]
) -> Float[Tensor, "1 3 s s"]:
    """A picture resized to a square whatever its shape, as SAM 2 and SAM 3 see it."""
    from torchvision.transforms.v2 import functional as resizing

    levels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
    return _normal(resizing.resize(levels, [side, side], antialias=True), mean, spread)[None]


def _normal(
    levels: UInt8[Tensor, "3 rows cols"], mean: Sequence[float], spread: Sequence[float]
) -> Float[Tensor, "3 rows cols"]:
    centre, width = (torch.tensor(list(row)).view(3, 1, 1) for row in (mean, spread))
    return (levels.float() / 255 - centre) / width


@dataclass(frozen=True, eq=False)
class _SharedMaps(Shared):
    """With the finer maps of the picture."""

    maps: tuple[Tensor, ...] = ()


def open_folder(
    folder: str | Path,
    *,
    device: str = "cpu",
    runtime: str = "torch",
    precision: str = "float32",
    cache: Path | None = None,
) -> ForeignModel:
    """The network in a folder of the hub's form (config.json, model.safetensors), every tensor found, in float32.

    The folder is on this machine: nothing is fetched. Mean and spread of pixels are those of a preprocessor_config.json
    beside, else the family's published ones.
    """
    place = pick_device(device)
    folder = Path(folder).expanduser()
    kind = model_type(folder)
    if kind == "sam3":
        raise BadWeights(
            f"a mask network ({', '.join(['sam', *FAMILIES])}) is needed: {folder} holds SAM 3's text side alone; ask "
            "it phrases by ovseg.sam.concepts.load"
        )
    if kind not in FAMILIES:
        raise BadWeights(
            f"a mask network ({', '.join(['sam', *FAMILIES])}) is needed: config.json in {folder} says {kind}"
        )
    library = transformers()
    network = fetched(library, FAMILIES[kind].network, folder).to(place)
    return ForeignModel(network, runtime=runtime, precision=precision, cache=cache, pixels=pixel_facts(folder))


def model_type(folder: Path) -> str:
    """What the config in a folder of the hub's form says it is."""
    try:
        told = json.loads((folder / "config.json").read_text("utf-8"))
    except OSError as error:
        raise MissingWeights(
            f"a folder with config.json and model.safetensors is needed: {folder} has no config.json that can be read"
        ) from error
    except ValueError as error:
        raise BadWeights(f"config.json in {folder} is no JSON ({error}); fetch it again") from error
    return str(told.get("model_type", "nothing") if isinstance(told, dict) else "nothing")


def fetched(library: Any, name: str, folder: Path) -> Any:
    """The network of that class with the folder's tensors; a sentence if one is missing or of another shape."""
    from safetensors import SafetensorError

    with _quiet(library):
        try:
            network, told = getattr(library, name).from_pretrained(
                str(folder),
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except OSError as error:
            said = str(error).splitlines()[0][:160]
            raise MissingWeights(f"model.safetensors is needed in {folder}: it cannot be opened ({said})") from error
        except SafetensorError as error:
            raise BadWeights(f"model.safetensors in {folder} is damaged ({error}); fetch it again") from error
    shapes = [f"{key} {tuple(came)} for {tuple(wanted)}" for key, came, wanted in sorted(told["mismatched_keys"])]
    faults = [
        f"{len(keys)} {sort} ({', '.join(keys[:SHOWN])}{', ...' if len(keys) > SHOWN else ''})"
        for sort, keys in (("missing", sorted(told["missing_keys"])), ("of another shape", shapes))
        if keys
    ]
    if faults:
        raise BadWeights(f"{name} needs its own tensors: {folder} has {', '.join(faults)}; fetch the folder again")
    return network.eval().requires_grad_(False)


def transformers() -> Any:
    """The library, or the line that installs it."""
    try:
        import transformers as library
    except ImportError as error:
        raise MissingExtra(
            'HQ-SAM, SAM 2 and SAM 3 need transformers, which is not installed: pip install "ovseg[hf]"'
        ) from error
    return library


@contextmanager
def _quiet(library: Any) -> Iterator[None]:
    """No bars and no report while a network is read: what is wrong with it is said by an error."""
    logging = library.utils.logging
    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def pixel_facts(folder: Path) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and spread of pixels in [0, 1], if the folder tells them."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            try:
                told = json.loads((folder / name).read_text("utf-8"))
                told = told.get("image_processor", told)
                if "image_mean" in told and "image_std" in told:
                    return _three(told["image_mean"]), _three(told["image_std"], above=0.0)
            except (ValueError, TypeError, AttributeError) as error:
                raise BadWeights(f"{name} in {folder} tells no mean and spread ({error}); fetch it again") from error
    return None


def _three(numbers: Sequence[float], above: float = -math.inf) -> tuple[float, ...]:
    """A number a colour, or `ValueError`."""
    own = tuple(float(number) for number in numbers)
    if len(own) != 3 or not all(above < number < math.inf for number in own):
        raise ValueError(f"three numbers are needed, got {numbers}")
    return own


__all__ = ["ForeignModel", "fetched", "model_type", "open_folder", "pixel_facts", "squeezed", "transformers"]
