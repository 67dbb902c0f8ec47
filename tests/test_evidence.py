"""Posteriors band by band: what the fields do to them, and what is refused. Deciding itself: test_head, test_types."""

from typing import Any

import numpy as np
import pytest

from ovseg import evidence as module
from ovseg.errors import BadInput, BadUsage
from ovseg.evidence import Evidence
from ovseg.raster import posterior, upsample
from ovseg.refine import pamr
from tests.tiny import picture

OWNER = np.array([0, 0, 1, 2, -1])  # three names, five rows: two of the first name, one negative


def evidence(**changes: Any) -> Evidence:
    rows = np.random.default_rng(5).normal(0, 3, (5, 6, 10)).astype(np.float32)
    fields: dict[str, Any] = {"owner": OWNER, "rows": rows, "thresholds": np.full(3, 0.4, np.float32)}
    return Evidence(48, 80, **{**fields, **changes})


def whole(given: Evidence) -> np.ndarray:
    return np.concatenate([slots for _, slots in given.tiles()], axis=1)


@pytest.mark.parametrize("probability", ["names", "rows"])
def test_refined_posteriors_are_those_of_refined_rows(probability: str) -> None:
    """PAMR acts on rows, before the best row of a name is taken: on names it would be another method."""
    image = picture()
    given = evidence(picture=image, refine="pamr", refine_steps=2, refine_dilations=(1, 3), probability=probability)
    refined = pamr(image, upsample(given.rows, 48, 80), 2, (1, 3))
    np.testing.assert_allclose(posterior(refined, OWNER, 3, probability), whole(given), atol=1e-6)
    plain = whole(evidence(probability=probability))
    assert np.abs(plain - whole(given)).max() > 0.05
    late = pamr(image, np.ascontiguousarray(plain), 2, (1, 3))
    assert np.abs(late - whole(given)).max() > 1e-3


def test_bands_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"picture": picture(), "refine": "pamr", "refine_steps": 2, "refine_dilations": (1, 4)}
    for changes, limit in (({}, "BAND_BYTES"), (fields, "REFINED_BYTES")):
        given = evidence(**changes)
        once = whole(given)
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, 4 * 5 * 80 * 7)  # seven pixel rows
            assert [7] * 6 + [6] == [band.stop - band.start for band in given.bands]
            np.testing.assert_array_equal(once, whole(given))


def test_no_step_and_no_refining_are_alike() -> None:
    still = evidence(picture=picture(), refine="pamr", refine_steps=0)
    np.testing.assert_array_equal(whole(evidence()), whole(still))
    assert (0, 0, 160) == (evidence().margin, still.margin, evidence(picture=picture(), refine="pamr").margin)


def test_proposals_have_their_own_posteriors_and_no_proposals_none() -> None:
    parts = np.full((48, 80), -1, np.int32)
    parts[:20, :30] = 1
    part_rows = np.array([[9, 0, 0, 0, 0], [0, 0, 3, 1, 2]], np.float32)
    given = evidence(parts=parts, part_rows=part_rows)
    np.testing.assert_allclose(posterior(part_rows.T.copy(), OWNER, 3, "names"), given.of_parts)
    assert (whole(given)[:, :20, :30] == given.of_parts[:, 1, None, None]).all()
    assert (whole(given)[:, 20:] == whole(evidence())[:, 20:]).all()
    assert (4, 0) == evidence().of_parts.shape
    alone = whole(evidence(parts=parts, part_rows=part_rows, uncovered="none"))
    assert 0 == np.abs(alone[:, 20:]).max() and (alone[:, :20, :30] == whole(given)[:, :20, :30]).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"refine": "crf"}, "refine must be none or pamr: got 'crf'"),
        ({"refine": "pamr"}, "looks at the picture"),
        ({"refine": "pamr", "picture": picture(80, 48)}, r"picture must match the picture: 80x48 came"),
        ({"refine_steps": -1}, "0 or more steps"),
        ({"refine_dilations": ()}, "dilations of 1 px or more"),
        ({"refine_dilations": (8, 0)}, "dilations of 1 px or more"),
        ({"area": 1.5}, r"share of the labelled pixels in \[0, 1\]"),
        ({"area": float("nan")}, "share of the labelled pixels"),
        ({"closing": 2}, "odd number of pixels"),
        ({"closing": -1}, "odd number of pixels"),
        ({"vote": np.zeros((80, 48), np.int32)}, "vote must match the picture"),
        ({"vote": np.full((48, 80), -2, np.int32)}, "segments 0, 1"),
    ],
)
def test_fields_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((BadInput, BadUsage), match=words):
        evidence(**changes)


def test_scores_far_apart_are_as_exact_as_near_ones() -> None:
    """Between two cells that differ by hundreds every row is far below the largest of its cells."""
    rows = np.zeros((3, 1, 2), np.float32)
    rows[0, 0], rows[1, 0] = (400, -400), (-400, 400)
    given = Evidence(1, 1001, np.array([0, 1, -1]), rows, np.zeros(2, np.float32))
    slots = whole(given)[:, 0]
    expected = posterior(upsample(rows, 1, 1001), given.owner, 2, "names")[:, 0]
    np.testing.assert_allclose(expected, slots, atol=1e-6)
    np.testing.assert_allclose([1 / 3] * 3, slots[:, 500], atol=1e-4)
