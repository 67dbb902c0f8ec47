"""Mask networks travel the whole road: offered on a host, fetched through a break, checked, opened, equal."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ovseg import weights
from ovseg.errors import WeightsError
from ovseg.sam.foreign import ForeignModel
from ovseg.sam.load import load, load_model
from ovseg.sam.mobile import renamed
from tests.sam.hub import NARROW, perturbed
from tests.weights.standins import COMMIT, Host


@pytest.fixture
def published() -> dict[str, torch.Tensor]:
    """A random state dict under the names that MobileSAM's authors save, made of our own network's shapes."""
    with warnings.catch_warnings():  # it imports timm's parts from where they were
        warnings.simplefilter("ignore")
        from mobile_sam.modeling.tiny_vit_sam import TinyViT

    from ovseg.sam.networks import KINDS, build

    torch.manual_seed(0)
    encoder = TinyViT(1024, 3, 1000, [64, 128, 160, 320], [2, 2, 6, 2], [2, 4, 5, 10], [7, 7, 14, 7])
    state = {f"image_encoder.{key}": value for key, value in encoder.state_dict().items()}
    rest = build(KINDS["vit_t"]).state_dict()
    return {**state, **{key: value for key, value in rest.items() if not key.startswith("image_encoder.")}}


def test_mobilesam_is_fetched_from_its_authors_checked_and_opened(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, published: dict[str, torch.Tensor]
) -> None:
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path / "mine"))
    real = weights.MANIFEST["mobile-sam"]
    body = tmp_path / real.file
    torch.save(published, body)
    assert real.bytes == pytest.approx(body.stat().st_size, rel=0.01)  # the same tensors, so the same size
    row = replace(real, bytes=body.stat().st_size, sha256=weights.sha256(body))
    monkeypatch.setitem(weights.MANIFEST, "mobile-sam", row)
    host.files["/ChaoningZhang/MobileSAM/f706ad9c4eb7f219c00d9050e46328518ffb65d2/weights/mobile_sam.pt"] = body
    host.drop_after = [row.bytes // 2]
    weights.pull("mobile-sam", base_url=host.url)
    assert host.asked[-1][2] == f"bytes={row.bytes // 2}-"
    assert [check.verdict for check in weights.verify("mobile-sam")] == ["ok"]
    sam = load(weights.path("mobile-sam"))  # a pickle, opened because its digest is known
    state = sam.state_dict()
    assert all((state[key] == value).all() for key, value in renamed(published).items())


@pytest.mark.parametrize(("name", "family"), [("sam2.1-hiera-tiny", "sam2"), ("sam-hq-vit-base", "sam_hq")])
def test_a_folder_of_the_hub_is_fetched_file_by_file_and_opened(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, family: str
) -> None:
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path / "mine"))
    network = perturbed(NARROW[family])
    network.save_pretrained(tmp_path / "offered")
    image = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
    for row_name in (name, f"{name}-config"):
        row = weights.MANIFEST[row_name]
        host.files[f"/{row.location}/resolve/main/{row.file}"] = tmp_path / "offered" / row.file
        weights.pull(row_name, base_url=host.url)
        assert [check.verdict for check in weights.verify(row_name)] == ["unpublished"]
    model = load_model(weights.path(name))
    assert isinstance(model, ForeignModel)
    expected = ForeignModel(network).encode(image).features
    assert (model.encode(image).features == expected).all()


def test_sam_3_without_a_sign_in_is_refused_by_the_hub_with_a_sentence(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path / "mine"))
    row = weights.MANIFEST["sam3"]
    monkeypatch.setitem(weights.MANIFEST, "sam3", replace(row, revision=COMMIT))
    with pytest.raises(WeightsError, match="check HF_ENDPOINT and your sign-in"):
        weights.pull("sam3", base_url=host.url)
