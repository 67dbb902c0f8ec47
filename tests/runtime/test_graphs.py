"""Compiled graphs: kept on disk by all they depend on, compared with their module, without a word to the network."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tiny
from ovseg.clip.walk import Prefix, Vit
from ovseg.errors import BadUsage
from ovseg.runtime import graphs

pytest.importorskip("openvino", reason="the extra openvino is not installed")

ROOT = Path(__file__).resolve().parents[2]


def prefix(**options: Any) -> Prefix:
    return Prefix(Vit(tiny.model(**options).visual), (2, 3), (6, 10)).eval()


def tokens() -> Tensor:
    return torch.randn(2, 61, 64, generator=torch.Generator().manual_seed(5))


def kept(module: nn.Module, folder: Path, **options: Any) -> graphs.Graph:
    return graphs.graph(module, (tokens(),), cache=folder, **{"free": (0, 1), **options})


def test_second_start_reads_the_file_and_converts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = kept(prefix(), tmp_path / "graphs")(tokens())
    assert [path.suffix for path in (tmp_path / "graphs").iterdir()] == [".blob"]
    monkeypatch.setattr(graphs, "_convert", None)
    second = kept(prefix(), tmp_path / "graphs")(tokens())
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("network", "options"),
    [
        ({"seed": 1}, {}),
        ({"quick_gelu": False}, {}),
        ({}, {"precision": "bfloat16"}),
        ({}, {"key": "other taps"}),
        ({}, {"free": (0,)}),
    ],
    ids=["weights", "activation with the same weights", "precision", "key", "open axes"],
)
def test_file_is_another_when_what_it_depends_on_is(
    network: dict[str, Any], options: dict[str, Any], tmp_path: Path
) -> None:
    kept(prefix(), tmp_path)
    kept(prefix(), tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    kept(prefix(**network), tmp_path, **options)
    assert len(list(tmp_path.iterdir())) == 2


def test_weights_changed_in_place_are_another_file(tmp_path: Path) -> None:
    module = prefix()
    before = kept(module, tmp_path)(tokens())[1]
    with torch.no_grad():
        module.tower.transformer.resblocks[1].mlp.c_proj.bias[7] += 3
    after = kept(module, tmp_path)(tokens())[1]
    assert float((after - before).abs().max()) > 0.01
    torch.testing.assert_close(after, module(tokens())[1], atol=1e-5, rtol=0)


def test_only_the_last_used_files_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "KEPT", 2)
    kept(prefix(), tmp_path, key="first")
    (first,) = tmp_path.iterdir()
    kept(prefix(), tmp_path, key="second")
    (second,) = set(tmp_path.iterdir()) - {first}
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    kept(prefix(), tmp_path, key="first")  # used again: now the younger one
    kept(prefix(), tmp_path, key="third")
    assert first in set(tmp_path.iterdir()) and second not in set(tmp_path.iterdir())


@pytest.mark.parametrize("left", [0, 10, 9000], ids=["empty", "ten bytes", "a part"])
def test_damaged_file_is_made_anew(tmp_path: Path, left: int) -> None:
    wanted = kept(prefix(), tmp_path)(tokens())
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    assert len(whole) > left
    file.write_bytes(whole[:left])
    found = kept(prefix(), tmp_path)(tokens())
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=0)
    assert len(file.read_bytes()) > left and list(tmp_path.iterdir()) == [file]


def test_cache_folder_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    found = kept(prefix(), tmp_path / "file" / "graphs")(tokens())
    torch.testing.assert_close(found[1], prefix()(tokens())[1], atol=1e-5, rtol=0)


def test_graph_that_computes_something_else_is_refused() -> None:
    class Fickle(nn.Module):
        """What tracing cannot see: a number that Python changes from call to call."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.calls = nn.Parameter(torch.ones(64)), 0

        def forward(self, given: Tensor) -> tuple[Tensor, ...]:
            self.calls += 1
            return (given * self.weight * self.calls,)

    with pytest.raises(BadUsage, match="something else than torch for this network"):
        graphs.graph(Fickle().eval(), (tokens(),))


def test_two_inputs_of_different_ranks_fit_the_seam() -> None:
    """As segment-anything's decoder will: an image's features and the points of one prompt."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.points = nn.Conv2d(3, 8, 3), nn.Linear(2, 8)

        def forward(self, features: Tensor, points: Tensor) -> tuple[Tensor, ...]:
            seen, asked = self.features(features), self.points(points)
            return torch.einsum("bchw,bnc->bnhw", seen, asked), asked

    torch.manual_seed(0)
    module, given = Two().eval(), (torch.randn(1, 3, 12, 20), torch.randn(1, 5, 2))
    made = graphs.graph(module, given, free=(0, 1))
    for count in (5, 9):
        given = (torch.randn(1, 3, 12, 20), torch.randn(1, count, 2))
        for one, other in zip(made(*given), module(*given), strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=0)


def test_no_socket_is_opened_and_telemetry_never_starts(tmp_path: Path) -> None:
    """In a fresh process: import, convert, compile, keep, read back; every attempt at the network ends it."""
    code = """
import os, sys
def guard(event, args):
    if event.startswith("socket.") and event != "socket.gethostname" or event.startswith("urllib."):
        os.write(2, event.encode()); os._exit(9)
sys.addaudithook(guard)
sys.path[:0] = ["tests"]
import tiny, torch
from pathlib import Path
from ovseg.clip.walk import Prefix, Vit
from ovseg.runtime import graphs
for _ in range(2):
    module = Prefix(Vit(tiny.model().visual), (3,), (6, 10)).eval()
    graphs.graph(module, (torch.randn(1, 61, 64),), cache=Path(sys.argv[1]) / "graphs")(torch.randn(2, 61, 64))
assert not [name for name, module in sys.modules.items() if "openvino_telemetry" in name and module]
"""
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "HOME": str(home)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert list(home.iterdir()) == []  # no identity was made, no consent written


def test_a_batch_that_tracing_took_for_a_constant_is_found_before_the_graph_is_used() -> None:
    class Fixed(nn.Module):
        """`len` is a number to tracing, where `shape[0]` is a size."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64))

        def forward(self, given: Tensor) -> tuple[Tensor, ...]:
            return ((given * self.weight).view(len(given), -1, 32),)

    with pytest.raises(BadUsage, match='runtime="torch"'):
        graphs.graph(Fixed().eval(), (tokens(),))
    graphs.graph(Fixed().eval(), (tokens(),), free=())  # where it is one, all is well


def test_each_input_may_have_open_axes_of_its_own() -> None:
    class Two(nn.Module):
        def forward(self, tokens: Tensor, table: Tensor) -> tuple[Tensor, ...]:
            return (tokens @ table,)

    table = torch.randn(64, 48)
    made = graphs.graph(Two().eval(), (tokens(), table), free=((0, 1), ()))
    for count in (1, 5):
        given = torch.randn(count, 7 * count, 64)
        torch.testing.assert_close(made(given, table)[0], given @ table, atol=1e-4, rtol=0)
    assert [str(port.get_partial_shape()) for port in made.compiled.inputs] == ["[?,?,64]", "[64,48]"]


def test_file_is_another_when_the_program_of_a_class_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Same names, same weights, same structure; what is computed stands in a function beside the class."""
    program = (
        "from torch import nn\n\n"
        "def act(x):\n    return x {0} 2\n\n"
        "class Formula(nn.Linear):\n    def forward(self, x):\n        return (act(super().forward(x)),)\n"
    )
    (tmp_path / "formula_of_a_test.py").write_text(program.format("*"))
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("formula_of_a_test")
    monkeypatch.setitem(sys.modules, "formula_of_a_test", module)
    network = torch.nn.Sequential(module.Formula(64, 64)).eval()
    before = kept(network, tmp_path / "graphs")(tokens())[0]
    kept(network, tmp_path / "graphs")
    assert len(list((tmp_path / "graphs").iterdir())) == 1
    (tmp_path / "formula_of_a_test.py").write_text(program.format("+"))
    exec(program.format("+"), vars(module))
    changed = torch.nn.Sequential(module.Formula(64, 64)).eval()
    changed.load_state_dict(network.state_dict())
    assert repr(changed) == repr(network)
    after = kept(changed, tmp_path / "graphs")(tokens())[0]
    assert float((after - before).abs().max()) > 0.1
