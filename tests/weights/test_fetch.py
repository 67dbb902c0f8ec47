"""Files are fetched over a loopback network with its troubles, by plain HTTP and from a hub."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ovseg import weights
from ovseg.errors import BadWeights, WeightsError
from ovseg.weights import fetch
from tests.weights.standins import BODY, COMMIT, Host, add_row, digest

# Plain HTTP -----------------------------------------------------------------------------------------------------------


def test_a_whole_file_arrives_checked_and_nothing_is_left_beside_it(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    seen: list[tuple[int, int | None]] = []
    monkeypatch.setenv("OVSEG_MIRROR", host.url + "/")
    got = weights.pull(row.name, to=tmp_path / "mine", progress=lambda here, total: seen.append((here, total)))
    assert tmp_path / "mine" / "stand_in.pth" == got and BODY == got.read_bytes()
    assert ["stand_in.pth"] == os.listdir(tmp_path / "mine")
    assert (len(BODY), len(BODY)) == seen[-1]
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)  # the digest is known from the download
        assert got == weights.path(row.name, tmp_path / "mine")
    weights.pull(row.name, to=tmp_path / "mine")  # again: nothing is asked
    assert [("GET", "/models/stand_in.pth", "")] == host.asked


def test_a_mirror_stands_in_for_scheme_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    assert ("https://weights.example/models/stand_in.pth", {}) == fetch._plain_address(row, None)
    monkeypatch.setenv("OVSEG_MIRROR", "http://inside/copies")
    assert ("http://inside/copies/models/stand_in.pth", {}) == fetch._plain_address(row, None)
    assert ("http://nearer/models/stand_in.pth", {}) == fetch._plain_address(row, "http://nearer/")


def test_a_dropped_connection_is_resumed_in_the_same_call(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    host.drop_after = [100_000, 70_000, 50_000]  # three breaks: more than BACKOFF has tries, but each brings something
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()
    assert ["", "bytes=100000-", "bytes=170000-", "bytes=220000-"] == [wanted for _, _, wanted in host.asked]
    assert len(BODY) == host.served  # no byte came twice


def test_a_killed_download_goes_on_where_it_stopped(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    monkeypatch.setattr(fetch, "BLOCK_BYTES", 50_000)

    def stop_after_half(here: int, total: int | None) -> None:
        if here > len(BODY) // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weights.pull(row.name, to=tmp_path, base_url=host.url, progress=stop_after_half)
    held = (tmp_path / "stand_in.pth.part").stat().st_size
    assert len(BODY) // 2 < held < len(BODY)
    assert weights.find(row.name, tmp_path) is None  # a part never counts
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()
    assert f"bytes={held}-" == host.asked[-1][2]


def test_a_server_that_cannot_begin_in_the_middle_begins_again(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    host.ranges = False
    host.drop_after = [100_000]
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()
    assert ["", "bytes=100000-"] == [wanted for _, _, wanted in host.asked]
    assert 100_000 + len(BODY) == host.served


def test_a_download_that_gets_no_further_is_given_up_and_its_part_kept(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    host.drop_after = [100_000, 0, 0, 0, 0, 0]
    with pytest.raises(WeightsError, match="with 100,000 bytes here: run the same command to go on from there"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert 100_000 == (tmp_path / "stand_in.pth.part").stat().st_size


def test_an_overloaded_server_is_asked_again(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    host.statuses = [503, 429]
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()


@pytest.mark.parametrize("left", [b"", BODY + b"and more", b"x" * 1000], ids=["empty", "too long", "another's"])
def test_a_part_that_is_no_beginning_never_becomes_the_file(
    left: bytes, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    (tmp_path / "stand_in.pth.part").write_bytes(left)
    if left.startswith(b"x"):  # only the digest can tell; the part goes, and the next call is clean
        with pytest.raises(BadWeights, match="was removed: pull again"):
            weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()


def test_a_range_beyond_the_end_begins_again(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch, bytes=0)  # a row of unknown size: the server is the first to know
    host.files["/models/stand_in.pth"] = BODY
    (tmp_path / "stand_in.pth.part").write_bytes(BODY + b"and more")
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()


def test_a_wrong_digest_leaves_no_file(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY[::-1]
    with pytest.raises(BadWeights, match="must have sha256"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert [] == list(tmp_path.glob("stand_in*"))


def test_a_bad_file_in_place_is_replaced(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    (tmp_path / "stand_in.pth").write_bytes(BODY[:1000])
    assert BODY == weights.pull(row.name, to=tmp_path, base_url=host.url).read_bytes()


def test_another_size_is_refused_before_it_is_fetched(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = b"<html>please sign in</html>"
    with pytest.raises(BadWeights, match="must have 307,211 bytes: .* offers 27"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert [] == list(tmp_path.glob("stand_in*"))


def test_a_file_that_is_not_there_is_told_at_once(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    with pytest.raises(WeightsError, match="answered 404: it must offer stand-in"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert 1 == len(host.asked)


def test_an_unreachable_host_is_told_at_once(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    with pytest.raises(WeightsError, match="127.0.0.1:9 .*cannot be reached.*--to DIR"):  # discard: nobody listens
        weights.pull(row.name, to=tmp_path, base_url="http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="no-such-host.invalid .*cannot be reached"):
        weights.pull(row.name, to=tmp_path, base_url="http://no-such-host.invalid")


def test_a_silent_server_is_given_up(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    monkeypatch.setattr(fetch, "TIMEOUT_SECONDS", 0.05)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # listens, never accepts
    with server, pytest.raises(WeightsError, match="broke off .*timed out.*with 0 bytes here"):
        weights.pull(row.name, to=tmp_path, base_url=f"http://127.0.0.1:{server.server_address[1]}")


def test_a_full_disk_is_one_sentence(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))  # type: ignore[attr-defined]
        with pytest.raises(WeightsError, match="needs 307,211 bytes of room"):
            weights.pull(row.name, to=tmp_path, base_url=host.url)

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WeightsError, match="No space left on device"):
        weights.pull(row.name, to=tmp_path, base_url=host.url, progress=full)


def test_a_folder_that_cannot_be_written_is_one_sentence(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = add_row(monkeypatch)
    (tmp_path / "a file").write_text("")
    with pytest.raises(WeightsError, match="could not be written to"):
        weights.pull(row.name, to=tmp_path / "a file" / "folder", base_url=host.url)


@pytest.mark.parametrize("switch", ["OVSEG_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_asks_nobody(switch: str, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    host.files["/models/stand_in.pth"] = BODY
    monkeypatch.setenv(switch, "1")
    with pytest.raises(WeightsError, match=f"{switch} is set.*OVSEG_WEIGHTS=DIR"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert [] == host.asked


def test_what_is_here_is_copied_not_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    monkeypatch.setenv("OVSEG_OFFLINE", "1")
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path / "here"))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / row.file).write_bytes(BODY)
    assert tmp_path / "here" / row.file == weights.pull(row.name)
    assert BODY == weights.pull(row.name, to=tmp_path / "stick").read_bytes()


def test_two_at_once_do_not_write_one_part(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = add_row(monkeypatch)
    part = tmp_path / "stand_in.pth.part"
    with fetch._alone(part, row.name), pytest.raises(WeightsError, match="another process"):
        weights.pull(row.name, to=tmp_path, base_url=host.url)


# The hub --------------------------------------------------------------------------------------------------------------


def hub_row(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> weights.WeightFile:
    return add_row(
        monkeypatch,
        **{
            "source": "huggingface",
            "location": "me/mine",
            "revision": COMMIT,
            "file": "open_clip_model.safetensors",
            "saved_as": "stand-in.safetensors",
            "pickle": False,
        }
        | fields,
    )


HUB_PATH = f"/me/mine/resolve/{COMMIT}/open_clip_model.safetensors"


def test_a_hub_file_comes_at_its_revision_and_resumes(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = hub_row(monkeypatch)
    host.files[HUB_PATH] = BODY
    host.drop_after = [100_000]
    got = weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert tmp_path / "stand-in.safetensors" == got and BODY == got.read_bytes()
    assert {HUB_PATH} == {path for _, path, _ in host.asked}
    assert ["", "bytes=100000-"] == [wanted for method, _, wanted in host.asked if method == "GET"]
    assert len(BODY) == host.served


def test_a_hub_without_the_file_is_one_sentence(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = hub_row(monkeypatch)
    with pytest.raises(WeightsError, match="answered 404: it must offer stand-in") as caught:
        weights.pull(row.name, to=tmp_path, base_url=host.url)
    assert "\n" not in str(caught.value)


def test_an_unreachable_hub_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = hub_row(monkeypatch)
    with pytest.raises(WeightsError, match="127.0.0.1:9 .*cannot be reached.*HF_ENDPOINT") as caught:
        weights.pull(row.name, to=tmp_path, base_url="http://127.0.0.1:9")
    assert "\n" not in str(caught.value)


def test_hf_endpoint_and_hf_home_are_honoured(host: Host, tmp_path: Path) -> None:
    host.files[HUB_PATH] = BODY
    program = f"""
from pathlib import Path
from ovseg import weights
row = weights.WeightFile("stand-in", "huggingface", "me/mine", "open_clip_model.safetensors", "MIT", "a stand-in",
                         "{COMMIT}", {len(BODY)}, "{digest(BODY)}", saved_as="stand-in.safetensors")
weights.MANIFEST["stand-in"] = row
got = weights.pull("stand-in")
print(got)
cached = Path("{tmp_path}") / "hf" / "hub" / "models--me--mine" / "snapshots" / "{COMMIT}" / row.file
cached.parent.mkdir(parents=True)
got.rename(cached)
print(weights.path("stand-in"))
"""
    env = {
        **os.environ,
        "HF_ENDPOINT": host.url,
        "HF_HOME": str(tmp_path / "hf"),
        "OVSEG_WEIGHTS": str(tmp_path / "mine"),
        "HF_HUB_CACHE": "",
    }
    env.pop("HF_HUB_CACHE")
    run = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=120)
    assert "" == run.stderr
    cached = tmp_path / "hf" / "hub" / "models--me--mine" / "snapshots" / COMMIT / "open_clip_model.safetensors"
    assert [str(tmp_path / "mine" / "stand-in.safetensors"), str(cached)] == run.stdout.split()


def test_the_sign_in_goes_to_the_hub_and_not_to_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    row = hub_row(monkeypatch)
    places = iter(["http://hub.example/bytes", "http://store.example/bytes"])

    @dataclass
    class Metadata:
        location: str

    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda url: Metadata(next(places)))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert {"authorization": "Bearer hf_secret"} == fetch._hub_address(row, "http://hub.example")[1]
    assert {} == fetch._hub_address(row, "http://hub.example")[1]


# All of it, at full size ----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_stand_ins_of_real_format_and_full_size_travel_the_whole_road(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CLIP ViT-B/16 (hub copy, OpenAI file) and SAM ViT-B: random weights, real keys and sizes, loaded strictly."""
    import open_clip
    from segment_anything import sam_model_registry

    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path / "mine"))
    (tmp_path / "offered").mkdir()
    torch.manual_seed(0)
    clip = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None)
    sam = sam_model_registry["vit_b"]()
    writers: dict[str, tuple[torch.nn.Module, Any]] = {
        "clip-vit-b16-openai": (clip, save_file),
        "clip-vit-b16-openai-pt": (clip, lambda state, file: torch.save({k: v.half() for k, v in state.items()}, file)),
        "sam-vit-b": (sam, torch.save),
    }
    for name, (network, write) in writers.items():
        real = weights.MANIFEST[name]
        body = tmp_path / "offered" / real.file
        write(network.state_dict(), body)
        assert real.bytes == pytest.approx(body.stat().st_size, rel=0.2)  # TorchScript adds code and some float32
        row = replace(real, bytes=body.stat().st_size, sha256=weights.sha256(body))
        monkeypatch.setitem(weights.MANIFEST, name, row)
        hub = f"{host.url}/{row.location}/resolve/{row.revision}/{row.file}"
        url = hub if row.source == "huggingface" else fetch._plain_address(row, host.url)[0]
        host.files[url.removeprefix(host.url)] = body
        host.drop_after = [row.bytes // 2]
        weights.pull(name, base_url=host.url)
        assert f"bytes={row.bytes // 2}-" == host.asked[-1][2]
        body.unlink()
        assert ["ok"] == [check.verdict for check in weights.verify(name)]
        expected = {key: value.clone() for key, value in network.state_dict().items()}
        for parameter in network.parameters():
            torch.nn.init.zeros_(parameter)
        network.load_state_dict(weights.state(name), strict=True)
        came = network.state_dict()
        assert max(float((came[key] - value).abs().max()) for key, value in expected.items()) < 2e-3  # float16's step
        weights.path(name).unlink()
