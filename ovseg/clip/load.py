"""Opening a CLIP network: by a name of `BACKBONES`, by open_clip's architecture and tag, from a file, or ready-made.

A checkpoint must fit its network key by key and shape by shape, or it is refused with the keys that do not fit. Nothing
is downloaded here: `ovseg weights pull` does that. Mean and deviation of pixels are those that open_clip names for the
architecture's published weights (SigLIP and PE 0.5, MobileCLIP 0 and 1, CLIPA ImageNet's, all others OpenAI's). Towers
that read words by a tokenizer of transformers (SigLIP, CLIPA, XLM-R, NLLB) need its files: `hub`.

What a checkpoint brings for a region encoder (`PARTS`: Alpha-CLIP's fourth channel, OVSeg's mask prompts) is kept
beside the network; checkpoints of other programs are read under their own names (`keymaps`).
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovseg import weights
from ovseg.clip import families, hub, keymaps
from ovseg.clip.backbones import BACKBONES
from ovseg.errors import BadUsage, BadWeights, MissingDevice, MissingWeights, UnknownName
from ovseg.runtime import Prepared

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
PARTS = ("conv1_alpha.weight", "mask_embedding")  # of the vision side, which no network of open_clip's has


@dataclass(frozen=True, eq=False)
class Clip:
    """An open CLIP network with what belongs to it: tokenizer, mean and deviation of its pixels, where it is.

    `learned` holds the names that a small model was taught; None where the vocabulary is open. `prepared` is what
    runtimes made of the network. `parts` are tensors that its file brought for region encoders, by name (`PARTS`).
    """

    name: str
    model: Any
    tokenizer: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device
    learned: frozenset[str] | None = None
    prepared: Prepared = field(default_factory=Prepared, repr=False)
    parts: Mapping[str, Tensor] = field(default_factory=dict, repr=False)

    @property
    def visual(self) -> Any:
        """The vision tower."""
        return self.model.visual

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width that the tower was trained at, in pixels."""
        size = self.visual.image_size
        return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    @property
    def dim(self) -> int:
        """Length of a picture's or a text's vector; towers of timm's do not say it, their walk does."""
        said = getattr(self.visual, "output_dim", None)
        return families.find(self.visual).dim if said is None else int(said)

    @property
    def context_length(self) -> int:
        """Tokens that the text tower reads, start and end included."""
        return int(self.model.context_length)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of all parameters, in hex: what a result of this network depends on."""
        return _digest(self.model.state_dict() | {f"parts.{name}": part for name, part in self.parts.items()})

    @cached_property
    def text_fingerprint(self) -> str:
        """sha256 of the text side alone: parameters, activation, tokenizer, context length."""
        text = {key: value for key, value in self.model.state_dict().items() if not key.startswith("visual.")}
        tower = getattr(self.model, "text", self.model)
        kinds = sorted({type(part).__name__ for part in tower.modules()})
        named = getattr(self.tokenizer, "name", type(self.tokenizer).__name__)
        merges = getattr(self.tokenizer, "bpe_ranks", named)
        return _digest(text, repr((kinds, self.context_length, getattr(self.model, "text_pool_type", ""), merges)))


def load(
    spec: str = "tiny",
    *,
    device: str = "cpu",
    folder: str | Path | None = None,
    allow_pickle: bool = False,
    tokenizer: Any = None,
) -> Clip:
    """The network that `spec` names, in evaluation mode, float32, on `device`.

    `spec` is a name of `BACKBONES`; `ARCHITECTURE/TAG` of open_clip, its file in the Hugging Face cache;
    `ARCHITECTURE@FILE`; or a FILE with a description (`model_cfg` in its metadata, or a .json of the same name beside
    it). `tokenizer` is taken in place of the architecture's own, for a machine where that is not to be had: a callable
    of texts and `context_length`. Raises `UnknownName`, `MissingWeights`, `BadWeights`, `MissingExtra` or
    `MissingDevice`.
    """
    place = pick_device(device)
    known = {name.casefold(): name for name in BACKBONES}
    if spec.casefold() in known:
        return _with(tokenizer, _known(known[spec.casefold()], place, folder))
    architecture, at, file = spec.partition("@")
    if at:
        return _of_architecture(architecture, Path(file).expanduser(), spec, place, allow_pickle, tokenizer=tokenizer)
    if Path(spec).suffix.lower() in CHECKPOINT_SUFFIXES:
        return _with(tokenizer, _described(Path(spec).expanduser(), spec, place, allow_pickle))
    if Path(spec).expanduser().exists():
        raise BadUsage(f"a checkpoint ends in {', '.join(CHECKPOINT_SUFFIXES)}: {spec} does not")
    return _tagged(spec, place, allow_pickle, tokenizer)


def wrap(
    model: nn.Module,
    tokenizer: Any,
    *,
    name: str = "own",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Clip:
    """A network that the caller built with open_clip, left as it is, on the device where it is.

    Mean and deviation are taken from the network (open_clip writes them there) unless given.
    """
    if model.training:
        raise BadUsage("the network is in training mode, where dropout changes every answer: call .eval() first")
    half = {part.dtype for part in model.parameters()} & {torch.float16, torch.bfloat16}
    if half:
        raise BadUsage(
            f"the network holds {str(half.pop()).removeprefix('torch.')} parameters and is read in float32: call "
            '.float() first; precision="bfloat16" halves the blocks where they run'
        )
    visual: Any = model.visual
    mean = mean or getattr(visual, "image_mean", None) or OPENAI_MEAN
    std = std or getattr(visual, "image_std", None) or OPENAI_STD
    return Clip(name, model, tokenizer, tuple(mean), tuple(std), next(model.parameters()).device)


def pick_device(device: str) -> torch.device:
    """The device asked for, or an error; "auto" is the first GPU if there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(device)
    except RuntimeError:
        raise BadUsage(f"device must be auto, cpu, cuda, cuda:N or mps: got {device!r}") from None
    count = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (place.index or 0) >= count.get(place.type, 0):
        raise MissingDevice(f"device {device} is not on this machine: take cpu, or auto for the best one that is here")
    return place


def fill(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Put a state dict into a network, every key matched and none left over.

    OpenAI's files carry three numbers beside the tensors, and files of open_clip's two-tower class say `text.` before
    the text side, where the others do not: all are understood. What nothing is computed from may lack (the counters of
    batch norms) or be there (`position_ids`). Half precision becomes what the network holds (float32).
    """
    state = {key: value for key, value in state.items() if key not in OPENAI_EXTRAS | {POSITION_IDS}}
    wanted = model.state_dict()
    state = {key: value for key, value in wanted.items() if key.endswith("num_batches_tracked")} | state
    said, asked = (any(key.startswith("text.") for key in keys) for keys in (state, wanted))
    if said and not asked:
        state = {key.removeprefix("text."): value for key, value in state.items()}
    elif asked and not said:
        state = {key if key.startswith(("visual.", "logit_")) else f"text.{key}": value for key, value in state.items()}
    for key in {"logit_scale", "logit_bias"} & state.keys() & wanted.keys():
        state[key] = state[key].reshape(wanted[key].shape)
    missing, extra = sorted(set(wanted) - set(state)), sorted(set(state) - set(wanted))
    if missing or extra:
        raise BadWeights(
            f"the checkpoint must fit the network key by key: {source} lacks {_some(missing)} and has {_some(extra)} "
            "that the network does not know; is it of another architecture?"
        )
    for key, value in state.items():
        if value.shape != wanted[key].shape:
            raise BadWeights(
                f"the checkpoint must fit the network shape by shape: {key} of {source} is {list(value.shape)} and the "
                f"network needs {list(wanted[key].shape)}; is it of another architecture or picture size?"
            )
    model.load_state_dict(state)


OPENAI_EXTRAS = frozenset({"input_resolution", "context_length", "vocab_size"})
POSITION_IDS = "text.transformer.embeddings.position_ids"  # older releases of transformers stored a range


def _known(name: str, device: torch.device, folder: str | Path | None) -> Clip:
    row = BACKBONES[name]
    here = [weight for weight in row.weights if weights.find(weight, folder)]
    file = weights.path(here[0] if here else row.weights[0], folder)  # the second raises, and says how to get it
    if row.architecture:
        return _of_architecture(row.architecture, file, name, device, False)
    return _described(file, name, device, False)


def _with(tokenizer: Any, clip: Clip) -> Clip:
    return clip if tokenizer is None else replace(clip, tokenizer=tokenizer)


def _tagged(spec: str, device: torch.device, allow_pickle: bool, tokenizer: Any) -> Clip:
    """`ARCHITECTURE/TAG` of open_clip's own list, from the Hugging Face cache alone."""
    import open_clip
    from huggingface_hub import try_to_load_from_cache

    architecture, _, tag = spec.rpartition("/")
    pairs = {f"{a}/{t}": (a, t) for a, t in open_clip.list_pretrained()}
    if spec not in pairs:
        raise UnknownName.of("model", spec, [*BACKBONES, *pairs] if tag and architecture else BACKBONES)
    row = open_clip.get_pretrained_cfg(architecture, tag)
    config = open_clip.get_model_config(architecture)
    if row.get("quick_gelu") and not config.get("quick_gelu"):
        quick = f"{architecture}-quickgelu"
        architecture = quick if quick in open_clip.list_models() else architecture
    repository = row.get("hf_hub", "").strip("/")
    names = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
    for file in names if repository else ():
        found = try_to_load_from_cache(repository, file)
        if isinstance(found, str):
            moments = tuple(row["mean"]), tuple(row["std"])
            return _of_architecture(architecture, Path(found), spec, device, allow_pickle, moments, tokenizer)
    where = f"huggingface-cli download {repository} {names[0]}" if repository else f"a download of {row.get('url')}"
    raise MissingWeights(
        f"the weights of {spec} are not in the Hugging Face cache: run `{where}` where there is a network, or give the "
        f"file as --model {architecture}@FILE"
    )


def _of_architecture(
    architecture: str,
    file: Path,
    name: str,
    device: torch.device,
    allow_pickle: bool,
    moments: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    tokenizer: Any = None,
) -> Clip:
    """A checkpoint in a network of open_clip's list; without `moments`, those of its published weights."""
    import open_clip

    if architecture not in open_clip.list_models():
        raise UnknownName.of("architecture", architecture, open_clip.list_models())
    state, parts = _set_aside(_read(file, allow_pickle))
    if OPENAI_EXTRAS & set(state) and not open_clip.get_model_config(architecture).get("quick_gelu"):
        raise BadUsage(
            f"{file.name} is of OpenAI, whose weights need QuickGELU: say {architecture}-quickgelu@{file} (with plain "
            "GELU every answer would be a little wrong)"
        )
    tokenizer = tokenizer or hub.tokenizer(architecture, file.parent)
    hub.require_text_tower(architecture)
    model = open_clip.create_model(architecture, pretrained=None, load_weights=False, pretrained_text=False)
    fill(model, state, str(file))
    mean, std = moments or _moments(architecture)
    return Clip(name, model.eval().to(device), tokenizer, mean, std, device, parts=parts)


def _moments(architecture: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and deviation of all published weights of an architecture; OpenAI's where these differ or none is known."""
    import open_clip

    rows = [
        open_clip.get_pretrained_cfg(architecture, tag) for tag in open_clip.list_pretrained_tags_by_model(architecture)
    ]
    found = {(tuple(row["mean"]), tuple(row["std"])) for row in rows}
    return found.pop() if len(found) == 1 else (OPENAI_MEAN, OPENAI_STD)


def _described(file: Path, name: str, device: torch.device, allow_pickle: bool) -> Clip:
    """A checkpoint that says itself what network it is of: a JSON beside it, or in its metadata."""
    import open_clip

    config = _description(file)
    if config is None:
        raise BadUsage(
            f"{file} does not say what network it is of: name it, as ARCHITECTURE@{file}, with an architecture of "
            f"open_clip.list_models() (for OpenAI's weights for instance ViT-B-16-quickgelu@{file.name})"
        )
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    try:
        model = kind(
            config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=config.get("quick_gelu", False)
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:  # the last: a name that timm does not know
        raise BadWeights(f"the description of {file} is not open_clip's model_cfg: {error}") from error
    state, parts = _set_aside(_read(file, allow_pickle))
    fill(model, state, str(file))
    pixels = config.get("preprocess", {})
    mean, std = pixels.get("mean", OPENAI_MEAN), pixels.get("std", OPENAI_STD)
    context = config["text_cfg"].get("context_length", 77)
    merges, learned = file.with_name("bpe.txt.gz"), file.with_name("names.json")
    tokenizer = open_clip.tokenizer.SimpleTokenizer(
        **({"bpe_path": str(merges)} if merges.is_file() else {}), context_length=context
    )
    if len(tokenizer.encoder) != model.vocab_size:
        raise BadWeights(
            f"{file} needs its own bpe.txt.gz beside it: {model.vocab_size} tokens, not {tokenizer.vocab_size}"
        )
    names = frozenset(_learned(json.loads(learned.read_text("utf-8")))) if learned.is_file() else None
    return Clip(name, model.eval().to(device), tokenizer, tuple(mean), tuple(std), device, names, parts=parts)


def _description(file: Path) -> dict[str, Any] | None:
    beside = file.with_suffix(".json")
    if beside.is_file():
        loaded: dict[str, Any] = json.loads(beside.read_text("utf-8"))
        return loaded
    if file.suffix == ".safetensors" and file.is_file():
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(file, "pt") as opened:
                text = (opened.metadata() or {}).get("model_cfg")
        except SafetensorError as error:
            raise BadWeights(f"{file} is no whole safetensors file: {error}; fetch it again") from error
        loaded = json.loads(text) if text else {}
        return loaded or None
    return None


def _learned(names: dict[str, Any]) -> list[str]:
    things = [word for name, synonyms in names["names"].items() for word in (name, *synonyms)]
    return [word.casefold() for word in (*things, *names["ground"], names["generic_background"])]


def _read(file: Path, allow_pickle: bool) -> dict[str, Tensor]:
    if not file.is_file():
        raise MissingWeights(f"the checkpoint is not there: {file}")
    return weights.read_state(file, allow_pickle=allow_pickle)


def _set_aside(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The network's own tensors, and those that belong to region encoders, by their name in `PARTS`."""
    state = keymaps.translated(state)
    parts = {name: state[f"visual.{name}"] for name in PARTS if f"visual.{name}" in state}
    return {key: value for key, value in state.items() if key.removeprefix("visual.") not in parts}, parts


def _some(keys: list[str]) -> str:
    shown = ", ".join(keys[:3]) or "no key"
    return shown + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _digest(state: dict[str, Tensor], extra: str = "") -> str:
    digest = hashlib.sha256(extra.encode())
    for key in sorted(state):
        tensor = state[key].detach().to("cpu").contiguous()
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


__all__ = ["Clip", "PARTS", "fill", "load", "pick_device", "wrap"]
