"""Promise 2: each method equals its authors' released program on the stored inputs, square grids and others."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ovseg.clip.attention import Read, read, taps_of
from ovseg.clip.mend import detect, outlier_score
from ovseg.clip.methods import LAST_BLOCKS, VARIANTS, last_block
from ovseg.clip.program import Group, LastBlock, Term
from ovseg.clip.sight import Sight
from ovseg.clip.tower import dense_tokens, grid_of, prefix
from ovseg.clip.walk import Vit, Walk, resampled

# names in the stored data that ours differ from
OURS = {"maskclip_keep": "maskclip", "maskclip_drop": "maskclip-reduced", "resclip_rcs": "resclip"}
# what is no row: plug-ins with tests of their own (tests/clip/plugins), positions, another activation (below)
ELSEWHERE = {
    "cass", "clip_dinoiser", "corrclip", "decomposition", "itaclip_views", "maskclip_published", "positions", "resclip",
    "trident",
}  # fmt: skip
ROWS = [
    "cliper", "cliper_vv", "clearclip", "clearclip_keep", "clearclip_last2", "clip_surgery", "cliptrase", "gem",
    "gem_iter2_depth5", "gem_temp4", "itaclip", "itaclip_qk", "kk", "maskclip_drop", "maskclip_keep", "naclip",
    "naclip_keep", "naclip_std1", "nonly", "pearl", "pearl_svd", "proxyclip", "resclip_rcs", "resclip_rcs_clearclip",
    "resclip_rcs_sclip", "sc_clip", "sclip", "sclip_drop", "segearth", "sfp", "vanilla", "vanilla_drop",
]  # fmt: skip
INPUTS = ("native", "wide", "tall")


def make_tower(golden: Path, quick_gelu: bool = True) -> torch.nn.Module:
    config = json.loads((golden / "model.json").read_text())
    clip = open_clip.CLIP(config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=quick_gelu)
    clip.visual.load_state_dict(load_file(golden / "model.safetensors"))
    return clip.visual.eval()


@pytest.fixture(scope="module")
def tower(golden_dense: Path) -> torch.nn.Module:
    return make_tower(golden_dense)


@pytest.fixture(scope="module")
def pixels(golden_dense: Path) -> dict[str, Tensor]:
    return load_file(golden_dense / "inputs.safetensors")


def stored(golden: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    manifest = json.loads((golden / "manifest.json").read_text())["methods"][name]
    return load_file(golden / "outputs" / f"{name}.safetensors"), manifest


def seen(walk: Walk, pixels: Tensor, row: LastBlock, *, compat: bool = False, **given: Tensor) -> Read:
    with torch.inference_mode():
        taps = prefix(walk, pixels, taps_of(row, walk.depth))
        return read(Sight(walk, taps, grid_of(walk, pixels), given, compat), row)


def test_every_stored_program_is_tested_somewhere(golden_dense: Path) -> None:
    manifest = json.loads((golden_dense / "manifest.json").read_text())["methods"]
    assert set(manifest) == {*ROWS, *ELSEWHERE}


@pytest.mark.parametrize("name", ROWS)
def test_the_door_gives_the_published_numbers(
    golden_dense: Path, tower: torch.nn.Module, pixels: dict[str, Tensor], name: str
) -> None:
    wanted, manifest = stored(golden_dense, name)
    guide = pixels["guide"] if name == "proxyclip" else None
    assert set(manifest["inputs"]) <= set(INPUTS) and manifest["inputs"]
    with torch.inference_mode():
        for key in manifest["inputs"]:
            got = dense_tokens(tower, pixels[key], OURS.get(name, name), guide=guide)
            torch.testing.assert_close(got, wanted[key], rtol=0, atol=manifest.get("tolerance", 1e-4))


@pytest.mark.parametrize("name", ["vanilla", "segearth"])
def test_image_token_of_the_changed_block_is_the_published_one(
    golden_dense: Path, tower: torch.nn.Module, pixels: dict[str, Tensor], name: str
) -> None:
    wanted, _ = stored(golden_dense, name)
    for key in INPUTS:
        own = seen(Vit(tower), pixels[key], last_block(name)).own
        torch.testing.assert_close(own, wanted[f"{key}.cls"], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "size", "row", "compat"),
    [
        ("native.batch_of_two", 12, LAST_BLOCKS["proxyclip"], True),
        ("native.same_grid", 7, LAST_BLOCKS["proxyclip"], False),
        (
            "native.beta0.9_gamma5",
            12,
            replace(LAST_BLOCKS["proxyclip"], groups=(Group((Term("guide", scale=5.0, shift=0.9, cut=True),)),)),
            False,
        ),
    ],
)
def test_guided_row_equals_the_program_at_other_settings(
    golden_dense: Path,
    tower: torch.nn.Module,
    pixels: dict[str, Tensor],
    key: str,
    size: int,
    row: LastBlock,
    compat: bool,
) -> None:
    wanted, _ = stored(golden_dense, "proxyclip")
    guide = pixels["guide"][:, :, :size, :size]
    got = seen(Vit(tower), pixels["native"], row, compat=compat, guide=guide).cells
    torch.testing.assert_close(got, wanted[key], rtol=0, atol=1e-4)


def test_outliers_are_those_that_the_program_found(
    golden_dense: Path, tower: torch.nn.Module, pixels: dict[str, Tensor]
) -> None:
    wanted, _ = stored(golden_dense, "sc_clip")
    row, walk = LAST_BLOCKS["sc-clip"], Vit(tower)
    assert row.repair is not None
    for key in ("native", "tall"):
        grid = grid_of(walk, pixels[key])
        with torch.inference_mode():
            taps = prefix(walk, pixels[key], taps_of(row, 12))
            found = detect(Sight(walk, taps, grid), row.repair)
            score = outlier_score(taps[12][:, 1:])
        if key == "native":
            torch.testing.assert_close(score, wanted["native.lof"], rtol=0, atol=1e-4)
            for numbers, flags in zip(wanted["native.outliers"].tolist(), found, strict=True):
                assert {int(n) for n in numbers if n >= 0} == set(flags.nonzero()[:, 0].tolist())


def test_outliers_off_the_square_are_mended_where_they_are(
    golden_dense: Path, tower: torch.nn.Module, pixels: dict[str, Tensor]
) -> None:
    """The program divides a flat index by rows; with that one step mended, the rest is its own."""
    wanted, _ = stored(golden_dense, "sc_clip")
    got = seen(Vit(tower), pixels["tall"], LAST_BLOCKS["sc-clip"]).cells
    torch.testing.assert_close(got, wanted["tall.index_corrected"], rtol=0, atol=1e-4)


def test_other_detector_of_sfp_equals_the_program(
    golden_dense: Path, tower: torch.nn.Module, pixels: dict[str, Tensor]
) -> None:
    wanted, _ = stored(golden_dense, "sfp")
    got = seen(Vit(tower), pixels["native"], VARIANTS["sfp-norm"]).cells
    torch.testing.assert_close(got, wanted["native.L2"], rtol=0, atol=1e-4)


def test_maskclips_own_configuration_is_another_activation_and_epsilon(
    golden_dense: Path, pixels: dict[str, Tensor]
) -> None:
    wanted, _ = stored(golden_dense, "maskclip_published")
    plain = make_tower(golden_dense, quick_gelu=False)
    for part in plain.modules():
        if isinstance(part, torch.nn.LayerNorm):
            part.eps = 1e-6
    with torch.inference_mode():
        for key in INPUTS:
            got = dense_tokens(plain, pixels[key], "maskclip")
            torch.testing.assert_close(got, wanted[key], rtol=0, atol=1e-4)
            cosine = torch.nn.functional.normalize(got, dim=-1) @ pixels["text"].T
            torch.testing.assert_close(cosine, wanted[f"{key}.cosine"], rtol=0, atol=1e-4)


def test_image_vector_equals_the_published_forward(
    golden_dense: Path, tower: torch.nn.Module, pixels: dict[str, Tensor]
) -> None:
    wanted, _ = stored(golden_dense, "vanilla")
    walk = Vit(tower)
    with torch.inference_mode():
        for key in INPUTS:
            got = walk.whole(prefix(walk, pixels[key])[12], grid_of(walk, pixels[key]))
            torch.testing.assert_close(got, wanted[f"{key}.cls"], rtol=0, atol=1e-5)


def test_other_ways_to_resample_positions_equal_their_programs(
    golden_dense: Path, tower: torch.nn.Module, pixels: dict[str, Tensor]
) -> None:
    wanted, _ = stored(golden_dense, "positions")
    own = tower.positional_embedding
    for grid, key in (((5, 9), "wide"), ((10, 6), "tall")):
        exact = pixels[f"pos_{grid[0]}x{grid[1]}"]
        torch.testing.assert_close(resampled(own, 1, (7, 7), grid), exact, rtol=0, atol=1e-5)
        for mode, name in (("scale01", "scale_factor"), ("antialias", "antialias")):
            got = resampled(own, 1, (7, 7), grid, mode)
            torch.testing.assert_close(got, wanted[f"{key}.{name}"], rtol=0, atol=1e-5)
