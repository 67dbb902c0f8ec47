"""A module and its prepared run give the same, whoever computes; at sizes that the example had not, in two threads."""

import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import tiny
from ovseg import runtime
from ovseg.clip.walk import Prefix, Vit
from ovseg.errors import BadUsage, MissingExtra, UnknownName
from ovseg.runtime.seam import MOST_PREPARED

PAIRS = [(name, precision) for name in runtime.RUNTIMES for precision in runtime.PRECISIONS]
WITHIN = {"float32": 1e-5, "bfloat16": 0.03}  # of values up to about 4


def prefix(*taps: int, **options: object) -> Prefix:
    return Prefix(Vit(tiny.model(layers=4, **options).visual), taps or (1, 3, 4), (6, 10)).eval()  # type: ignore[arg-type]


def tokens(batch: int = 2, count: int = 61, seed: int = 0) -> Tensor:
    return torch.randn(batch, count, 64, generator=torch.Generator().manual_seed(seed))


def prepared(module: nn.Module, name: str, precision: str) -> runtime.Run:
    if name == "openvino":
        pytest.importorskip("openvino", reason="the extra openvino is not installed")
    return runtime.prepare(module, (tokens(),), runtime=name, precision=precision, free=(0, 1))


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_run_equals_its_module_at_every_tap_and_at_other_sizes(name: str, precision: str) -> None:
    module = prefix()
    run = prepared(module, name, precision)
    for batch, count in ((2, 61), (1, 61), (3, 5), (2, 101)):
        entering = tokens(batch, count, seed=count)
        found, wanted = run(entering), module(entering)
        assert [part.dtype for part in found] == [torch.float32] * 3
        torch.testing.assert_close(found[0], entering, atol=0, rtol=0)
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, atol=WITHIN[precision], rtol=0)


@pytest.mark.parametrize("name", runtime.RUNTIMES)
def test_bfloat16_is_another_computation_than_float32_and_points_the_same_way(name: str) -> None:
    module = prefix(4)
    full, half = (prepared(module, name, precision)(tokens())[0] for precision in runtime.PRECISIONS)
    if name == "torch":  # OpenVINO halves where the processor can
        assert not torch.equal(full, half)
    assert float(torch.nn.functional.cosine_similarity(full, half, dim=-1).min()) > 0.9999


@pytest.mark.parametrize(("name", "precision"), PAIRS)
def test_a_batch_of_two_is_two_of_one(name: str, precision: str) -> None:
    run = prepared(prefix(4), name, precision)
    (both,) = run(tokens())
    one, other = (run(tokens()[place : place + 1])[0] for place in (0, 1))
    torch.testing.assert_close(both, torch.cat([one, other]), atol=WITHIN[precision], rtol=0)


@pytest.mark.parametrize("name", runtime.RUNTIMES)
def test_the_answer_of_one_call_stays_when_the_next_is_made(name: str) -> None:
    run = prepared(prefix(4), name, "float32")
    (first,) = run(tokens())
    kept = first.clone()
    run(tokens(seed=1))
    assert torch.equal(first, kept)


@pytest.mark.parametrize("name", runtime.RUNTIMES)
@pytest.mark.parametrize("quick_gelu", [True, False])
def test_own_image_vector_of_the_network_is_bit_identical_before_and_after(name: str, quick_gelu: bool) -> None:
    model, pixels = tiny.model(layers=4, quick_gelu=quick_gelu), torch.randn(2, 3, 48, 48)
    module = Prefix(Vit(model.visual), (1, 4), (6, 6)).eval()
    names = [sorted(vars(part)) for part in model.modules()]
    with torch.no_grad():
        before = model.encode_image(pixels)
        for precision in runtime.PRECISIONS:
            prepared(module, name, precision)(tokens())
        after = model.encode_image(pixels)
    assert torch.equal(after, before)
    assert [sorted(vars(part)) for part in model.modules()] == names
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_two_threads_on_one_network_get_what_each_gets_alone() -> None:
    module = prefix(2, 4)
    runs = {pair: prepared(module, *pair) for pair in PAIRS}
    alone = {pair: run(tokens(seed=place)) for place, (pair, run) in enumerate(runs.items())}
    wrong: list[tuple[str, str]] = []

    def work(place: int, pair: tuple[str, str]) -> None:
        for _ in range(8):
            found = runs[pair](tokens(seed=place))
            if not all(torch.equal(one, other) for one, other in zip(found, alone[pair], strict=True)):
                wrong.append(pair)

    threads = [threading.Thread(target=work, args=(place, pair)) for place, pair in enumerate(runs) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_prepared_makes_a_run_once_and_again_when_the_weights_change() -> None:
    module, store, made = prefix(4), runtime.Prepared(), []

    def make() -> runtime.Run:
        made.append(0)
        return runtime.prepare(module, (tokens(),), precision="bfloat16", free=(0, 1))

    first = store.get(module.tower, "key", make)
    assert store.get(module.tower, "key", make) is first and len(made) == 1
    assert store.get(module.tower, "other", make) is not first and len(made) == 2
    before = first(tokens())[0]
    with torch.no_grad():
        module.tower.transformer.resblocks[0].mlp.c_fc.weight.mul_(3)
    again = store.get(module.tower, "key", make)
    assert again is not first and not torch.allclose(again(tokens())[0], before, atol=0.1)


def test_prepared_is_made_once_when_two_threads_ask_at_once() -> None:
    module, store, made, gate = prefix(4), runtime.Prepared(), [], threading.Barrier(3)

    def make() -> runtime.Run:
        made.append(0)
        return runtime.prepare(module, (tokens(),), free=(0, 1))

    def ask() -> None:
        gate.wait()
        store.get(module, "key", make)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_wrong_names_and_places_are_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match=r"runtime must be one of openvino, torch: got 'onnx'"):
        runtime.check("onnx", "float32")
    with pytest.raises(UnknownName, match=r"precision must be one of bfloat16, float32: got 'bf16'"):
        runtime.check("torch", "bf16")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(MissingExtra, match=r'pip install "ovseg\[openvino\]"'):
        runtime.check("openvino", "float32", torch.device("cpu"))
    runtime.check("openvino", "float32")  # a recipe may be read where it cannot be run


def test_openvino_refuses_a_network_that_is_not_on_the_cpu() -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    with pytest.raises(BadUsage, match="computes on the CPU: the network is on meta"):
        runtime.check("openvino", "float32", torch.device("meta"))


def test_kernels_serve_the_cpu_and_leave_other_devices_alone() -> None:
    stack = torch.overrides._get_current_function_mode_stack
    with runtime.kernels(torch.device("cpu")):
        assert [type(mode) for mode in stack()] == [runtime.Kernels]
    with runtime.kernels(torch.device("meta")):
        assert stack() == []
    assert stack() == []


def test_who_computes_is_said_in_a_few_words() -> None:
    assert runtime.describe("openvino", "bfloat16", torch.device("cpu")) == "openvino, bfloat16"
    assert runtime.describe("torch", "float32", torch.device("meta")) == "torch, float32"
    said = runtime.describe("torch", "float32", torch.device("cpu"))
    assert said == ("torch with oneDNN, float32" if runtime.uses_onednn() else "torch, float32")


def test_nothing_is_written_without_a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, precision in PAIRS:
        prepared(prefix(4), name, precision)(tokens())
    assert list(tmp_path.rglob("*")) == []


def test_what_was_not_asked_for_long_is_let_go() -> None:
    module, store, made = prefix(4), runtime.Prepared(), []

    def ask(key: int) -> None:
        store.get(module, key, lambda: made.append(key) or (lambda *tensors: tensors))

    for key in (0, 1, 0, *range(2, MOST_PREPARED + 1)):  # one too many, and 1 is the longest ago
        ask(key)
    ask(0)
    assert made == list(range(MOST_PREPARED + 1))
    ask(1)
    assert made[-1] == 1
