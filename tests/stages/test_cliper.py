from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from stage_scenes import layered, rows_of, unit

from ovseg.errors import BadInput, BadUsage
from ovseg.stages.cliper import cliper, cliper_labels, cliper_maps


def test_maps_equal_the_published_program(golden_dense: Path) -> None:
    """Layers are stored for the wide picture alone."""
    stored = load_file(golden_dense / "outputs" / "cliper.safetensors")
    text = load_file(golden_dense / "inputs.safetensors")["text"]
    layers = np.ascontiguousarray(stored["wide.layers"][0].transpose(0, 3, 1, 2))
    maps = cliper_maps(layers, stored["wide.attention"][0], text[:4], text[4:])
    np.testing.assert_allclose(maps, stored["wide.scores"][0], atol=5e-5)
    for change in ({"floor": 0.9}, {"scale": 40.0}, {"selected": 3}):
        other = cliper_maps(layers, stored["wide.attention"][0], text[:4], text[4:], **change)
        assert np.abs(other - maps).max() > 1e-3


def slow(layers: np.ndarray, attention: np.ndarray, names: np.ndarray, words: np.ndarray, floor: float) -> np.ndarray:
    text = [unit(row) for row in (*names, *words, names.mean(axis=0))]
    count, _, rows, cols = layers.shape
    share = np.zeros((count, len(names), rows * cols))
    for layer in range(count):
        for cell in range(rows * cols):
            vector = unit(layers[layer, :, cell // cols, cell % cols])
            scores = np.exp([100 * float(row @ vector) for row in text])
            share[layer, :, cell] = (scores / scores.sum())[: len(names)]
    for name in range(len(names)):
        line = share[-1, name]
        line[line < floor * line.max()] = 0
    gathered = np.zeros((len(names), rows * cols))
    for giver in range(rows * cols):
        for taker in range(rows * cols):
            gathered[:, taker] += share[-1, :, giver] * attention[giver, taker]
    return (gathered + share.mean(axis=0)).reshape(len(names), rows, cols)


def test_maps_are_the_formula_and_batches_of_layers_are_left_alone() -> None:
    rng = np.random.default_rng(3)
    layers = rng.normal(size=(3, 16, 4, 7)).astype(np.float32)
    attention = rng.random((28, 28)).astype(np.float32)
    attention /= attention.sum(axis=1, keepdims=True)
    names, words = (unit(rng.normal(size=(k, 16))) for k in (3, 2))
    before = layers.copy()
    got = cliper_maps(layers, attention, names, words, floor=0.4)
    np.testing.assert_allclose(got, slow(layers, attention, names, words, 0.4), atol=1e-3)
    assert np.array_equal(layers, before)
    assert cliper_maps(layers, attention, names[:0], words).shape == (0, 4, 7)
    with pytest.raises(BadInput, match="27 rows for 4x7 cells"):
        cliper_maps(layers, attention[:27, :27], names, words)
    with pytest.raises(BadUsage, match="selected one of 3 layers: got 0.1, 100.0, 3"):
        cliper_maps(layers, attention, names, words, selected=3)


def test_stage_is_the_logarithm_of_the_maps_and_negatives_have_maps_by_the_same_rule() -> None:
    given = layered()
    extras, words = given.features.extras, given.vocabulary
    got = cliper(given, rows_of(given), floor=0.3, selected=1)
    names, negatives = words.vectors[words.owner >= 0], words.vectors[words.owner < 0]
    layers, attention = extras["layers"], extras["attention"]
    wanted = cliper_maps(layers, attention, names, negatives, floor=0.3, scale=given.scale, selected=1)
    np.testing.assert_allclose(got[words.owner >= 0], np.log(wanted.clip(1e-6)), atol=1e-5)
    # a negative's own shares, the slow way: its floor is that of its own largest
    text = unit(np.concatenate([names, negatives, names.mean(axis=0, keepdims=True)]))
    cells = unit(layers.reshape(3, 32, 60).transpose(0, 2, 1))
    share = np.exp(given.scale * cells @ text.T)
    own = (share / share.sum(axis=2, keepdims=True))[:, :, len(names)].T  # (cells, layers)
    own[own[:, 1] < 0.3 * own[:, 1].max(), 1] = 0
    wanted = own[:, 1] @ attention + own.mean(axis=1)
    np.testing.assert_allclose(got[words.owner < 0].ravel(), np.log(wanted.clip(1e-6)), atol=1e-3)
    bare = replace(given, vocabulary=replace(words, names=(), vectors=negatives, owner=np.array([-1])))
    rows = rows_of(bare)
    assert cliper(bare, rows) is rows


def test_identity_attention_and_one_layer_double_the_shares() -> None:
    rng = np.random.default_rng(3)
    layers = rng.normal(size=(1, 16, 4, 7)).astype(np.float32)
    names, words = (rng.normal(size=(k, 16)).astype(np.float32) for k in (3, 2))
    maps = cliper_maps(layers, np.eye(28, dtype=np.float32), names, words, floor=0.0, scale=1.0)
    flat = unit(layers[0].reshape(16, -1).T) @ unit(np.concatenate([names, words, names.mean(axis=0)[None]])).T
    share = np.exp(flat) / np.exp(flat).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(maps.reshape(3, -1), 2 * share[:, :3].T, atol=1e-6)


def test_labels_keep_names_that_are_seen_and_leave_the_rest() -> None:
    maps = np.zeros((3, 2, 4), np.float32)
    maps[0] = [[0.9, 0.5, 0.1, 0.1], [0.1, 0.1, 0.1, 0.1]]
    maps[1] = [[0.2, 0.2, 0.2, 0.4], [0.2, 0.3, 0.2, 0.2]]
    maps[2] = 0.39
    assert cliper_labels(maps).tolist() == [[0, 0, 2, 1], [2, 2, 2, 2]]
    assert cliper_labels(maps, score=0.395).tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert cliper_labels(maps, score=0.395, background=0.25).tolist() == [[0, 0, -1, 1], [-1, 1, -1, -1]]
    assert cliper_labels(maps, score=0.395, stretch=True, background=0.4).tolist() == [[0, 0, -1, 1], [-1, 1, -1, -1]]
    assert (cliper_labels(maps, score=1.0) == -1).all() and (cliper_labels(maps[:0]) == -1).all()
