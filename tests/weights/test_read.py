"""Checkpoints are read whatever their form; broken, foreign and untrusted ones are one sentence."""

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ovseg import weights
from ovseg.errors import BadWeights, MissingWeights
from tests.weights.standins import add_row, digest

TENSORS = {"visual.proj": torch.arange(6.0).reshape(2, 3), "logit_scale": torch.tensor(4.6)}


def same(expected: dict[str, torch.Tensor], came: dict[str, torch.Tensor]) -> bool:
    return expected.keys() == came.keys() and all(torch.equal(expected[key], came[key]) for key in expected)


def scripted(file: Path) -> None:
    class Network(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.proj = torch.nn.Parameter(TENSORS["visual.proj"].clone())
            self.register_buffer("context_length", torch.tensor(77))  # OpenAI keeps sizes among the tensors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch.jit is deprecated; the files stay
        torch.jit.save(torch.jit.script(Network()), file)


def trusted(monkeypatch: pytest.MonkeyPatch, file: Path) -> None:
    add_row(monkeypatch, bytes=file.stat().st_size, sha256=digest(file.read_bytes()))


def test_safetensors_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "odd.bin")
    assert same(TENSORS, weights.read_state(tmp_path / "odd.bin"))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 7},
        lambda state: {"model": state},
        lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    ],
    ids=["plain", "under state_dict", "under model", "from a parallel wrapper"],
)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_known_pickles_are_read_however_wrapped(
    wrap: Any, zipped: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(wrap(TENSORS), tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    trusted(monkeypatch, tmp_path / "a.pth")
    assert same(TENSORS, weights.read_state(tmp_path / "a.pth"))


def test_a_known_torchscript_archive_gives_its_tensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripted(tmp_path / "a.pt")
    with pytest.raises(BadWeights, match="is a pickle that the manifest does not know"):
        weights.read_state(tmp_path / "a.pt")
    trusted(monkeypatch, tmp_path / "a.pt")
    expected = {"proj": TENSORS["visual.proj"], "context_length": torch.tensor(77)}
    assert same(expected, weights.read_state(tmp_path / "a.pt"))


def test_a_strange_pickle_is_opened_only_on_request_and_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.save(TENSORS, tmp_path / "a.pth")
    with pytest.raises(BadWeights, match="--allow-pickle"):
        weights.read_state(tmp_path / "a.pth")
    with caplog.at_level(logging.WARNING, "ovseg"):
        assert same(TENSORS, weights.read_state(tmp_path / "a.pth", allow_pickle=True))
    assert "a.pth" in caplog.text


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (Path("sprung"), "")


def test_a_pickle_with_code_is_refused_even_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Trap()}, tmp_path / "a.pth")
    with pytest.raises(BadWeights, match="cannot be read"):
        weights.read_state(tmp_path / "a.pth", allow_pickle=True)
    assert not (tmp_path / "sprung").exists()


def cut(file: Path, kept: float) -> None:
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])


@pytest.mark.parametrize("kept", [0.5, 0.99])
def test_a_truncated_file_is_one_sentence(kept: float, tmp_path: Path) -> None:
    save_file({"a": torch.ones(500)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.ones(500)}, tmp_path / "a.pth")
    torch.save({"a": torch.ones(500)}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    scripted(tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pth", "legacy.pth", "a.pt"):
        cut(tmp_path / name, kept)
        with pytest.raises(BadWeights, match="a whole checkpoint is needed") as caught:
            weights.read_state(tmp_path / name, allow_pickle=True)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "body", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + bytes(99), b"version https://git-lfs.github.com/spec/v1\n"]
)
def test_a_foreign_file_is_refused(body: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(body)
    with pytest.raises(BadWeights, match="is neither"):
        weights.read_state(tmp_path / "a.safetensors", allow_pickle=True)


@pytest.mark.parametrize(
    "content", [{}, [torch.ones(3)], {"a": torch.ones(3), "b": "text"}], ids=["empty", "list", "mixed"]
)
def test_what_is_no_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(BadWeights, match="a state dict"):
        weights.read_state(tmp_path / "a.pth", allow_pickle=True)


def test_no_file_is_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match="No such file"):
        weights.read_state(tmp_path / "none.pth")
    with pytest.raises(MissingWeights, match="Is a directory"):
        weights.read_state(tmp_path)
