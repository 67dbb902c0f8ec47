import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from safetensors.torch import save_file

import tiny
from ovseg.clip import load
from ovseg.clip.backbones import BACKBONES
from ovseg.clip.load import fill, wrap
from ovseg.errors import BadUsage, BadWeights, MissingDevice, MissingWeights, UnknownName
from ovseg.weights import MANIFEST

CONFIG = {
    "embed_dim": tiny.DIM,
    "vision_cfg": {"layers": 3, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 48},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2},
    "quick_gelu": True,
    "preprocess": {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]},
}


def saved(folder: Path, name: str = "model.safetensors", **metadata: str) -> Path:
    file = folder / name
    state = {key: value.half().contiguous() for key, value in tiny.model().state_dict().items()}
    save_file(state, file, metadata)
    return file


@pytest.mark.parametrize("where", ["metadata", "beside"])
def test_file_that_describes_itself_opens_with_its_own_numbers(tmp_path: Path, where: str) -> None:
    folder = tmp_path / "a folder"
    folder.mkdir()
    if where == "metadata":
        file = saved(folder, model_cfg=json.dumps(CONFIG))
    else:
        file = saved(folder)
        file.with_suffix(".json").write_text(json.dumps(CONFIG))
    clip = load.load(str(file))
    assert clip.mean == (0.4, 0.5, 0.6) and clip.image_size == (48, 48) and clip.context_length == 16
    pixels = torch.randn(2, 3, 48, 48)
    wanted = tiny.model().encode_image(pixels)
    torch.testing.assert_close(clip.model.encode_image(pixels), wanted, rtol=0, atol=2e-2)  # stored in half precision
    assert clip.model.visual.proj.dtype == torch.float32 and not clip.model.training


def test_openai_style_and_two_tower_style_keys_fit() -> None:
    model = tiny.model()
    state = model.state_dict()
    numbers = {"input_resolution": torch.tensor(48), "context_length": torch.tensor(16), "vocab_size": torch.tensor(9)}
    two_towers = {key if key.startswith(("visual", "logit")) else f"text.{key}": value for key, value in state.items()}
    for style in (state | numbers, two_towers, {key: value.half() for key, value in state.items()}):
        fresh = tiny.model(seed=3)
        fill(fresh, dict(style), "file")
        torch.testing.assert_close(fresh.visual.proj, model.visual.proj, rtol=0, atol=1e-3)
        torch.testing.assert_close(fresh.token_embedding.weight, model.token_embedding.weight, rtol=0, atol=1e-3)


def test_every_key_must_fit() -> None:
    state = dict(tiny.model().state_dict())
    short = {key: value for key, value in state.items() if key != "visual.ln_post.bias"}
    with pytest.raises(BadWeights, match="file.pt lacks visual.ln_post.bias and has no key that"):
        fill(tiny.model(), short, "file.pt")
    with pytest.raises(BadWeights, match="has visual.extra that the network does not know"):
        fill(tiny.model(), state | {"visual.extra": torch.zeros(2)}, "file.pt")
    with pytest.raises(BadWeights, match=r"visual.proj of file.pt is \[64, 5\] and the network needs \[64, 32\]"):
        fill(tiny.model(), state | {"visual.proj": torch.zeros(64, 5)}, "file.pt")


def test_file_without_a_description_asks_for_the_architecture(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="does not say what network it is of: name it, as ARCHITECTURE@"):
        load.load(str(saved(tmp_path)))
    with pytest.raises(MissingWeights, match="the checkpoint is not there"):
        load.load(f"ViT-B-32@{tmp_path / 'gone.safetensors'}")
    with pytest.raises(UnknownName, match=r"in all\): got 'ViT-B16'. Did you mean 'ViT-"):
        load.load(f"ViT-B16@{tmp_path / 'model.safetensors'}")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path, model_cfg=json.dumps(CONFIG))
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(BadWeights):
        load.load(str(file))
    file.with_suffix(".json").write_text(json.dumps({"embed_dim": 3}))
    with pytest.raises(BadWeights, match="not open_clip's model_cfg"):
        load.load(str(saved(tmp_path)))


def test_unknown_models_list_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'tiny'"):
        load.load("tinny")
    with pytest.raises(UnknownName, match="ViT-B-16/laion2b_s34b_b88k"):
        load.load("ViT-B-16/laion2b_s34b_b89k")


def test_weights_that_are_not_here_end_with_the_commands(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match="ovseg weights pull clip-vit-b16-openai"):
        load.load("ViT-B-16/openai")
    with pytest.raises(MissingWeights, match="Hugging Face cache"):
        load.load("ViT-B-16/datacomp_xl_s13b_b90k")


def test_devices_are_never_replaced() -> None:
    assert load.pick_device("cpu").type == "cpu"
    with pytest.raises(MissingDevice, match="cuda:7 is not on this machine"):
        load.pick_device("cuda:7")
    with pytest.raises(BadUsage, match="device must be auto, cpu"):
        load.pick_device("gpu")


def test_a_network_in_training_mode_is_refused() -> None:
    model = tiny.model().train()
    with pytest.raises(BadUsage, match="training mode"):
        wrap(model, open_clip.tokenizer.SimpleTokenizer())


def test_fingerprints_follow_the_parameters() -> None:
    ours, same, other = tiny.clip(), tiny.clip(), tiny.clip(seed=1)
    assert ours.fingerprint == same.fingerprint != other.fingerprint
    with torch.no_grad():
        same.model.visual.proj[0, 0] += 1
    assert tiny.clip().fingerprint != load.wrap(same.model, same.tokenizer).fingerprint
    assert ours.text_fingerprint == load.wrap(same.model, same.tokenizer).text_fingerprint


def test_rows_name_files_of_the_manifest_and_networks_of_open_clip() -> None:
    for name, row in BACKBONES.items():
        assert row.weights and all(weight in MANIFEST for weight in row.weights), name
        assert not row.architecture or row.architecture in open_clip.list_models()
    assert np.all(["quickgelu" in row.architecture for name, row in BACKBONES.items() if "openai" in name])
