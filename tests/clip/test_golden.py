"""Promise 2: each method equals its authors' released program on the stored inputs, square grids and others."""

import json
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file

from ovseg.clip.attention import LAST_BLOCKS, QK, Group, LastBlock, Term
from ovseg.clip.tower import dense_tokens, finish, grid_of, image_vector, position_embedding, prefix

# name in the stored data -> a row of ours: the table's, or one of its near relatives
ROWS = {
    "vanilla": LAST_BLOCKS["vanilla"],
    "vanilla_drop": LastBlock((Group((QK,)),), residual=False, mlp=False),
    "maskclip_keep": LAST_BLOCKS["maskclip"],
    "maskclip_drop": LAST_BLOCKS["maskclip-reduced"],
    "sclip": LAST_BLOCKS["sclip"],
    "sclip_drop": replace(LAST_BLOCKS["sclip"], residual=False, mlp=False),
    "clearclip": LAST_BLOCKS["clearclip"],
    "clearclip_keep": replace(LAST_BLOCKS["clearclip"], residual=True, mlp=True),
    "naclip": LAST_BLOCKS["naclip"],
    "naclip_keep": replace(LAST_BLOCKS["naclip"], residual=True, mlp=True),
    "naclip_std1": replace(LAST_BLOCKS["naclip"], groups=(Group((Term("kk"), Term("gauss", std=1.0))),)),
    "kk": LastBlock((Group((Term("kk"),)),), residual=False, mlp=False),
    "cliper_vv": LastBlock((Group((Term("vv"),)),), residual=False, mlp=False),
    "segearth": LastBlock(tuple(Group((Term(s),)) for s in ("qq", "kk", "vv")), residual=False, mlp=False),
    "cliptrase": LastBlock(tuple(Group((Term(s),)) for s in ("qq", "kk", "vv"))),
}
INPUTS = ("native", "wide", "tall")


@pytest.fixture(scope="module")
def tower(golden_dense: Path) -> torch.nn.Module:
    config = json.loads((golden_dense / "model.json").read_text())
    clip = open_clip.CLIP(
        config["embed_dim"], config["vision_cfg"], config["text_cfg"], quick_gelu=config["quick_gelu"]
    )
    clip.visual.load_state_dict(load_file(golden_dense / "model.safetensors"))
    return clip.visual.eval()


@pytest.mark.parametrize("name", ROWS)
def test_row_equals_the_published_program(golden_dense: Path, tower: torch.nn.Module, name: str) -> None:
    manifest = json.loads((golden_dense / "manifest.json").read_text())["methods"][name]
    pixels = load_file(golden_dense / "inputs.safetensors")
    wanted = load_file(golden_dense / "outputs" / f"{name}.safetensors")
    with torch.inference_mode():
        for key in INPUTS:
            tokens, grid = prefix(tower, pixels[key]), grid_of(tower, pixels[key])
            got = finish(tower, tokens, ROWS[name], grid)[:, 1:].unflatten(1, grid)
            torch.testing.assert_close(got, wanted[key], rtol=0, atol=manifest.get("tolerance", 1e-4))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("vanilla", "vanilla"),
        ("maskclip_keep", "maskclip"),
        ("maskclip_drop", "maskclip-reduced"),
        ("sclip", "SCLIP"),
        ("clearclip", "clearclip"),
        ("naclip", "naclip"),
    ],
)
def test_the_door_gives_the_published_numbers(
    golden_dense: Path, tower: torch.nn.Module, name: str, method: str
) -> None:
    pixels = load_file(golden_dense / "inputs.safetensors")
    wanted = load_file(golden_dense / "outputs" / f"{name}.safetensors")
    with torch.inference_mode():
        for key in INPUTS:
            torch.testing.assert_close(dense_tokens(tower, pixels[key], method), wanted[key], rtol=0, atol=1e-4)


def test_image_vector_equals_the_published_forward(golden_dense: Path, tower: torch.nn.Module) -> None:
    pixels = load_file(golden_dense / "inputs.safetensors")
    wanted = load_file(golden_dense / "outputs" / "vanilla.safetensors")
    with torch.inference_mode():
        for key in INPUTS:
            got = image_vector(tower, prefix(tower, pixels[key]))
            torch.testing.assert_close(got, wanted[f"{key}.cls"], rtol=0, atol=1e-5)


def test_other_ways_to_resample_positions_equal_their_programs(golden_dense: Path, tower: torch.nn.Module) -> None:
    stored = load_file(golden_dense / "outputs" / "positions.safetensors")
    pixels = load_file(golden_dense / "inputs.safetensors")
    for grid, key in (((5, 9), "wide"), ((10, 6), "tall")):
        wanted = pixels[f"pos_{grid[0]}x{grid[1]}"]
        torch.testing.assert_close(position_embedding(tower, grid), wanted, rtol=0, atol=1e-5)
        for mode, name in (("scale01", "scale_factor"), ("antialias", "antialias")):
            got = position_embedding(tower, grid, mode)
            torch.testing.assert_close(got, stored[f"{key}.{name}"], rtol=0, atol=1e-5)
