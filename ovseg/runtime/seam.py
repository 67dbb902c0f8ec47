"""One seam between what a network computes and who computes it: a module and example inputs in, a function out.

"torch" runs the module itself under `Kernels`; in bfloat16 linear layers and attention are halved, sums and norms stay
float32. "openvino" (an extra, for CPUs) runs it as a compiled graph. Both give float32 up to rounding.
"""

import threading
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from ovseg.errors import BadUsage, UnknownName
from ovseg.runtime import graphs
from ovseg.runtime.graphs import Free
from ovseg.runtime.kernels import Kernels, half_linear, uses_onednn

Run: TypeAlias = Callable[..., tuple[Tensor, ...]]

PRECISIONS = ("float32", "bfloat16")
MOST_PREPARED = 8  # of one network: each may hold its weights once more


def prepare(
    module: nn.Module,
    inputs: Sequence[Tensor],
    *,
    runtime: str = "torch",
    precision: str = "float32",
    free: Free = (0,),
    cache: Path | None = None,
    key: str = "",
) -> Run:
    """A function that computes what `module` computes: tensors like `inputs` in, a tuple of float32 tensors out.

    `module` returns a tuple of tensors, is in evaluation mode and is left as it is. `free` axes of the inputs may have
    other sizes later: of every input, or a row of axes for each. `cache` is a folder for what is dear to make, and
    `key` tells modules apart that have the same parts and weights. The weights are those of now: `Prepared` notices
    when they change.
    """
    check(runtime, precision, inputs[0].device)
    return RUNTIMES[runtime](module, inputs, precision=precision, free=free, cache=cache, key=key)


def check(runtime: str, precision: str, device: torch.device | None = None) -> None:
    """Nothing, or the error that says why this runtime cannot compute at this precision on this device.

    Without a device the names alone are checked: they may be meant for another machine.
    """
    if runtime not in RUNTIMES:
        raise UnknownName.of("runtime", runtime, RUNTIMES)
    if precision not in PRECISIONS:
        raise UnknownName.of("precision", precision, PRECISIONS)
    if runtime == "openvino" and device is not None:
        graphs.openvino()
        if device.type != "cpu":
            raise BadUsage(f'runtime openvino computes on the CPU: the network is on {device}; take runtime="torch"')


def describe(runtime: str, precision: str, device: torch.device | None = None) -> str:
    """Who computes, in a few words for a line of a log.

    >>> describe("openvino", "bfloat16")
    'openvino, bfloat16'
    """
    fast = runtime == "torch" and (device is None or device.type == "cpu") and uses_onednn()
    return f"{runtime}{' with oneDNN' if fast else ''}, {precision}"


@contextmanager
def kernels(device: torch.device) -> Iterator[None]:
    """While it lasts, this thread's float32 networks on `device` run on the fastest kernels that torch has for them."""
    with Kernels() if device.type == "cpu" else nullcontext():
        yield


class Prepared:
    """What was prepared for one network, found again by what it depends on; made once when two threads ask at once.

    The last `MOST_PREPARED` asked are kept: a tower that turns by its grid is prepared anew for every size of picture.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[Hashable, tuple[Hashable, Run]] = {}

    def get(self, network: nn.Module, key: Hashable, make: Callable[[], Run]) -> Run:
        """The run of `key`, made by `make` if there is none, or if the network's parameters changed since."""
        now = tuple((part.data_ptr(), 0 if part.is_inference() else part._version) for part in network.parameters())
        with self._lock:
            kept = self._runs.pop(key, None)
            if kept is None or kept[0] != now:
                kept = (now, make())
            self._runs[key] = kept  # the last asked stands last
            if len(self._runs) > MOST_PREPARED:
                del self._runs[next(iter(self._runs))]
            return kept[1]


def _torch(module: nn.Module, inputs: Sequence[Tensor], *, precision: str, **_: Any) -> Run:
    device = inputs[0].device
    if precision == "float32":

        def run(*tensors: Tensor) -> tuple[Tensor, ...]:
            with torch.inference_mode(), kernels(device):
                return _float32(module(*tensors))

        return run

    originals = [part for part in module.parameters() if part.dtype == torch.float32 and part.ndim <= 2]
    halves = {id(part): part.detach().to(torch.bfloat16) for part in originals}

    def run_half(*tensors: Tensor) -> tuple[Tensor, ...]:
        # autocast gives the policy (what is summed stays float32), Kernels the weights that are cast already
        _ = originals  # an id stays taken as long as its tensor lives
        with torch.inference_mode(), torch.autocast(device.type, torch.bfloat16), Kernels(half_linear(halves)):
            return _float32(module(*tensors))

    return run_half


def _openvino(
    module: nn.Module, inputs: Sequence[Tensor], *, precision: str, free: Free, cache: Path | None, key: str
) -> Run:
    return graphs.graph(module, inputs, precision=precision, free=free, cache=cache, key=key)


def _float32(out: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.float() for tensor in out)


RUNTIMES: Mapping[str, Callable[..., Run]] = MappingProxyType({"torch": _torch, "openvino": _openvino})

__all__ = ["MOST_PREPARED", "PRECISIONS", "Prepared", "RUNTIMES", "Run", "check", "describe", "kernels", "prepare"]
