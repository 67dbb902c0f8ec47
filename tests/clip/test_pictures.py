"""Methods of whole pictures from bytes to features: the plug-ins' answers, on windows and grids laid out right."""

from dataclasses import replace
from inspect import Parameter, signature
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tiny
from ovseg.clip import dense, pictures, tower
from ovseg.clip.dense import Reading
from ovseg.clip.guides import Guide, load_guide
from ovseg.clip.load import Clip
from ovseg.clip.methods import PICTURES
from ovseg.clip.plugins import cass, corrclip, itaclip, trident
from ovseg.clip.walk import Vit
from ovseg.errors import BadInput, BadUsage, UnknownName, UnsupportedTower
from ovseg.raster import upsample
from ovseg.types import DenseFeatures
from tests.clip.guides.networks import fingerprint, guide, vit
from tests.sam.narrow import narrow_sam

WIDE = tiny.picture(64, 104, seed=3)
PARTS = np.full((64, 104), -1, np.int32)
PARTS[:, :50], PARTS[20:60, 60:] = 0, 1


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


@pytest.fixture(scope="module")
def fine() -> Guide:
    return guide(vit(patch_size=4, img_size=24))


@pytest.fixture(scope="module")
def sam() -> Guide:
    return load_guide("sam", sam=narrow_sam())


def seen(one: Guide, clip: Clip, pixels: torch.Tensor) -> torch.Tensor:
    return one.features(pixels, mean=clip.mean, std=clip.std)


def windows_of(pixels: torch.Tensor) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """48 px windows of 64 x 104 px by hand: rows 0, 16; columns 0, 24, 48, 56."""
    corners = [(top, left) for top in (0, 16) for left in (0, 24, 48, 56)]
    return torch.stack([pixels[:, top : top + 48, left : left + 48] for top, left in corners]), corners


def test_trident_joins_its_windows_and_answers_on_sams_grid(clip: Clip, fine: Guide, sam: Guide) -> None:
    got = pictures.trident(clip, WIDE, Reading(short_side=64), guide=fine, sam=sam)
    windows, corners = windows_of(dense.normalised(clip, WIDE))
    attention, values = sam.last_attention(torch.from_numpy(WIDE).permute(2, 0, 1)[None])
    places = [(top // 8, left // 8, top // 8 + 6, left // 8 + 6) for top, left in corners]
    walk = tower.check(clip.visual, "proxyclip")
    wanted = trident.trident(walk, windows, seen(fine, clip, windows), places, attention[0], values[0])
    assert got.grid == (9, 16) and (got.height, got.width) == (64, 104)
    np.testing.assert_allclose(got.vectors, F.normalize(wanted, dim=-1).detach().permute(2, 0, 1), atol=1e-5)
    other = pictures.trident(clip, WIDE, Reading(short_side=64), guide=fine, sam=sam, factor=0.0)
    assert np.abs(other.vectors - got.vectors).max() > 1e-3
    assert np.array_equal(got.whole, dense.encode_images(clip, [WIDE])[0])


def test_corrclip_is_read_by_windows_that_are_averaged_on_the_guides_grid(clip: Clip, fine: Guide) -> None:
    got = pictures.corrclip(clip, WIDE, Reading(short_side=64), guide=fine, parts=PARTS)
    windows, corners = windows_of(dense.normalised(clip, WIDE))
    walk, total = tower.check(clip.visual, "proxyclip"), torch.zeros(16, 26, tiny.DIM)
    for window, (top, left) in zip(windows, corners, strict=True):
        region = torch.from_numpy(PARTS[top : top + 48, left : left + 48] + 1)[None]
        cells = corrclip.corrclip(walk, window[None], seen(fine, clip, window[None]), region)[0]
        total[top // 4 : top // 4 + 12, left // 4 : left // 4 + 12] += F.normalize(cells, dim=-1)
    assert got.grid == (16, 26)
    np.testing.assert_allclose(got.vectors, F.normalize(total, dim=-1).permute(2, 0, 1), atol=1e-5)


def test_regions_keep_their_place_when_the_picture_is_read_smaller(clip: Clip, fine: Guide) -> None:
    """Twice as large a picture with twice as large regions is the same question."""
    large = WIDE.repeat(2, axis=0).repeat(2, axis=1)
    parts = PARTS.repeat(2, axis=0).repeat(2, axis=1)
    got = pictures.corrclip(clip, large, Reading(short_side=64, crop=-1), guide=fine, parts=parts)
    wanted = pictures.corrclip(clip, WIDE, Reading(short_side=64, crop=-1), guide=fine, parts=PARTS)
    shuffled = pictures.corrclip(
        clip, WIDE, Reading(short_side=64, crop=-1), guide=fine, parts=PARTS[::-1, ::-1].copy()
    )
    near, far = (np.abs(one.vectors - wanted.vectors).mean() for one in (got, shuffled))
    assert near < far / 2 and (got.height, got.width) == (128, 208)


def test_a_picture_without_regions_is_read_all_the_same(clip: Clip, fine: Guide) -> None:
    none = np.full((64, 104), -1, np.int32)
    got = pictures.corrclip(clip, WIDE, Reading(short_side=64), guide=fine, parts=none)
    np.testing.assert_allclose(np.linalg.norm(got.vectors, axis=0), 1, atol=1e-5)


def test_what_cannot_be_laid_out_gets_a_sentence(clip: Clip, fine: Guide, sam: Guide) -> None:
    with pytest.raises(BadUsage, match="got paper"):
        pictures.trident(clip, WIDE, Reading(protocol="paper"), guide=fine, sam=sam)
    with pytest.raises(BadUsage, match="one scale"):
        pictures.corrclip(clip, WIDE, Reading(scales=(0.5, 1.0)), guide=fine, parts=PARTS)
    with pytest.raises(BadInput, match="parts must be of the picture: 104x64 and 64x104"):
        pictures.corrclip(clip, WIDE, Reading(), guide=fine, parts=PARTS.T.copy())
    with pytest.raises(BadUsage, match="SAM's alone"):
        pictures.trident(clip, WIDE, Reading(short_side=64), guide=fine, sam=fine)


def encoded(method: str, clip: Clip, fine: Guide, sam: Guide, **change: Any) -> DenseFeatures:
    reading = Reading(method, **{"short_side": 64, **change})
    return pictures.encode(clip, WIDE, reading, guide=fine, sam=sam, parts=PARTS)


def test_every_method_has_its_reader_and_the_options_that_its_row_names() -> None:
    assert set(pictures.READERS) == set(PICTURES)
    for name, row in PICTURES.items():
        given = signature(pictures.READERS[name]).parameters.values()
        named = {one.name: one.default for one in given if one.kind is one.KEYWORD_ONLY}
        assert set(row.needs) == {key for key, usual in named.items() if usual is Parameter.empty}
        assert dict(row.options) == {key: usual for key, usual in named.items() if usual is not Parameter.empty}


def test_one_whole_window_is_the_plug_ins_answer(clip: Clip, fine: Guide, sam: Guide) -> None:
    walk, pixels = Vit(clip.visual), dense.normalised(clip, WIDE)[None]
    keys, regions = seen(fine, clip, pixels), torch.from_numpy(PARTS + 1)[None]
    attention, values = sam.last_attention(torch.from_numpy(WIDE).permute(2, 0, 1)[None])
    wanted = {
        "itaclip-views": itaclip.views(walk, pixels)[0],
        "cass": cass.cass(walk, pixels, keys)[0],
        "corrclip": corrclip.corrclip(walk, pixels, keys, regions)[0],
        "trident": trident.trident(walk, pixels, keys, [(0, 0, 8, 13)], attention[0], values[0]),
    }
    assert set(wanted) == set(PICTURES)
    for name, cells in wanted.items():
        got = encoded(name, clip, fine, sam, crop=-1)
        np.testing.assert_allclose(got.vectors, F.normalize(cells, dim=-1).detach().permute(2, 0, 1), atol=2e-5)
        assert np.array_equal(got.whole, dense.encode_images(clip, [WIDE])[0]) and got.windows is None


@pytest.mark.parametrize("name", ["itaclip-views", "cass", "corrclip"])
def test_token_bound_changes_nothing(
    name: str, clip: Clip, fine: Guide, sam: Guide, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = encoded(name, clip, fine, sam)
    monkeypatch.setattr(dense, "TOKENS_PER_BATCH", 300)
    np.testing.assert_allclose(encoded(name, clip, fine, sam).vectors, wanted.vectors, atol=1e-5)


@pytest.mark.parametrize("name", PICTURES)
def test_scales_meet_on_the_finest_grid_and_every_option_changes_something(
    name: str, clip: Clip, fine: Guide, sam: Guide
) -> None:
    small, large, both = (encoded(name, clip, fine, sam, crop=-1, scales=s) for s in ((0.5,), (1.0,), (0.5, 1.0)))
    total = upsample(small.vectors, *large.grid) + large.vectors
    np.testing.assert_allclose(both.vectors, total / np.linalg.norm(total, axis=0), atol=1e-5)
    for option, usual in PICTURES[name].options.items():
        other = not usual if isinstance(usual, bool) else 0.31
        given = {"factor": -1.0} if option == "negative" else {}  # it stands in where thresholds fall below 0
        base = encoded(name, clip, fine, sam, options=given)
        changed = encoded(name, clip, fine, sam, options={**given, option: other})
        assert np.abs(changed.vectors - base.vectors).max() > 1e-4, option


def test_paper_protocol_keeps_the_windows_as_the_programs_blend_them(clip: Clip, fine: Guide, sam: Guide) -> None:
    got = encoded("itaclip-views", clip, fine, sam, protocol="paper", crop=-1).windows
    walk, pixels = Vit(clip.visual), dense.normalised(clip, WIDE)[None]
    wanted = itaclip.views(walk, pixels, positions="scale01")[0].permute(2, 0, 1)
    assert got is not None and (np.linalg.norm(got.vectors[0], axis=0) < 0.9999).any()
    np.testing.assert_allclose(got.vectors[0], wanted.detach(), atol=1e-5)
    for name in ("cass", "corrclip"):
        windows = encoded(name, clip, fine, sam, protocol="paper", short_side=61).windows
        assert windows is not None and windows.canvas == (61, 99) and np.isfinite(windows.vectors).all()


def test_what_lacks_is_said_and_what_is_not_needed_is_never_looked_at(clip: Clip, fine: Guide, sam: Guide) -> None:
    silent: Any = replace(fine, network=None)
    pictures.encode(clip, WIDE, Reading("itaclip-views", short_side=48), guide=silent, sam=silent)
    with pytest.raises(BadUsage, match=r"method cass needs a guide \(another network\): give it \(guides: dino-b8"):
        pictures.encode(clip, WIDE, Reading("cass"), sam=sam, parts=PARTS)
    with pytest.raises(BadUsage, match="method corrclip needs regions"):
        pictures.encode(clip, WIDE, Reading("corrclip"), guide=fine, sam=sam)
    with pytest.raises(BadUsage, match="method trident needs a SAM"):
        pictures.encode(clip, WIDE, Reading("trident"), guide=fine, parts=PARTS)
    with pytest.raises(UnknownName, match="method of whole pictures must be one of cass, corrclip"):
        pictures.encode(clip, WIDE, Reading("sclip"), guide=fine)
    with pytest.raises(UnsupportedTower, match="corrclip"):
        pictures.encode(tiny.clip(pool_type="avg"), WIDE, Reading("corrclip", short_side=48), guide=fine, parts=PARTS)


def test_the_tower_is_left_as_it_was(clip: Clip, fine: Guide, sam: Guide) -> None:
    before = fingerprint(clip.model)
    for name in PICTURES:
        encoded(name, clip, fine, sam)
    assert str(fingerprint(clip.model)) == str(before)
