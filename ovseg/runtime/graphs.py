"""OpenVINO's side: a module becomes a graph, the graph is compiled for this machine, and the result is kept on disk.

The graph is made by torch's tracing and OpenVINO's frontend, called directly: `openvino.convert_model` reports to its
makers where their telemetry is on, and a program that imported openvino before ovseg has it on. Axes that may vary stay
open in the graph, so another picture size is another shape of the same graph and compiles nothing; nothing is padded.

Kept files are found by all that they depend on: weights, structure, program, versions, processor. They hold the weights
once more (312 MB for eleven blocks of a ViT-B), so only the last used are kept.
"""

import contextlib
import hashlib
import io
import json
import os
import queue
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovseg.errors import BadUsage, MissingExtra
from ovseg.runtime.kernels import Kernels

Free: TypeAlias = Sequence[int] | Sequence[Sequence[int]]  # axes of every input, or a row of axes for each

HINTS = {"float32": "f32", "bfloat16": "bf16"}
KEPT = 8  # files in the cache folder
# What a compiled graph may differ from its module, as a share of the module's largest value: float32 differs by 1e-6,
# bfloat16 by 1e-2 in the depth of a ViT; a graph that computes something else differs by 1.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}

_TRACING = threading.Lock()  # torch.jit.trace keeps global tables


def openvino() -> Any:
    """The package without its telemetry, or the error that says how to get it.

    Importing openvino sends an event over the network (`openvino_telemetry`, unless its user opted out before). Where
    that package is absent openvino takes a stub instead: so it is made absent, for this process and for good.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except ImportError:
        raise MissingExtra('runtime openvino needs the package openvino: pip install "ovseg[openvino]"') from None
    return openvino


class Graph:
    """A compiled graph as a function: tensors in, float32 tensors out. Several threads may call it at once."""

    def __init__(self, compiled: Any) -> None:
        self.compiled = compiled
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        try:
            request = self._idle.get_nowait()
        except queue.Empty:
            request = self.compiled.create_infer_request()
        arrays = [tensor.detach().cpu().float().contiguous().numpy() for tensor in inputs]
        found = request.infer(arrays, share_inputs=True)
        out = tuple(torch.from_numpy(found[port]) for port in self.compiled.outputs)
        self._idle.put(request)
        return out


def graph(
    module: nn.Module,
    inputs: Sequence[Tensor],
    *,
    precision: str = "float32",
    free: Free = (0,),
    cache: Path | None = None,
    key: str = "",
) -> Graph:
    """The module compiled for this machine, read from `cache` where it was kept; `free` axes may vary: of every input,
    or a row of axes for each.

    A new graph is run against the module on `inputs`, and on the first row of each where the batch is free: what
    tracing took for a constant shows there. Raises `MissingExtra` without openvino, and `BadUsage` where the graph
    computes something else.
    """
    core = openvino().Core()
    config = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,  # a pinned thread waits for its core when something else runs there
    }
    shapes = _open_shapes(inputs, free)
    kept = cache / f"{_digest(core, module, shapes, precision, key)}.blob" if cache else None
    if kept and kept.is_file():
        with contextlib.suppress(OSError):
            os.utime(kept)  # the last used are kept
        with contextlib.suppress(RuntimeError):  # damaged, or taken away by another process: it is made anew
            return Graph(core.import_model(openvino().tensor_from_file(str(kept)), "CPU", config))
    with ThreadPoolExecutor(1) as thread:  # its own, where no mode of the caller changes what is traced
        model = thread.submit(_convert, module, inputs, shapes).result()
    compiled = core.compile_model(model, "CPU", config)
    out = Graph(compiled)
    _compare(module, out, inputs, precision)
    firsts = [tensor[:1] if shape[:1] == [-1] else tensor for tensor, shape in zip(inputs, shapes, strict=True)]
    if any(len(first) < len(tensor) for first, tensor in zip(firsts, inputs, strict=True)):
        _compare(module, out, firsts, precision)
    if kept:
        _keep(compiled, kept)
    return out


def _open_shapes(inputs: Sequence[Tensor], free: Free) -> list[list[int]]:
    """The sizes of every input, -1 where they may vary."""
    each: Sequence[Any] = [free] * len(inputs) if all(isinstance(row, int) for row in free) else free
    return [
        [-1 if axis in axes else size for axis, size in enumerate(tensor.shape)]
        for tensor, axes in zip(inputs, each, strict=True)
    ]


def _convert(module: nn.Module, inputs: Sequence[Tensor], shapes: Sequence[Sequence[int]]) -> Any:
    ov = openvino()
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with _TRACING, torch.no_grad(), warnings.catch_warnings(), Kernels(F.linear):
        warnings.simplefilter("ignore")  # jit.trace, which OpenVINO builds on, is deprecated and talks of sizes
        traced: Any = torch.jit.trace(module, tuple(inputs), check_trace=False, strict=False)  # type: ignore[no-untyped-call]
    frontend = FrontEndManager().load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(traced)  # named: the frontend does not keep it alive
    model = frontend.convert(frontend.load(decoder))
    for parameter, shape in zip(model.get_parameters(), shapes, strict=True):
        parameter.set_element_type(ov.Type.f32)
        parameter.set_partial_shape(ov.PartialShape(shape))
    model.validate_nodes_and_infer_types()
    return model


def _compare(module: nn.Module, made: Graph, inputs: Sequence[Tensor], precision: str) -> None:
    with torch.inference_mode():
        wanted = module(*inputs)
    try:
        found = made(*inputs)
    except RuntimeError as error:
        raise BadUsage(
            f"openvino cannot compute this network on inputs of {[tuple(tensor.shape) for tensor in inputs]} "
            f'({str(error).splitlines()[-1]}): take runtime="torch"'
        ) from error
    for want, got in zip(wanted, found, strict=True):
        limit = TOLERANCE[precision] * float(want.abs().max())
        worst = float((want - got).abs().max()) if want.shape == got.shape else float("inf")
        if not worst <= limit:
            raise BadUsage(
                f"openvino computes something else than torch for this network (off by {worst:.1e} where {limit:.1e} "
                'is rounding): take runtime="torch"'
            )


def _digest(core: Any, module: nn.Module, shapes: Sequence[Sequence[int]], precision: str, key: str) -> str:
    """Of everything that a compiled graph depends on; the values of the parameters included."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name}{tensor.dtype}{list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    versions = [metadata.version("openvino"), torch.__version__, core.get_property("CPU", "FULL_DEVICE_NAME")]
    parts = [key, repr(module), precision, shapes, torch.get_num_threads(), versions, _programs(module)]
    digest.update(json.dumps(parts).encode())
    return digest.hexdigest()[:40]


def _programs(module: nn.Module) -> dict[str, str]:
    """A digest of each file that a class of this network stands in, torch's left out: a formula may change while names
    and weights stay. The whole file, since functions beside a class compute as well; other files are not seen."""
    classes = {base for part in module.modules() for base in type(part).__mro__}
    names = sorted({one.__module__ for one in classes if one.__module__.split(".")[0] not in ("builtins", "torch")})
    found = {}
    for name in names:
        spec = getattr(sys.modules.get(name), "__spec__", None)
        if spec is not None and spec.origin is not None and hasattr(spec.loader, "get_data"):
            found[name] = hashlib.sha256(spec.loader.get_data(spec.origin)).hexdigest()
    return found


def _keep(compiled: Any, path: Path) -> None:
    with contextlib.suppress(OSError):  # a cache folder that cannot be written costs time, nothing else
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
            try:
                stream = io.BytesIO()
                compiled.export_model(stream)
                part.write(stream.getbuffer())
                part.close()
                os.replace(part.name, path)
            finally:
                Path(part.name).unlink(missing_ok=True)
        files = sorted(path.parent.glob("*.blob"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in files[KEPT:]:
            old.unlink(missing_ok=True)


__all__ = ["Free", "Graph", "HINTS", "KEPT", "TOLERANCE", "graph", "openvino"]
