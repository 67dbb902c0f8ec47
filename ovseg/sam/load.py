"""Opening a Segment Anything checkpoint: the right network for the tensors in a file, every key matched, or a sentence.

`load_model` gives any of them the face of `MaskModel`, `load` segment-anything's own network. What ovseg does not run
is told by its tensors: `OTHERS`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn

from ovseg.clip.load import pick_device
from ovseg.errors import BadUsage, BadWeights, UnknownName
from ovseg.sam import mobile
from ovseg.sam.foreign import ForeignModel, model_type, open_folder
from ovseg.sam.model import MaskModel
from ovseg.sam.networks import KINDS, PIXEL_MEAN, PIXEL_STD, SamShape, build, kind_of
from ovseg.weights import read_state

SHOWN = 3  # keys that an error names, of each sort

_PLACES = "prompt_encoder.pe_layer"
# transformers' names of SAM 1 into segment-anything's, in this order.
HUB_NAMES = tuple(
    (re.compile(pattern), own)
    for pattern, own in (
        (r"^shared_image_embedding\.positional_embedding$", f"{_PLACES}.positional_encoding_gaussian_matrix"),
        (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
        (r"^prompt_encoder\.mask_embed\.conv1\.", "prompt_encoder.mask_downscaling.0."),
        (r"^prompt_encoder\.mask_embed\.layer_norm1\.", "prompt_encoder.mask_downscaling.1."),
        (r"^prompt_encoder\.mask_embed\.conv2\.", "prompt_encoder.mask_downscaling.3."),
        (r"^prompt_encoder\.mask_embed\.layer_norm2\.", "prompt_encoder.mask_downscaling.4."),
        (r"^prompt_encoder\.mask_embed\.conv3\.", "prompt_encoder.mask_downscaling.6."),
        (r"^mask_decoder\.upscale_conv1\.", "mask_decoder.output_upscaling.0."),
        (r"^mask_decoder\.upscale_layer_norm\.", "mask_decoder.output_upscaling.1."),
        (r"^mask_decoder\.upscale_conv2\.", "mask_decoder.output_upscaling.3."),
        (r"^(mask_decoder\.(?:output_hypernetworks_mlps\.\d+|iou_prediction_head))\.layers\.0\.", r"\1.layers.1."),
        (r"^(mask_decoder\..*)\.proj_in\.", r"\1.layers.0."),
        (r"^(mask_decoder\..*)\.proj_out\.", r"\1.layers.2."),
        (r"^(mask_decoder\.transformer\..*)layer_norm", r"\1norm"),
        (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
        (r"^vision_encoder\.neck\.conv1\.", "image_encoder.neck.0."),
        (r"^vision_encoder\.neck\.layer_norm1\.", "image_encoder.neck.1."),
        (r"^vision_encoder\.neck\.conv2\.", "image_encoder.neck.2."),
        (r"^vision_encoder\.neck\.layer_norm2\.", "image_encoder.neck.3."),
        (r"^vision_encoder\.layers\.(\d+)\.layer_norm", r"image_encoder.blocks.\1.norm"),
        (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
        (r"^vision_encoder\.", "image_encoder."),
    )
)
HUB_MARK = "shared_image_embedding.positional_embedding"
HUB_TIED = "prompt_encoder.shared_embedding.positional_embedding"  # the same numbers a second time

# Networks that are no segment-anything, by a tensor that only they have: what they are, and what to do.
OTHERS: Mapping[str, str] = MappingProxyType(
    {
        r"image_encoder\.features\.\d+\.token_mixer\.": "EdgeSAM, whose licence (S-Lab) forbids commercial use, so "
        "ovseg does not run it; take mobile-sam, or give its masks through the proposer `files`",
        r"pe\.": "OV-SAM, whose licence (S-Lab) forbids commercial use, so ovseg does not run it; take a SAM and "
        "ovseg's own names, or give its masks through the proposer `files`",
        r"(model\.)?model\.\d+\.(proto|cv\d|m\.\d|conv)\.": "FastSAM (a YOLO), whose file is under AGPL-3.0, so ovseg "
        "does not run it; take mobile-sam, or give its masks through the proposer `files`",
        r"mask_decoder\.(hf_token|hf_mlp|compress_vit_feat)\b": "HQ-SAM as its authors save it; give load_model the "
        "folder of its form for transformers (syscv-community/sam-hq-vit-base)",
        r"(sam_mask_decoder|image_encoder\.trunk)\.": "SAM 2 as Meta saves it; give load_model the folder of its form "
        "for transformers (facebook/sam2.1-hiera-tiny)",
        r"(detector|tracker)\.": "SAM 3 as Meta saves it; give load_model the folder of its form for transformers "
        "(facebook/sam3)",
    }
)


def load(path: str | Path, kind: str | None = None, *, device: str = "cpu", allow_pickle: bool = False) -> Sam:
    """The network of a checkpoint, in float32, on `device`, ready to run; `kind` is read off the tensors if not given.

    A file that lacks a tensor, has one too many or one of another shape is refused. Published SAM files are pickles:
    those whose digest the manifest knows are opened (as data alone), others only with `allow_pickle`. A folder in the
    hub's form whose config.json says "sam" is opened as well; it holds the same network under other names.
    """
    place = pick_device(device)
    path = Path(path).expanduser()
    path = path / "model.safetensors" if path.is_dir() else path
    _not_a_yolo(path)
    state = _own_names(read_state(path, allow_pickle=allow_pickle))
    found = kind_of(state)
    wanted = found if kind is None else kind
    if wanted is not None and wanted not in KINDS:
        raise UnknownName.of("kind of SAM", wanted, KINDS)
    _known(state, path, nothing=wanted is None)
    assert wanted is not None, "what is of no kind is refused above"
    if found is not None and found != wanted:
        raise BadWeights(f"SAM {wanted} is needed: {path} holds {found}; leave the kind out, or give another file")
    with torch.device("meta"):  # no time and memory for numbers that are overwritten
        sam = build(KINDS[wanted])
    _match(sam, state, f"SAM {wanted}", path)
    own = sam.state_dict()  # counters of batch norms are whole numbers
    sam.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()}, strict=True, assign=True)
    sam.pixel_mean = torch.tensor(PIXEL_MEAN).view(-1, 1, 1)  # not in the file
    sam.pixel_std = torch.tensor(PIXEL_STD).view(-1, 1, 1)
    sam.cuts = KINDS[wanted].cuts
    return sam.requires_grad_(False).eval().to(place)


def load_model(
    source: str | Path | nn.Module,
    kind: str | None = None,
    *,
    device: str = "cpu",
    runtime: str = "torch",
    precision: str = "float32",
    cache: str | Path | None = None,
    allow_pickle: bool = False,
) -> MaskModel:
    """A mask network by its path, ready for prompts; or one that is open already, of segment-anything or transformers.

    A path is a checkpoint of a row of `KINDS`, or a folder in the hub's form (config.json, model.safetensors): SAM 1,
    HQ-SAM, SAM 2 and 2.1, SAM 3's clicks. The last three need the extra `hf` and run by torch in float32. `cache` is a
    folder for compiled graphs of other runtimes.
    """
    folder = None if cache is None else Path(cache)
    if isinstance(source, nn.Module):
        if kind is not None:
            raise BadUsage(f"a network that is open has its kind: got {type(source).__name__} and kind {kind!r}")
        own = source.to(pick_device(device))
        face = MaskModel if hasattr(own, "image_encoder") else ForeignModel
        return face(own, runtime=runtime, precision=precision, cache=folder)
    path = Path(source).expanduser()
    inside = path if path.is_dir() else path.parent
    if path.is_dir() or (path.name == "model.safetensors" and (inside / "config.json").is_file()):
        said = model_type(inside)
        if said != "sam" and kind is not None:
            raise BadUsage(f"a folder of the hub's form says its family itself ({said}): leave the kind {kind!r} out")
        if said != "sam":
            return open_folder(inside, device=device, runtime=runtime, precision=precision, cache=folder)
    sam = load(path, kind, device=device, allow_pickle=allow_pickle)
    return MaskModel(sam, runtime=runtime, precision=precision, cache=folder)


def _own_names(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """The same tensors under segment-anything's names, if they are MobileSAM's or transformers' SAM 1."""
    if mobile.MARK in state:
        return mobile.renamed(state)
    if HUB_MARK not in state or not any(key.startswith("vision_encoder.layers.") for key in state):
        return state
    out = {}
    for key, value in state.items():
        if key == HUB_TIED:
            continue
        for pattern, own in HUB_NAMES:
            key = pattern.sub(own, key)
        out[key] = value
    return out


def _known(state: Mapping[str, Tensor], path: Path, *, nothing: bool) -> None:
    """Nothing, or the sentence about a network of another family; `nothing` says that it has no kind of ours."""
    for pattern, what in OTHERS.items():
        if any(re.match(pattern, key) for key in state):
            raise BadWeights(f"a SAM checkpoint ({', '.join(KINDS)}) is needed: {path} is {what}")
    if nothing:
        raise BadWeights(
            f"a SAM checkpoint ({', '.join(KINDS)}) is needed: {path} holds {len(state)} tensors of something else "
            f"({_listed(list(state))})"
        )


def _not_a_yolo(path: Path) -> None:
    """Nothing, or the sentence about FastSAM's pickle, which holds a whole program's objects and cannot be opened."""
    import zipfile

    if not path.is_file() or not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            if member.endswith("data.pkl") and b"ultralytics" in archive.read(member):
                what = next(text for text in OTHERS.values() if text.startswith("FastSAM"))
                raise BadWeights(f"a SAM checkpoint ({', '.join(KINDS)}) is needed: {path} is {what}")


def _match(sam: Sam, state: Mapping[str, Tensor], what: str, path: Path) -> None:
    """Nothing, or `BadWeights` that names the tensors in which a file and its network differ."""
    wanted = sam.state_dict()
    missing = [key for key in wanted if key not in state]
    stray = [key for key in state if key not in wanted]
    shapes = [
        f"{key} {tuple(state[key].shape)} for {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in state and state[key].shape != value.shape
    ]
    faults = [
        f"{len(keys)} {sort} ({_listed(keys)})"
        for sort, keys in (("missing", missing), ("unexpected", stray), ("of another shape", shapes))
        if keys
    ]
    if faults:
        raise BadWeights(
            f"{what} needs its own {len(wanted)} tensors: {path} has {', '.join(faults)}; fetch the file again, or "
            "give one of this kind"
        )


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")


__all__ = [
    "HUB_NAMES",
    "KINDS",
    "OTHERS",
    "PIXEL_MEAN",
    "PIXEL_STD",
    "SamShape",
    "build",
    "kind_of",
    "load",
    "load_model",
]
