import dataclasses

import numpy as np
from scipy import ndimage

from ovseg.draw import overlay, with_prompts
from ovseg.types import Regions
from tests.draw.pictures import PLAN, photo
from tests.results import segmentation


def test_without_legend_the_overlay_is_the_picture_with_colours_laid_in() -> None:
    image, found = photo(48, 60), segmentation(PLAN, ["cat", "dog"], 12)
    drawn = overlay(image, found, opacity=0.5, outlines=False, labels=False, legend=False)
    nobody = found.labels < 0
    assert (image[nobody] == drawn[nobody]).all()
    for k in range(2):
        here = found.labels == k
        expected = image[here] * 0.5 + found.colours[k] * 0.5
        assert np.abs(expected - drawn[here]).max() <= 1


def test_outlines_are_light_in_dark_and_stay_near_the_border() -> None:
    image, found = np.full((48, 60, 3), 120, np.uint8), segmentation(PLAN, ["cat", "dog"], 12)
    plain, lined = (overlay(image, found, outlines=on, labels=False, legend=False) for on in (False, True))
    changed = (plain != lined).any(axis=2)
    assert changed[20:28, 5].any() and not changed[:20, :30].any() and not changed[30:, :42].any()
    across = lined[18:30, 5].mean(axis=1)
    assert across.max() > 230 and across.min() < 70
    assert 9 < across.argmin() + 18 < 30


def test_the_picture_that_came_stays_as_it_was() -> None:
    image, found = photo(48, 60), segmentation(PLAN, ["cat", "dog"], 12)
    before, labels = image.copy(), found.labels.copy()
    overlay(image, found)
    assert (before == image).all() and (labels == found.labels).all()


def test_a_result_without_evidence_is_drawn_alike() -> None:
    found = segmentation(PLAN, ["cat", "dog"], 12)
    bare = dataclasses.replace(found, evidence=None)
    assert (overlay(photo(48, 60), found) == overlay(photo(48, 60), bare)).all()


def test_of_overlapping_regions_the_earlier_lies_on_top_as_in_the_labels() -> None:
    found = segmentation(PLAN, ["cat", "dog"], 12)
    masks = np.stack([found.labels == 0, np.ones((48, 60), bool)])
    labels = np.where(masks[0], 0, 1).astype(np.int16)
    regions, bare = Regions.from_masks(masks), {"region_labels": np.array([0, 1]), "evidence": None}
    read = dataclasses.replace(found, labels=labels, regions=regions, region_scores=np.eye(2, dtype=np.float32), **bare)
    plain, lined = (overlay(photo(48, 60), read, outlines=on, labels=False, legend=False) for on in (False, True))
    assert (plain != lined).any(axis=2)[22:26, 5].all()  # the border of the cat


def test_names_stand_on_regions_that_have_room_and_on_no_others() -> None:
    image, found = np.full((480, 600, 3), 120, np.uint8), segmentation(PLAN, ["cat", "hippopotamus"], 120)
    bare, named = (overlay(image, found, labels=on, legend=False) for on in (False, True))
    rows, cols = np.nonzero((bare != named).any(axis=2))
    assert len(rows) and cols.max() < 360 and rows.max() < 240  # on the cat; the other name is wider than its region


def test_what_was_asked_is_drawn_where_it_was_asked_on_small_and_large_pictures() -> None:
    nothing = np.zeros((0, 4))
    for side, factor in ((160, 2), (640, 1)):
        image = np.full((side // 2, side, 3), 120, np.uint8)
        plain = np.full((side // 2 * factor + 40, side * factor, 3), 120, np.uint8)
        points, labels = np.array([[0.25, 0.2], [0.75, 0.3]]) * side, np.array([1, 0])
        drawn = with_prompts(plain, image, points, labels, nothing)
        assert (plain == 120).all() and drawn.shape == plain.shape
        changed = np.argwhere((drawn != plain).any(axis=2))
        for at, inside in zip(points * factor, labels, strict=True):
            here = changed[np.abs(changed - at[::-1]).max(axis=1) < 20]
            assert len(here) > 50 and np.abs(here.mean(axis=0) - at[::-1]).max() < 1
            x, y = at.astype(int)
            assert (drawn[y, x] > 200).all() and (drawn[y - 2, x] > 200).all() == bool(inside)  # a plus, a minus
        box = with_prompts(plain, image, points[:0], labels[:0], np.array([[10.0, 20.0, 50.0, 60.0]]))
        rows, cols = np.nonzero((box > 200).all(axis=2))
        found = np.array([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1])
        assert np.abs(found - factor * np.array([10, 20, 50, 60])).max() <= 2  # half of a line


def test_touching_things_of_one_name_are_told_apart_and_stuff_is_not() -> None:
    image = np.full((48, 60, 3), 120, np.uint8)
    parts = np.full((48, 60), -1, np.int32)
    parts[:24, :18], parts[:24, 18:36] = 0, 1  # one name, two masks side by side
    rows = np.array([[20, 0, 0], [20, 0, 0]], np.float32)
    changed = {}
    for name in ("cat", "grass"):
        found = segmentation(PLAN, [name, "dog"], 12, parts=parts, part_rows=rows)
        plain, lined = (overlay(image, found, outlines=on, labels=False, legend=False) for on in (False, True))
        changed[name] = (plain != lined).any(axis=2)
    assert changed["cat"][4:16, 17:19].all() and not changed["grass"][4:16, 8:28].any()
    assert (changed["cat"] | ~changed["grass"]).all()  # what lies round the outside is the same
    image = np.full((480, 600, 3), 120, np.uint8)
    named = {}
    for name in ("cat", "moss"):
        found = segmentation(PLAN, [name, "dog"], 120, parts=parts.repeat(10, 0).repeat(10, 1), part_rows=rows)
        bare, drawn = (overlay(image, found, outlines=False, labels=on, legend=False) for on in (False, True))
        named[name] = (bare != drawn).any(axis=2)
    assert [3, 2] == [ndimage.label(where)[1] for where in named.values()]  # each cat and the dog; the moss and the dog
    assert named["cat"][:240, :180].any() and named["cat"][:240, 180:360].any()
