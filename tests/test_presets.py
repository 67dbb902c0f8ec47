"""The road for real weights, walked to its end: stand-ins of the real files, pulled from loopback, open `base`."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import tiny
from ovseg import cli, weights
from ovseg.opening import needed_weights
from ovseg.pipeline import Pipeline
from ovseg.recipe import PRESETS


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """CLIP ViT-B/16 and SAM ViT-B at full size with random weights, served on loopback and pulled by the command."""
    import open_clip
    from segment_anything import sam_model_registry

    from tests.weights.standins import Host, handler_for

    folder = tmp_path_factory.mktemp("pulled")
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    host = Host(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = handler_for(host)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    patch = pytest.MonkeyPatch()
    try:
        torch.manual_seed(0)
        writers: dict[str, tuple[torch.nn.Module, Any]] = {
            "clip-vit-b16-openai": (open_clip.create_model("ViT-B-16-quickgelu", pretrained=None), save_file),
            "sam-vit-b": (sam_model_registry["vit_b"](), torch.save),
        }
        patch.setenv("OVSEG_WEIGHTS", str(folder))
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        for name, (network, write) in writers.items():
            row = weights.MANIFEST[name]
            body = folder / f"offered-{row.file}"
            write(network.state_dict(), body)
            patch.setitem(weights.MANIFEST, name, replace(row, bytes=body.stat().st_size, sha256=weights.sha256(body)))
            host.files |= {f"/{row.location}/resolve/{row.revision}/{row.file}": body}
            host.files |= {f"/segment_anything/{row.file}": body}
            weights.pull(name, base_url=host.url)
            body.unlink()
        yield folder
    finally:
        patch.undo()
        server.shutdown()
        server.server_close()
        for file in folder.iterdir():
            file.unlink()


@pytest.mark.slow
def test_base_opens_from_pulled_files_and_segments(pulled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    pipe = Pipeline.open("base", folder=pulled, cache=None, proposer_options=few, templates="simple")
    found = pipe.segment(tiny.picture(48, 80), ["cat", "dog"])
    assert found.labels.shape == (48, 80) and np.isfinite(found.confidence).all()
    assert len(pipe.encode(tiny.picture(48, 80)).regions) > 0  # SAM spoke
    assert pipe.clip.image_size == (224, 224) and needed_weights(pipe.recipe) == ["clip-vit-b16-openai", "sam-vit-b"]


@pytest.mark.slow
def test_a_digest_that_is_wrong_ends_with_code_three(
    pulled: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSEG_WEIGHTS", str(pulled))
    file = weights.path("sam-vit-b")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    example = weights.bundled("demo/examples") / "breakfast.jpg"
    with pytest.raises(SystemExit) as ended:
        cli.main(["segment", str(example), "-p", "cup", "--model", "base", "--json"])
    out, err = capsys.readouterr()
    assert ended.value.code == 3 and out == "" and "sha256" in err
    with pytest.raises(SystemExit) as ended:
        cli.main(["weights", "verify", "sam-vit-b"])
    assert ended.value.code == 3


def test_every_preset_says_what_it_needs_and_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    example = weights.bundled("demo/examples") / "breakfast.jpg"
    for name in set(PRESETS) - {"tiny"}:
        with pytest.raises(SystemExit) as ended:
            cli.main(["segment", str(example), "-p", "cup", "--model", name, "--json"])
        out, err = capsys.readouterr()
        assert (
            ended.value.code == 3 and out == "" and f"`ovseg weights pull {name}` brings all that {name} needs" in err
        )
        assert "--to" in err and "OVSEG_WEIGHTS" in err


def test_presets_are_told_by_check(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["check", "--json"])
    assert set(json.loads(capsys.readouterr().out)["presets"]) == set(PRESETS)
