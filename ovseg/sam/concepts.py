"""Everything that a phrase names, by SAM 3 (Carion et al. 2025, arXiv:2511.16719), for those who hold its weights.

The weights are under the "SAM License" and given on request only (facebook/sam3 on the hub, by your own sign-in); no
preset names them. The picture is encoded once, every phrase costs one pass of the rest (SAM 3's issue 168).
Masks are logits stretched to the frame and cut; transformers stretches probabilities, which moves borders by less than
a pixel.

Two phrases are two questions, and SAM 3 says yes to both: "person without safety helmet" scores 0.91 where all wear one
(its issue 393). So compare phrases (`Concepts.contrast`) instead of trusting one score.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Int, UInt8
from torch import Tensor

from ovseg.clip.load import pick_device
from ovseg.errors import BadInput, BadUsage, BadWeights
from ovseg.sam.families import HALF
from ovseg.sam.foreign import fetched, model_type, pixel_facts, squeezed, transformers
from ovseg.sam.runs import Kept
from ovseg.sam.stretch import stretch
from ovseg.types import Regions

TYPES = ("sam3", "sam3_video")
THRESHOLD = 0.5  # SAM 3's own for pictures
TOKENS = 32  # of a phrase


@dataclass(frozen=True, eq=False)
class Concepts:
    """What was found: `regions` with SAM 3's scores as quality, best first, and the number of the phrase of each.

    `best` is the best score that a phrase had anywhere, above the threshold or not; `presence` that it is there at all.
    """

    phrases: tuple[str, ...]
    regions: Regions
    owner: Int[np.ndarray, " n"]
    best: Float32[np.ndarray, " phrases"]
    presence: Float32[np.ndarray, " phrases"]

    def contrast(self, wanted: str, unwanted: str) -> float:
        """How much surer SAM 3 is of one phrase than of its opposite, in [-1, 1]."""
        for phrase in (wanted, unwanted):
            if phrase not in self.phrases:
                raise BadUsage(f"a phrase that was asked is needed ({', '.join(self.phrases)}): got {phrase!r}")
        first, second = (self.best[self.phrases.index(phrase)] for phrase in (wanted, unwanted))
        return float(first - second)


class ConceptModel:
    """SAM 3's text side: transformers' `Sam3Model` and a tokenizer of CLIP's vocabulary, both open."""

    def __init__(self, network: Any, tokenizer: Any, *, pixels: tuple[Sequence[float], Sequence[float]] = HALF) -> None:
        if type(network).__name__ != "Sam3Model":
            raise BadUsage(f"a Sam3Model of transformers is needed: got {type(network).__name__}")
        kinds = sorted({str(value.dtype).removeprefix("torch.") for value in network.parameters()} - {"float32"})
        if kinds:
            raise BadUsage(f"SAM 3 needs float32: this network is in {', '.join(kinds)}; call .float() on it")
        self.network, self.tokenizer = network.eval().requires_grad_(False), tokenizer
        self.side = int(network.config.image_size)
        self.pixels = pixels

    @property
    def device(self) -> torch.device:
        place: torch.device = next(self.network.parameters()).device
        return place

    def find(
        self,
        image: UInt8[np.ndarray, "height width 3"],
        phrases: Sequence[str],
        *,
        threshold: float = THRESHOLD,
    ) -> Concepts:
        """Regions of all that the phrases name in an RGB picture, whose score is above `threshold`."""
        if isinstance(phrases, str):
            raise BadUsage(f"phrases are a list of texts: got the text {phrases!r}; write [{phrases!r}]")
        height, width = image.shape[:2]
        tokens = [self._tokens(phrase) for phrase in phrases]  # told before the network runs
        found: list[tuple[float, int, Kept]] = []
        best, presence = np.zeros(len(phrases), np.float32), np.zeros(len(phrases), np.float32)
        with torch.inference_mode():
            pixels = squeezed(image, self.side, *self.pixels).to(self.device)
            seen = self.network.get_vision_features(pixel_values=pixels) if phrases else None
            for number, one in enumerate(tokens):
                out = self.network(vision_embeds=seen, **one)
                there = out.presence_logits.sigmoid().flatten()[0]
                scores = (out.pred_logits[0].sigmoid() * there).cpu()
                if not torch.isfinite(scores).all():
                    raise BadInput(f"scores of {phrases[number]!r} are not finite: check the checkpoint")
                best[number], presence[number] = float(scores.max()), float(there)
                cells = (out.pred_masks.shape[-2], out.pred_masks.shape[-1])
                way = stretch(cells, cells[0], cells, height, width)
                for query in torch.nonzero(scores > threshold).flatten().tolist():
                    low = out.pred_masks[0, query].float().cpu().numpy()
                    found.append((float(scores[query]), number, Kept.of(way.cut(low, 0.0, 0.0))))
        found.sort(key=lambda one: -one[0])
        quality = np.array([score for score, _, _ in found], np.float32)
        rles = tuple(kept.rle(height, width) for _, _, kept in found)
        owner = np.array([number for _, number, _ in found], np.int64)
        return Concepts(tuple(phrases), Regions(height, width, rles, quality), owner, best, presence)

    def _tokens(self, phrase: str) -> Mapping[str, Tensor]:
        """What the network reads of a phrase; the rest of the row is marked as padding."""
        if not phrase.strip():
            raise BadUsage(f"phrases must not be empty: got {phrase!r}")
        row = self.tokenizer(phrase, padding="max_length", max_length=TOKENS, return_tensors="pt")
        if row["input_ids"].shape[1] > TOKENS:
            raise BadUsage(f"phrases have at most {TOKENS} tokens: {phrase!r} has {row['input_ids'].shape[1]}")
        told = {name: row[name].to(self.device) for name in ("input_ids", "attention_mask")}
        return MappingProxyType(told)


def load(folder: str | Path, *, device: str = "cpu") -> ConceptModel:
    """SAM 3's text side in float32 from a folder of the hub's form: config.json, model.safetensors, tokenizer files."""
    place = pick_device(device)
    folder = Path(folder).expanduser()
    kind = model_type(folder)
    if kind not in TYPES:
        raise BadWeights(f"SAM 3 ({', '.join(TYPES)}) is needed: config.json in {folder} says {kind}")
    if not any(
        (folder / name).is_file() for name in ("tokenizer.json", "vocab.json")
    ):  # transformers makes an empty one
        raise BadWeights(f"SAM 3's tokenizer.json is needed: {folder} has none; fetch the whole folder")
    library = transformers()
    network = fetched(library, "Sam3Model", folder).to(place)
    tokenizer = library.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    return ConceptModel(network, tokenizer, pixels=pixel_facts(folder) or HALF)


__all__ = ["ConceptModel", "Concepts", "THRESHOLD", "TOKENS", "TYPES", "load"]
