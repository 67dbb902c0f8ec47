import numpy as np
import pytest
import torch
from numpy.random import Generator
from pycocotools import mask as coco
from segment_anything.utils.amg import mask_to_rle_pytorch, remove_small_regions

from ovseg.raster import encode_rle
from ovseg.sam.runs import Kept, compress, without_specks
from ovseg.sam.stretch import Cut


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(5)


def masks(rng: Generator, height: int = 23, width: int = 17) -> list[np.ndarray]:
    """Masks of every sort that runs have trouble with."""
    out = [np.zeros((height, width), bool), np.ones((height, width), bool)]
    out += [rng.random((height, width)) < share for share in (0.02, 0.5, 0.98)]
    for top, left, bottom, right in [(3, 5, 9, 14), (0, 5, height, 14), (0, 0, 1, 1), (height - 1, width - 1, 99, 99)]:
        out.append(np.zeros((height, width), bool))
        out[-1][top:bottom, left:right] = True
    disc = np.hypot(*(np.mgrid[:height, :width] - np.array([11, 8])[:, None, None])) < 7
    return [*out, disc, ~disc]


def cropped(mask: np.ndarray, margin: int = 0) -> Kept:
    """The mask as kept from the part of its frame that holds it and so many pixels more."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return Kept.of(Cut(np.zeros((0, 0), bool), 0, 0, 0, 0))
    top, left = max(0, rows[0] - margin), max(0, cols[0] - margin)
    bits = np.ascontiguousarray(mask[top : rows[-1] + 1 + margin, left : cols[-1] + 1 + margin].T)
    return Kept.of(Cut(bits, int(left), int(top), 0, 0))


@pytest.mark.parametrize("margin", [0, 1, 99])
def test_runs_are_segment_anythings_and_pycocotools_own(margin: int, rng: Generator) -> None:
    for mask in masks(rng):
        kept = cropped(mask, margin)
        counts = kept.counts(*mask.shape)
        assert counts == mask_to_rle_pytorch(torch.from_numpy(mask)[None])[0]["counts"]
        assert all(type(count) is int for count in counts)
        assert kept.rle(*mask.shape) == encode_rle(mask)
        assert (coco.decode(compress(counts, *mask.shape)) == mask).all()
        assert (kept.mask(*mask.shape) == mask).all()
        assert kept.area == mask.sum()


def test_a_corner_moves_the_mask_in_its_frame(rng: Generator) -> None:
    mask = rng.random((4, 3)) < 0.5
    frame = np.zeros((9, 11), bool)
    frame[2:6, 7:10] = mask
    kept = Kept.of(Cut(np.ascontiguousarray(mask.T), 0, 0, 0, 0), (7, 2))
    assert kept.rle(9, 11) == encode_rle(frame)
    assert (kept.mask(9, 11) == frame).all()


def test_smooth_masks_are_kept_as_changes_and_noise_as_bits(rng: Generator) -> None:
    smooth = np.hypot(*(np.mgrid[:300, :200] - np.array([150, 90])[:, None, None])) < 80
    assert cropped(smooth).changes.nbytes < smooth.size / 50
    rough = rng.random((300, 200)) < 0.5
    assert cropped(rough).changes is None and cropped(rough).packed.nbytes <= rough.size / 8 + 1


@pytest.mark.parametrize("smallest", [1, 5, 40, 1000])
def test_specks_go_as_in_segment_anything(smallest: int, rng: Generator) -> None:
    for mask in masks(rng)[1:]:
        wanted, holes = remove_small_regions(mask, smallest, "holes")
        wanted, islands = remove_small_regions(wanted, smallest, "islands")
        found, changed = without_specks(mask, smallest)
        assert (found == wanted).all()
        assert changed == (holes or islands)
