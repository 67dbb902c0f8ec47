import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file

import tiny
from ovseg.clip import families, load
from ovseg.clip.backbones import BACKBONES
from ovseg.clip.load import fill, wrap
from ovseg.errors import BadUsage, BadWeights, MissingDevice, MissingExtra, MissingWeights, UnknownName
from ovseg.weights import MANIFEST
from tests.clip.families import towers
from tests.clip.families.towers import moved

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


def test_flat_keys_fit_the_two_tower_class() -> None:
    flat = {key.removeprefix("text."): value for key, value in two_towers().state_dict().items()}
    assert any(not key.startswith(("visual.", "logit_")) for key in flat)
    fresh = two_towers(seed=3)
    fill(fresh, flat | {"logit_bias": flat["logit_bias"].reshape(1)}, "file")  # SigLIP's files differ in that shape
    wanted = two_towers().state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in fresh.state_dict().items())


def test_what_nothing_is_computed_from_may_lack_or_be_there() -> None:
    model, fresh = towers.resnet(), moved(towers.resnet(), seed=3)
    state = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert len(state) < len(model.state_dict())
    fill(fresh, state | {"text.transformer.embeddings.position_ids": torch.arange(3)[None]}, "file")
    assert all(torch.equal(fresh.state_dict()[key], value) for key, value in state.items())
    state.pop("bn1.running_mean")
    with pytest.raises(BadWeights, match="lacks bn1.running_mean"):
        fill(fresh, state, "file")


def two_towers(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    vision, text = CONFIG["vision_cfg"], CONFIG["text_cfg"]
    return moved(open_clip.CustomTextCLIP(tiny.DIM, vision, text, init_logit_bias=-10), seed)  # type: ignore[arg-type]


VISION = {"image_size": 48, "timm_model_pretrained": False}
SMALL: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {  # vision_cfg, what makes timm's network small, mean
    "EVA02-B-16": (
        {"timm_model_name": "eva02_base_patch16_clip_224", "timm_pool": "token", "timm_proj": None},
        {"img_size": 48, "depth": 2, **towers.SMALL},
        0.48145466,
    ),
    "ViT-B-16-SigLIP": (
        {"timm_model_name": "vit_base_patch16_siglip_224", "timm_pool": "map", "timm_proj": "none"},
        {"img_size": 48, "depth": 2, **towers.SMALL},
        0.5,
    ),
    "MobileCLIP-S1": (
        {"timm_model_name": "fastvit_mci1", "timm_pool": "avg", "timm_proj": None, "image_size": 64},
        {"layers": (1, 1, 1, 1), "embed_dims": (8, 16, 32, 32)},
        0.0,
    ),
    "convnext_base": (
        {"timm_model_name": "convnext_base", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
        {"depths": (1, 1, 1, 1), "dims": (8, 16, 24, 40)},
        0.48145466,
    ),
    "RN50": (
        {"layers": [1, 1, 1, 1], "width": 16, "head_width": 32, "patch_size": None, "image_size": 64},
        {},
        0.48145466,
    ),
}


@pytest.fixture(params=SMALL)
def small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, float]:
    """An architecture of open_clip's list, its config and timm's network made small; and its mean."""
    vision, options, mean = SMALL[request.param]
    config = {
        "embed_dim": 48,
        "vision_cfg": VISION | vision if "timm_model_name" in vision else vision,
        "text_cfg": CONFIG["text_cfg"] | {"hf_tokenizer_name": "timm/some" if "SigLIP" in request.param else ""},
        "custom_text": "SigLIP" in request.param or "EVA" in request.param,
    }
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, request.param, config)
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **options))
    return request.param, mean


def test_every_family_opens_from_a_file_by_its_architecture(small: tuple[str, float], tmp_path: Path) -> None:
    architecture, mean = small
    model: Any = moved(open_clip.create_model(architecture, load_weights=False))
    file = tmp_path / "own.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    own = open_clip.tokenizer.SimpleTokenizer(context_length=16)
    clip = load.load(f"{architecture}@{file}", tokenizer=own)
    walk = families.find(clip.visual)
    assert clip.tokenizer is own and clip.context_length == 16 and clip.mean[0] == mean and len(clip.std) == 3
    assert clip.dim == walk.dim == 48 and clip.image_size == (walk.native[0] * walk.patch[0],) * 2
    pixels, words = torch.randn(2, 3, *clip.image_size), own(["a dog", "two cats"])
    with torch.inference_mode():
        torch.testing.assert_close(clip.model.encode_image(pixels), model.encode_image(pixels), rtol=0, atol=1e-5)
        torch.testing.assert_close(clip.model.encode_text(words), model.encode_text(words), rtol=0, atol=1e-5)


@pytest.mark.parametrize("small", ["ViT-B-16-SigLIP"], indirect=True)
def test_what_belongs_to_a_network_is_asked_for_before_it_is_built(
    small: tuple[str, float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.safetensors"
    save_file({"logit_scale": torch.ones(())}, file)
    monkeypatch.setattr("ovseg.clip.hub.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="ViT-B-16-SigLIP reads words by timm/some, which needs transformers"):
        load.load(f"{small[0]}@{file}")
    with pytest.raises(MissingExtra, match="by xlm-roberta-base, which needs transformers"):  # its text tower as well
        load.load(f"xlm-roberta-base-ViT-B-32@{file}", tokenizer=open_clip.tokenizer.SimpleTokenizer())


def test_pixels_are_normalised_as_the_published_weights_were() -> None:
    half, whole = ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)
    wanted = {"ViT-L-16-SigLIP2-256": half, "PE-Core-B-16": half, "MobileCLIP-S2": whole, "MobileCLIP2-B": whole}
    assert {name: load._moments(name) for name in wanted} == wanted
    openai = (load.OPENAI_MEAN, load.OPENAI_STD)
    assert load._moments("EVA02-L-14") == load._moments("ViTamin-L") == load._moments("RN101") == openai
    assert load._moments("ViT-L-14") == openai  # published with two different means
    assert load._moments("ViT-S-16") == openai  # never published
    assert load._moments("ViT-L-14-CLIPA")[0] == (0.485, 0.456, 0.406)


def test_file_that_describes_a_network_of_timm_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vision, options, _ = SMALL["EVA02-B-16"]
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, **options))
    config = {"embed_dim": 32, "vision_cfg": VISION | vision, "text_cfg": CONFIG["text_cfg"], "custom_text": True}
    parts = {key: value for key, value in config.items() if key != "custom_text"}
    model: Any = moved(open_clip.CustomTextCLIP(**parts))
    file = tmp_path / "own.safetensors"
    save_file(
        {key: value.contiguous() for key, value in model.state_dict().items()}, file, {"model_cfg": json.dumps(config)}
    )
    clip = load.load(str(file))
    pixels = torch.randn(2, 3, 48, 48)
    assert clip.dim == 32
    torch.testing.assert_close(clip.model.encode_image(pixels), model.encode_image(pixels), rtol=0, atol=1e-5)
    unknown = config | {"vision_cfg": VISION | vision | {"timm_model_name": "no_such_network"}}
    save_file({"a": torch.zeros(1)}, file, {"model_cfg": json.dumps(unknown)})
    with pytest.raises(BadWeights, match="not open_clip's model_cfg: Unknown model"):
        load.load(str(file))


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["EVA02-B-16", "RN50"])
def test_networks_of_real_size_open_from_a_file(architecture: str, tmp_path: Path) -> None:
    model: Any = open_clip.create_model(architecture, load_weights=False).eval()
    file = tmp_path / "own.safetensors"
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, file)
    clip = load.load(f"{architecture}@{file}")
    pixels = torch.randn(1, 3, *clip.image_size)
    torch.testing.assert_close(clip.model.encode_image(pixels), model.encode_image(pixels), rtol=0, atol=1e-5)
    walk = families.find(clip.visual)
    tap, grid = towers.last(walk, pixels)
    torch.testing.assert_close(walk.whole(tap, grid), model.encode_image(pixels), rtol=0, atol=1e-5)


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


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_a_network_in_half_precision_is_refused_when_it_is_wrapped(kind: torch.dtype) -> None:
    with pytest.raises(BadUsage, match=f"holds {str(kind)[6:]} parameters .* call .float"):
        wrap(tiny.model().to(kind), open_clip.tokenizer.SimpleTokenizer())


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
