from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from stage_scenes import rows_of, scene, unit, vocabulary

from ovseg.errors import BadUsage
from ovseg.stages.rows import surgery, without_redundancy


@pytest.mark.parametrize("name", ["native", "wide", "tall"])
def test_surgery_equals_the_published_program(golden_dense: Path, name: str) -> None:
    stored = load_file(golden_dense / "outputs" / "clip_surgery.safetensors")
    text = load_file(golden_dense / "inputs.safetensors")["text"]
    for tokens, whole, wanted in zip(stored[name], stored[f"{name}.cls"], stored[f"{name}.surgery"], strict=True):
        cosines = np.ascontiguousarray((unit(tokens) @ text.T).transpose(2, 0, 1))
        got = without_redundancy(cosines, unit(whole), text)
        np.testing.assert_allclose(got.reshape(len(text), -1).T, wanted, atol=1e-5)


def test_surgery_is_the_sum_over_channels_that_the_paper_writes() -> None:
    given = scene()
    features, whole, text = given.features.vectors, given.features.whole, given.vocabulary.vectors
    weight = np.exp(2 * text @ whole) / np.exp(2 * text @ whole).mean()
    products = features[None] * text[:, :, None, None] * weight[:, None, None, None]
    wanted = given.scale * (products - products.mean(axis=0)).sum(axis=1)
    np.testing.assert_allclose(surgery(given, rows_of(given)), wanted, atol=1e-4)
    assert np.abs(surgery(given, rows_of(given), temperature=5.0) - wanted).max() > 0.1


def test_surgery_finds_what_one_row_that_likes_everything_hides() -> None:
    """Every cell holds the first text; three cells a little less of it and some of the second too."""
    text = vocabulary().vectors
    cells = np.broadcast_to(text[0], (6, 10, 32)).copy()
    cells[2, 3:6] = 0.75 * text[0] + 0.6 * text[1]
    given = scene(unit(cells))
    rows = rows_of(given)
    assert (rows.argmax(axis=0) == 0).all()
    planted = surgery(given, rows)[1] - surgery(given, rows)[1].mean()
    assert planted[2, 3:6].min() > 5 > np.delete(planted.ravel(), [23, 24, 25]).max()


def test_surgery_with_equal_weights_keeps_every_arg_max_and_one_row_becomes_nothing() -> None:
    given = scene()
    rows = rows_of(given)
    flat = surgery(given, rows, temperature=0.0)
    assert np.array_equal(flat.argmax(axis=0), rows.argmax(axis=0))
    np.testing.assert_allclose(flat, rows - rows.mean(axis=0), atol=1e-4)
    alone = without_redundancy(rows[:1], given.features.whole, given.vocabulary.vectors[:1])
    assert not alone.any()
    assert without_redundancy(rows[:0], given.features.whole, given.vocabulary.vectors[:0]).shape == (0, 6, 10)
    with pytest.raises(BadUsage, match="got -1.0"):
        surgery(given, rows, temperature=-1.0)
