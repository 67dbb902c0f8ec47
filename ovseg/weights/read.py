"""What is in a checkpoint: a plain state dict, whatever the file's format.

It knows nothing of networks: `clip/load` and `sam/load` put the tensors into them.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovseg.errors import BadWeights, MissingWeights
from ovseg.weights.check import path, recognise

if TYPE_CHECKING:
    import torch


def state(name: str, explicit: str | Path | None = None) -> "dict[str, torch.Tensor]":
    """The checked file under this name, read."""
    return read_state(path(name, explicit))


def read_state(file: Path, *, allow_pickle: bool = False) -> "dict[str, torch.Tensor]":
    """The tensors of a checkpoint by key, on the CPU, in the type they are stored in.

    The format is told by the first bytes, not by the name: safetensors, a torch pickle, or the TorchScript archive that
    OpenAI publishes. Pickles are opened when the manifest knows their digest (`recognise`), else only with
    `allow_pickle`, and then as data alone (`weights_only=True`); a TorchScript archive cannot be opened as data alone.
    A dict under "state_dict" or "model" is unwrapped, and the "module." of a parallel wrapper is taken off the keys.
    OpenAI's archives keep three sizes among the tensors (input_resolution, context_length, vocab_size): they stay.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        with file.open("rb") as opened:
            head = opened.read(9)
    except OSError as error:
        raise MissingWeights(f"a checkpoint is needed: {file} cannot be opened ({error.strerror})") from error
    if head[8:9] == b"{" and not head.startswith(b"PK"):
        try:
            return _plain(load_file(file), file)
        except SafetensorError as error:
            raise BadWeights(_broken(file, error)) from error
    if not head.startswith((b"PK", b"\x80")):
        raise BadWeights(f"a checkpoint (safetensors or torch) is needed: {file} is neither; fetch it again")
    if not allow_pickle and recognise(file) is None:
        raise BadWeights(
            f"safetensors are needed: {file} is a pickle that the manifest does not know, and a pickle can run code; "
            "convert it, or allow pickles (--allow-pickle) if you trust where it is from"
        )
    if allow_pickle and recognise(file) is None:
        import logging

        logging.getLogger("ovseg").warning("opening %s, a pickle that the manifest does not know", file)
    return _plain(_unpickled(file), file)


def _unpickled(file: Path) -> Any:
    import pickle
    import warnings
    from zipfile import BadZipFile

    import torch

    try:
        if _is_torchscript(file):
            with warnings.catch_warnings():  # torch.jit is deprecated, but OpenAI's files have no other reader
                warnings.simplefilter("ignore", FutureWarning)
                return torch.jit.load(file, map_location="cpu").state_dict()  # type: ignore[no-untyped-call]
        return torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, BadZipFile, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise BadWeights(_broken(file, error)) from error


def _is_torchscript(file: Path) -> bool:
    """TorchScript archives hold constants.pkl; what torch.save writes does not."""
    import zipfile

    if not zipfile.is_zipfile(file):
        return False
    with zipfile.ZipFile(file) as archive:
        return any(member.endswith("/constants.pkl") for member in archive.namelist())


def _broken(file: Path, error: Exception) -> str:
    said = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
    return f"a whole checkpoint is needed: {file} cannot be read ({said}); fetch it again"


def _plain(loaded: Any, file: Path) -> "dict[str, torch.Tensor]":
    import torch

    for wrapper in ("state_dict", "model"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(wrapper), Mapping):
            loaded = loaded[wrapper]
    if not isinstance(loaded, Mapping) or not loaded or not all(isinstance(v, torch.Tensor) for v in loaded.values()):
        raise BadWeights(f"a state dict (tensors by name) is needed: {file} holds {_described(loaded)}")
    if all(key.startswith("module.") for key in loaded):
        return {key.removeprefix("module."): value for key, value in loaded.items()}
    return dict(loaded)


def _described(loaded: Any) -> str:
    if not isinstance(loaded, Mapping):
        return f"a {type(loaded).__name__}"
    others = [f"{key}: {type(value).__name__}" for key, value in loaded.items() if not hasattr(value, "shape")]
    return f"also {', '.join(others[:3])}" if others else "nothing"


__all__ = [
    "read_state",
    "state",
]
