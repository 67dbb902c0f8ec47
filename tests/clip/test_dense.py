from typing import Any

import numpy as np
import pytest
import torch

import tiny
from ovseg.clip import dense, tower
from ovseg.clip.attention import read
from ovseg.clip.dense import Reading, encode, encode_images, encode_methods
from ovseg.clip.guides import load_guide
from ovseg.clip.load import Clip
from ovseg.clip.methods import last_block
from ovseg.clip.sight import Sight
from ovseg.errors import BadInput, BadUsage, UnknownName, UnsupportedTower

WIDE, TALL, SMALL = tiny.picture(48, 80), tiny.picture(91, 50, seed=1), tiny.picture(33, 20, seed=2)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


def test_one_whole_window_is_the_towers_own_answer(clip: Clip) -> None:
    (got,) = encode(clip, [WIDE], Reading("sclip", short_side=48, crop=-1))
    pixels = dense.normalised(clip, WIDE)[None]
    wanted = torch.nn.functional.normalize(tower.dense_tokens(clip.visual, pixels, "sclip"), dim=-1)[0]
    assert got.grid == (6, 10) and got.cell == (8.0, 8.0)
    np.testing.assert_allclose(got.vectors, wanted.permute(2, 0, 1), atol=1e-5)
    walk = tower.check(clip.visual, "sclip")
    own = torch.nn.functional.normalize(walk.whole(tower.prefix(walk, pixels)[3], (6, 10)), dim=-1)
    np.testing.assert_allclose(got.whole, own[0], atol=1e-5)


@pytest.mark.parametrize("protocol", dense.PROTOCOLS)
def test_answer_of_a_picture_does_not_depend_on_the_others(clip: Clip, protocol: str) -> None:
    reading = Reading("naclip", protocol=protocol, short_side=56)
    together = encode(clip, [WIDE, TALL, SMALL], reading)
    for picture, wanted in zip([WIDE, TALL, SMALL], together, strict=True):
        (alone,) = encode(clip, [picture], reading)
        np.testing.assert_allclose(alone.vectors, wanted.vectors, atol=1e-5)
        np.testing.assert_allclose(alone.whole, wanted.whole, atol=1e-5)
        assert (alone.height, alone.width) == picture.shape[:2]


def test_windows_are_averaged_on_the_patch_grid(clip: Clip) -> None:
    """64 x 104 px at patch 8: windows of 48 at rows 0, 16 and columns 0, 24, 48, 56; the slow way, cell by cell."""
    picture = tiny.picture(64, 104, seed=3)
    (got,) = encode(clip, [picture], Reading("clearclip", short_side=64))
    pixels = dense.normalised(clip, picture)
    total = torch.zeros(8, 13, tiny.DIM)
    for top in (0, 16):
        for left in (0, 24, 48, 56):
            window = pixels[None, :, top : top + 48, left : left + 48]
            cells = torch.nn.functional.normalize(tower.dense_tokens(clip.visual, window, "clearclip"), dim=-1)[0]
            for row in range(6):
                for col in range(6):
                    total[top // 8 + row, left // 8 + col] += cells[row, col]
    wanted = torch.nn.functional.normalize(total, dim=-1).permute(2, 0, 1)
    np.testing.assert_allclose(got.vectors, wanted, atol=1e-5)


def test_token_bound_changes_nothing(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    (wanted,) = encode(clip, [TALL], Reading(short_side=64))
    monkeypatch.setattr(dense, "TOKENS_PER_BATCH", 40)
    (got,) = encode(clip, [TALL], Reading(short_side=64))
    np.testing.assert_allclose(got.vectors, wanted.vectors, atol=1e-5)


def test_paper_protocol_keeps_windows_of_the_published_layout(clip: Clip) -> None:
    (got,) = encode(clip, [TALL], Reading("sclip", protocol="paper", short_side=53, crop=48, stride=24))
    assert got.windows is not None
    assert got.windows.canvas == (96, 53)  # 91 x 50 with the short side at 53, ratio kept
    assert sorted(set(got.windows.tops.tolist())) == [0, 24, 48]
    assert sorted(set(got.windows.lefts.tolist())) == [0, 5]  # the last one is shifted inwards, off the patch grid
    assert got.windows.vectors.shape == (6, tiny.DIM, 6, 6)
    assert np.isfinite(got.vectors).all()


def test_paper_protocol_takes_the_methods_own_positions(clip: Clip) -> None:
    picture = tiny.picture(48, 80)
    (got,) = encode(clip, [picture], Reading("sclip", protocol="paper", short_side=48, crop=-1))
    pixels = dense.normalised(clip, picture)[None]
    ours = torch.nn.functional.normalize(tower.dense_tokens(clip.visual, pixels, "sclip"), dim=-1)[0].permute(2, 0, 1)
    theirs = tower.dense_tokens(clip.visual, pixels, "sclip", positions="scale01")
    theirs = torch.nn.functional.normalize(theirs, dim=-1)[0].permute(2, 0, 1)
    np.testing.assert_allclose(got.vectors, theirs, atol=1e-5)
    assert np.abs(got.vectors - ours.numpy()).max() > 1e-3


def test_flat_and_thin_pictures_stay_finite(clip: Clip) -> None:
    flat, thin = np.full((48, 80, 3), 7, np.uint8), tiny.picture(20, 900)
    for features in encode(clip, [flat, thin], Reading(short_side=48, long_side=240)):
        assert np.isfinite(features.vectors).all()
        np.testing.assert_allclose(np.linalg.norm(features.vectors, axis=0), 1, atol=1e-5)


def test_pictures_are_not_written(clip: Clip) -> None:
    before = WIDE.copy()
    encode(clip, [WIDE], Reading(short_side=48))
    encode_images(clip, [WIDE])
    assert np.array_equal(before, WIDE)


def test_whole_pictures_get_the_networks_own_vector(clip: Clip) -> None:
    square = tiny.picture(48, 48)
    got = encode_images(clip, [square, WIDE])
    wanted = clip.model.encode_image(dense.normalised(clip, square)[None], normalize=True)
    np.testing.assert_allclose(got[:1], wanted, atol=1e-5)
    assert got.shape == (2, tiny.DIM) and encode_images(clip, []).shape == (0, tiny.DIM)


def test_progress_counts_windows(clip: Clip) -> None:
    seen: list[tuple[int, int]] = []
    encode(clip, [WIDE, TALL], Reading(short_side=64), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 2


def test_scales_are_averaged_on_the_finest_grid(clip: Clip) -> None:
    base = Reading("sclip", short_side=48, crop=-1)
    (got,) = encode(clip, [WIDE], Reading("sclip", short_side=48, crop=-1, scales=(1.0, 1.5)))
    coarse, fine = (encode(clip, [WIDE], one)[0] for one in (base, Reading("sclip", short_side=72, crop=-1)))
    assert got.grid == fine.grid == (9, 15) and (got.height, got.width) == (48, 80)
    spread = torch.nn.functional.interpolate(torch.from_numpy(coarse.vectors)[None], (9, 15), mode="bilinear")[0]
    wanted = torch.nn.functional.normalize(spread + torch.from_numpy(fine.vectors), dim=0)
    np.testing.assert_allclose(got.vectors, wanted, atol=1e-5)
    own = coarse.whole + fine.whole
    np.testing.assert_allclose(got.whole, own / np.linalg.norm(own), atol=1e-5)
    (same,) = encode(clip, [WIDE], Reading("sclip", short_side=72, crop=-1, scales=(1.0,)))
    (other,) = encode(clip, [WIDE], Reading("sclip", short_side=48, crop=-1, scales=(1.5,)))
    np.testing.assert_allclose(other.vectors, same.vectors, atol=1e-5)


def test_readings_are_checked_when_made(clip: Clip) -> None:
    with pytest.raises(UnknownName, match="protocol must be one of fast, paper"):
        Reading(protocol="quick")
    with pytest.raises(BadUsage, match="short_side must be at least 16"):
        Reading(short_side=3)
    with pytest.raises(BadUsage, match="crop is -1, 0 or pixels"):
        Reading(crop=-2)
    with pytest.raises(BadUsage, match="1 alone under the paper protocol"):
        Reading(protocol="paper", scales=(1.0, 2.0))
    with pytest.raises(UnsupportedTower):
        encode(tiny.clip(layers=2), [WIDE], Reading("resclip"))


def test_paper_protocol_takes_block_numbers_as_they_were_released() -> None:
    deep = tiny.clip(layers=24)
    (got,) = encode(deep, [WIDE], Reading("resclip", protocol="paper", short_side=48, crop=-1))
    pixels = dense.normalised(deep, WIDE)[None]
    as_released = tower.dense_tokens(deep.visual, pixels, "resclip", positions="scale01", layers="as-released")
    wanted = torch.nn.functional.normalize(as_released, dim=-1)[0].permute(2, 0, 1)
    np.testing.assert_allclose(got.vectors, wanted, atol=1e-5)
    with pytest.raises(BadInput, match="the fast protocol"):
        encode(tiny.clip(), [WIDE], Reading("resclip", protocol="paper", short_side=48))


def test_part_of_the_image_token_is_taken_off_every_cell_as_its_authors_do() -> None:
    """SegEarth: logits minus 0.3 times the cosine of the changed block's image token, window by window."""
    clip = tiny.clip()
    (got,) = encode(clip, [WIDE], Reading("segearth", protocol="paper", short_side=48, crop=-1))
    walk, row = tower.check(clip.visual, "segearth"), last_block("segearth")
    pixels = dense.normalised(clip, WIDE)[None]
    taps = tower.prefix(walk, pixels, positions="scale01")
    seen = read(Sight(walk, taps, (6, 10)), row)
    text = torch.nn.functional.normalize(torch.randn(4, tiny.DIM, generator=torch.Generator().manual_seed(2)), dim=-1)
    cells, own = (torch.nn.functional.normalize(part, dim=-1)[0] for part in (seen.cells, seen.own))
    wanted = cells @ text.T - 0.3 * (own @ text.T)
    assert got.windows is not None
    np.testing.assert_allclose(np.einsum("drc,kd->rck", got.windows.vectors[0], text.numpy()), wanted, atol=1e-5)


SEVERAL = ["naclip", "resclip", "segearth", "maskclip", "gem"]  # layers before, own token, three ways of positions


@pytest.mark.parametrize(
    "choices",
    [{"short_side": 56}, {"short_side": 56, "protocol": "paper", "crop": -1}, {"short_side": 40, "scales": (1.0, 1.5)}],
    ids=["windows", "the papers' windows", "two scales"],
)
def test_methods_of_one_pass_have_the_bits_of_each_alone(choices: dict[str, Any]) -> None:
    deep = tiny.clip(layers=12)
    readings = [Reading(name, **choices) for name in SEVERAL]
    together = encode_methods(deep, [WIDE, TALL], readings)
    for number, reading in enumerate(readings):
        for found, alone in zip(together, encode(deep, [WIDE, TALL], reading), strict=True):
            assert np.array_equal(alone.vectors, found[number].vectors)
            assert np.array_equal(alone.whole, found[number].whole)
            assert (alone.windows is None) == (found[number].windows is None)
            if alone.windows is not None and found[number].windows is not None:
                assert np.array_equal(alone.windows.vectors, found[number].windows.vectors)
    assert np.abs(together[0][0].vectors - together[0][1].vectors).max() > 0.01


def test_methods_share_the_blocks_before_them(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    plain = tower.prefix
    monkeypatch.setattr(
        tower, "prefix", lambda walk, pixels, *more: calls.append(len(pixels)) or plain(walk, pixels, *more)
    )
    encode_methods(clip, [WIDE, TALL], [Reading(name, short_side=48, crop=-1) for name in ("naclip", "sclip", "gem")])
    assert calls == [1, 1]  # two pictures of different shapes, three methods


def test_a_guided_method_takes_its_pass_beside_those_without_a_guide(clip: Clip) -> None:
    guide = load_guide("self", clip=clip)
    readings = [Reading(name, short_side=48) for name in ("proxyclip", "sclip")]
    ((guided, plain),) = encode_methods(clip, [WIDE], readings, guide=guide)
    assert np.array_equal(encode(clip, [WIDE], readings[0], guide=guide)[0].vectors, guided.vectors)
    assert np.array_equal(encode(clip, [WIDE], readings[1])[0].vectors, plain.vectors)
    with pytest.raises(BadUsage, match="give a guide"):
        encode_methods(clip, [WIDE], readings)


def test_readings_that_differ_in_more_than_the_method_share_no_pass(clip: Clip) -> None:
    with pytest.raises(BadUsage, match="read pictures alike.*of sclip and naclip differ"):
        encode_methods(clip, [WIDE], [Reading("sclip", short_side=48), Reading("naclip", short_side=56)])
    with pytest.raises(BadUsage, match="none came"):
        encode_methods(clip, [WIDE], [])
    assert encode_methods(clip, [], [Reading("sclip"), Reading("naclip")]) == []
