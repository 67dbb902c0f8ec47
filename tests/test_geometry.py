import numpy as np
import pytest

from ovseg.errors import BadUsage
from ovseg.geometry import fit, grid_points, rescale, windows, xywh_to_xyxy, xyxy_to_xywh


@pytest.mark.parametrize("length", [1, 15, 16, 17, 31, 32, 48, 80, 81])
@pytest.mark.parametrize(("crop", "stride"), [(16, 8), (16, 16), (16, 5), (1, 1)])
def test_windows_cover_every_place_and_end_with_the_axis(length: int, crop: int, stride: int) -> None:
    starts = windows(length, crop, stride).tolist()
    covered = {place for start in starts for place in range(start, min(length, start + crop))}
    assert set(range(length)) == covered
    assert max(length - crop, 0) == starts[-1]
    assert sorted(set(starts)) == starts
    assert all(start == i * stride for i, start in enumerate(starts[:-1]))


def test_windows_without_length_crop_or_stride_are_refused() -> None:
    for bad in [(0, 16, 8), (80, 0, 8), (80, 16, 0)]:
        with pytest.raises(BadUsage, match="at least 1"):
            windows(*bad)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (336, 448)),
        ((640, 480), (448, 336)),
        ((48, 80), (336, 560)),
        ((1, 1), (336, 336)),
        ((10, 4000), (16, 2048)),  # bounded by the long side; at least one patch
        ((4000, 10), (2048, 16)),
        ((100, 151), (336, 512)),  # 507.4 px is nearest to 32 patches
    ],
)
def test_fit_gives_multiples_of_the_patch_near_the_ratio(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert expected == fit(*size, 336, 16)


def test_fit_never_passes_a_long_side_that_is_no_multiple() -> None:
    assert (14, 98) == fit(10, 4000, 80, 14, 100)


def test_fit_and_rescale_refuse_sizes_that_cannot_be() -> None:
    with pytest.raises(BadUsage, match="at least one patch"):
        fit(48, 80, 8, 16)
    with pytest.raises(BadUsage, match="long_side not below"):
        rescale(48, 80, 336, 100)
    with pytest.raises(BadUsage, match="at least 1"):
        rescale(0, 80, 336)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((375, 500), (336, 448)),
        ((500, 375), (448, 336)),
        ((333, 500), (336, 505)),  # 504.504: half a pixel up
        ((100, 2000), (102, 2048)),
        ((1, 9000), (1, 2048)),
    ],
)
def test_rescale_rounds_as_mmcv_does(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert expected == rescale(*size, 336)


def test_grid_points_are_those_of_segment_anything() -> None:
    from segment_anything.utils.amg import build_point_grid

    for per_side in (1, 3, 8):
        assert build_point_grid(per_side).tolist() == grid_points(per_side).tolist()


def test_box_conversions_undo_one_another() -> None:
    boxes = np.array([[2.0, 1, 5, 6], [0, 0, 80, 48]])
    assert [[2, 1, 3, 5], [0, 0, 80, 48]] == xyxy_to_xywh(boxes).tolist()
    assert boxes.tolist() == xywh_to_xyxy(xyxy_to_xywh(boxes)).tolist()
    assert (0, 4) == xywh_to_xyxy(np.zeros((0, 4))).shape
