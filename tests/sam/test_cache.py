import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.random import Generator
from safetensors import safe_open
from safetensors.torch import save_file

from ovseg.errors import BadInput, BadUsage
from ovseg.sam import cache
from ovseg.sam.cache import Embeddings, key_of, load, save
from ovseg.sam.grid import AutomaticMaskGenerator
from ovseg.sam.model import Embedding, MaskModel
from tests.sam.narrow import narrow_sam

SIZE = 4 * 32 * 16 * 16  # bytes of a narrow embedding


class Counting(MaskModel):
    """Counts and delays what it encodes."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(narrow_sam(seed))
        self.calls = 0

    def encode(self, image: np.ndarray) -> Embedding:
        self.calls += 1
        time.sleep(0.05)
        return super().encode(image)


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(6)


def pictures(rng: Generator, count: int) -> list[np.ndarray]:
    return [rng.integers(0, 256, (48, 80, 3), np.uint8) for _ in range(count)]


def test_a_saved_embedding_is_read_back_bit_for_bit_and_gives_the_same_masks(rng: Generator, tmp_path: Path) -> None:
    model, (image,) = MaskModel(narrow_sam()), pictures(rng, 1)
    fresh = model.encode(image)
    again = load(save(fresh, model, tmp_path / "e.safetensors"), MaskModel(narrow_sam()))
    assert (again.features == fresh.features).all()
    assert (again.height, again.width, again.kept) == (48, 80, (154, 256))
    generator = AutomaticMaskGenerator(
        model, points_per_side=2, pred_iou_thresh=0.0, stability_score_thresh=0.0, output_mode="coco_rle"
    )
    assert generator.generate(image, again) == generator.generate(image) != []


def test_half_is_half_the_size_and_close(rng: Generator, tmp_path: Path) -> None:
    model, (image,) = MaskModel(narrow_sam()), pictures(rng, 1)
    fresh = model.encode(image)
    files = [save(fresh, model, tmp_path / f"{half}", half=half) for half in (False, True)]
    assert files[0].stat().st_size - files[1].stat().st_size == SIZE // 2
    assert np.abs(load(files[1], model).features.numpy() - fresh.features.numpy()).max() <= 1e-2


def test_what_another_network_or_nobody_saved_is_refused(rng: Generator, tmp_path: Path) -> None:
    model, (image,) = MaskModel(narrow_sam()), pictures(rng, 1)
    path = save(model.encode(image), model, tmp_path / "e.safetensors")
    with pytest.raises(BadInput, match="another network"):
        load(path, MaskModel(narrow_sam(1)))
    with pytest.raises(BadInput, match="computed by torch float32 exact, this model computes by torch float32 folded"):
        load(path, MaskModel(narrow_sam(), algebra="folded"))
    (tmp_path / "junk").write_bytes(b"no such thing at all")
    with pytest.raises(BadInput, match="an embedding that ovseg saved is needed"):
        load(tmp_path / "junk", model)
    (tmp_path / "half").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadInput, match="an embedding that ovseg saved is needed"):
        load(tmp_path / "half", model)
    for nowhere in (tmp_path, tmp_path / "gone"):
        with pytest.raises(BadInput, match="an embedding that ovseg saved is needed: .* cannot be opened"):
            load(nowhere, model)


@pytest.mark.parametrize("wrong", [{"rows": "257"}, {"cols": "0"}, {"height": "-5"}, {"width": "wide"}])
def test_sizes_that_cannot_be_are_refused(rng: Generator, tmp_path: Path, wrong: dict[str, str]) -> None:
    model, (image,) = MaskModel(narrow_sam()), pictures(rng, 1)
    path = save(model.encode(image), model, tmp_path / "e.safetensors")
    with safe_open(path, "pt") as file:
        told, features = file.metadata(), file.get_tensor("features")
    save_file({"features": features}, path, metadata=told)
    load(path, model)
    save_file({"features": features}, path, metadata={**told, **wrong})
    with pytest.raises(BadInput, match="an embedding that ovseg saved is needed"):
        load(path, model)


def test_what_float16_cannot_hold_is_not_saved_in_it(rng: Generator, tmp_path: Path) -> None:
    model, (image,) = MaskModel(narrow_sam()), pictures(rng, 1)
    fresh = model.encode(image)
    large = replace(fresh, features=fresh.features * (1e6 / fresh.features.abs().max()))
    with pytest.raises(BadInput, match="does not fit into float16"):
        save(large, model, tmp_path / "e", half=True)
    assert not (tmp_path / "e").exists()
    assert (load(save(large, model, tmp_path / "e"), model).features == large.features).all()


def test_a_picture_is_encoded_once_and_pictures_do_not_share(rng: Generator) -> None:
    model, kept = Counting(), Embeddings()
    one, two = pictures(rng, 2)
    first = kept.get(model, one)
    assert kept.get(model, one.copy()) is first
    assert kept.get(model, two) is not first
    assert model.calls == 2 and kept.nbytes == 2 * SIZE
    assert kept.get(Counting(1), one) is not first
    assert key_of(model, one) != key_of(model, one.reshape(80, 48, 3))
    assert key_of(model, one) != key_of(MaskModel(narrow_sam(), algebra="folded"), one)
    assert key_of(model, one) == key_of(MaskModel(narrow_sam()), one)


def test_two_threads_make_one_encode(rng: Generator) -> None:
    model, kept = Counting(), Embeddings()
    one, two = pictures(rng, 2)
    model.digest  # noqa: B018  made once
    gate = threading.Barrier(4)

    def ask(image: np.ndarray) -> Embedding:
        gate.wait()
        return kept.get(model, image)

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, [one, two, one, two]))
    assert model.calls == 2
    assert found[0] is found[2] is not found[1] is found[3]


def test_the_longest_unused_goes_before_the_budget_is_passed(rng: Generator) -> None:
    model, kept = Counting(), Embeddings(2 * SIZE)
    one, two, three = pictures(rng, 3)
    for image in (one, two, one, three):  # `two` is the longest unused
        kept.get(model, image)
        assert kept.nbytes <= 2 * SIZE
    assert model.calls == 3
    kept.get(model, one)
    assert model.calls == 3
    kept.get(model, two)
    assert model.calls == 4 and len(kept) == 2


def test_an_embedding_over_the_budget_is_given_but_not_kept(rng: Generator) -> None:
    model, kept = Counting(), Embeddings(SIZE - 1)
    assert kept.get(model, pictures(rng, 1)[0]).nbytes == SIZE
    assert len(kept) == 0


def test_the_longest_unused_goes_before_the_network_runs(rng: Generator) -> None:
    """So that a full cache and what is being made never stand side by side."""
    kept = Embeddings(2 * SIZE)
    room: list[int] = []

    class Looking(MaskModel):
        def encode(self, image: np.ndarray) -> Embedding:
            room.append(kept.budget - kept.nbytes)
            return super().encode(image)

    model = Looking(narrow_sam())
    for image in pictures(rng, 4):
        kept.get(model, image)
    assert room == [2 * SIZE, SIZE, SIZE, SIZE] and kept.nbytes == 2 * SIZE


def test_a_failed_encode_is_told_and_leaves_nothing_behind(rng: Generator) -> None:
    kept, (image,) = Embeddings(), pictures(rng, 1)

    class Failing(Counting):
        def encode(self, image: np.ndarray) -> Embedding:
            embedding = super().encode(image)
            if self.calls == 1:
                raise MemoryError
            return embedding

    model = Failing()
    model.digest  # noqa: B018  made once
    gate, failures = threading.Barrier(3), []

    def ask(_: int) -> Embedding | None:
        gate.wait()
        try:
            return kept.get(model, image)
        except MemoryError:
            failures.append(1)
            return None

    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(ask, range(3)))
    assert len(failures) == 1 and model.calls == 2  # one of those who waited made it for the other
    assert len({id(one) for one in found if one is not None}) == 1 and found.count(None) == 1
    assert not kept._coming and len(kept) == 1


def test_what_is_over_the_budget_is_made_once_for_all_who_ask_at_once(
    rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, (image,) = Embeddings(0), pictures(rng, 1)
    arrived: list[str] = []

    def counted(model: MaskModel, image: np.ndarray) -> str:
        arrived.append(key_of(model, image))
        return arrived[-1]

    class Waiting(Counting):
        def encode(self, image: np.ndarray) -> Embedding:
            while len(arrived) < 4:
                time.sleep(0.01)
            time.sleep(0.2)
            return super().encode(image)

    model = Waiting()
    monkeypatch.setattr(cache, "key_of", counted)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: kept.get(model, image), range(4)))
    assert len({id(one) for one in found}) == model.calls == 1
    assert len(kept) == 0 and not kept._coming
    with pytest.raises(BadUsage, match="0 or more: got -1"):
        Embeddings(-1)


def test_nothing_is_left_of_pictures_that_went(rng: Generator) -> None:
    model, kept = MaskModel(narrow_sam()), Embeddings(SIZE)
    for image in pictures(rng, 5):
        kept.get(model, image)
    assert len(kept) == 1 and not kept._coming
