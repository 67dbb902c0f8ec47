from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.random import Generator
from segment_anything import SamPredictor
from segment_anything.modeling import Sam
from skimage.measure import label as connected

from ovseg.errors import BadInput
from ovseg.evidence import Evidence
from ovseg.raster import upsample
from ovseg.sam import guided
from ovseg.sam.foreign import ForeignModel
from ovseg.sam.guided import Coarse, Guided, parts_of, prompt_maps, refine
from ovseg.sam.model import Embedding, MaskModel
from ovseg.sam.prompted import Prompted, prompted
from ovseg.sam.runs import Kept
from ovseg.sam.stretch import Cut
from tests.sam.hub import NARROW, perturbed
from tests.sam.narrow import narrow_sam

LOOSE = {"coarse_thresh": 0.3, "min_part_px": 12}


@pytest.fixture(scope="module")
def sam() -> Sam:
    return narrow_sam()


@pytest.fixture(scope="module")
def model(sam: Sam) -> MaskModel:
    return MaskModel(sam)


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(7)


def world(rng: Generator, height: int, width: int, slots: int = 4, sharpness: float = 6.0) -> np.ndarray:
    """Posteriors on every pixel that change smoothly, with noise that no bilinear grid could hold."""
    rows = rng.normal(size=(slots, 5, 7)).astype(np.float32) * sharpness
    rows = upsample(rows, height, width) + 0.3 * rng.normal(size=(slots, height, width))
    powers = np.exp(rows - rows.max(axis=0))
    return np.asarray(powers / powers.sum(axis=0), np.float32)


def picture(rng: Generator, height: int, width: int) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def by_the_formulas(
    sam: Sam,
    image: np.ndarray,
    scores: np.ndarray,
    names: int,
    coarse_thresh: float = 0.1,
    min_part_px: int = 225,
    mask_factor: float = 0.005,
    min_iou: float = 0.9,
) -> tuple[list[dict[str, Any]], np.ndarray, np.ndarray]:
    """The prompts with their answers, refined scores and labels: full frames, torch's own steps, one part at a time."""
    (height, width), slots = image.shape[:2], torch.from_numpy(scores)
    rows, cols = height // 2, width // 2
    coarse = slots.argmax(0)
    coarse[coarse >= names] = -1
    labels = F.interpolate(slots.argmax(0)[None, None].float(), (rows, cols), mode="nearest")[0, 0].long()
    half = F.interpolate(slots[None], (rows, cols), mode="bilinear", align_corners=False)[0]
    labels[half.amax(0) < coarse_thresh] = -1
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    side = sam.image_encoder.img_size
    cells = side // 4
    scale = cells / max(height, width)
    high, wide = int(height * scale + 0.5), int(width * scale + 0.5)
    found: list[dict[str, Any]] = []
    refined, failed = torch.zeros(names, height, width), torch.zeros(height, width, dtype=torch.bool)
    for name in range(names):
        if half[name].max() < coarse_thresh:
            continue
        numbers, count = connected((labels == name).numpy(), connectivity=2, return_num=True)
        prompt = F.interpolate(half[name][None, None], (high, wide), mode="bilinear", align_corners=False)
        prompt = F.pad(prompt, (0, cells - wide, 0, cells - high))[0]
        prompt = torch.where(prompt > coarse_thresh, mask_factor * prompt, torch.tensor(0.0))
        for number in range(1, count + 1):
            part = torch.from_numpy(numbers == number)
            if part.sum() < min_part_px:
                continue
            y, x = torch.nonzero(part, as_tuple=True)
            best = torch.where(part, half[name], torch.tensor(-1.0)).argmax()
            point = np.array([int(best) % cols + 0.5, int(best) // cols + 0.5]) * (width / cols, height / rows)
            box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)
            box *= (width / cols, height / rows) * 2
            masks, iou, _ = predictor.predict_torch(
                predictor.transform.apply_coords_torch(torch.tensor(point)[None, None], (height, width)),
                torch.ones(1, 1),
                predictor.transform.apply_boxes_torch(torch.tensor(box)[None], (height, width)),
                prompt[None],
                multimask_output=False,
                return_logits=True,
            )
            good = bool(iou[0, 0] > min_iou)
            mask = masks[0, 0] > sam.mask_threshold
            found.append(
                {"name": name, "part": part, "point": point, "box": box, "prompt": prompt[0], "iou": float(iou[0, 0]),
                 "good": good, "mask": mask}
            )  # fmt: skip
            if good:
                refined[name] = torch.maximum(refined[name], mask * masks[0, 0].sigmoid() * slots[name])
            else:
                failed |= F.interpolate(part[None, None].float(), (height, width), mode="nearest")[0, 0] > 0
    if not any(one["good"] for one in found):
        return found, slots[:names].numpy(), coarse.numpy()
    refined = torch.where(failed & (slots[:names] > refined), slots[:names], refined)
    answer = torch.where(refined.amax(0) > 0, refined.argmax(0), coarse)
    return found, refined.numpy(), answer.numpy()


def stub(monkeypatch: pytest.MonkeyPatch, accept: Any) -> list[dict[str, np.ndarray]]:
    """A decoder whose mask is the prompt's box, accepted where `accept(number of the part)`; what it was asked."""
    asked: list[dict[str, np.ndarray]] = []

    def answers(model: Any, embedding: Embedding, **prompts: Any) -> Prompted:
        first = sum(len(one["boxes"]) for one in asked)
        asked.append(prompts)
        kept, count = [], len(prompts["boxes"])
        for left, top, right, bottom in np.rint(prompts["boxes"]).astype(int):
            kept.append((Kept.of(Cut(np.ones((right - left, bottom - top), bool), int(left), int(top), 0, 0)),))
        quality = np.array([[0.95 if accept(first + i) else 0.5] for i in range(count)], np.float32)
        logits = np.full((count, 1, *model.cells), 50, np.float32)  # sigmoid 1
        return Prompted(embedding.height, embedding.width, quality, logits, tuple(kept))

    monkeypatch.setattr(guided, "prompted", answers)
    return asked


def spied(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, np.ndarray]]:
    """What the decoder is asked, which answers as ever."""
    asked: list[dict[str, np.ndarray]] = []

    def spy(*given: Any, **prompts: Any) -> Prompted:
        asked.append(prompts)
        return prompted(*given, **prompts)

    monkeypatch.setattr(guided, "prompted", spy)
    return asked


def embedded(height: int, width: int, side: int = 256) -> Embedding:
    """An embedding for those who look at its sizes alone."""
    scale = side / max(height, width)
    return Embedding(torch.zeros(1, 1, 1, 1), height, width, (int(height * scale + 0.5), int(width * scale + 0.5)))


@pytest.mark.parametrize("size", [(48, 80), (80, 48), (61, 83), (300, 210)])
@pytest.mark.parametrize("names", [4, 3])
def test_equals_the_formulas_walked_slowly(
    sam: Sam, model: MaskModel, rng: Generator, size: tuple[int, int], names: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = spied(monkeypatch)
    image, scores = picture(rng, *size), world(rng, *size)
    first, _, _ = by_the_formulas(sam, image, scores, names, **LOOSE)
    cut = float(np.median([one["iou"] for one in first])) - 1e-4  # some are accepted, some are not
    found, refined, labels = by_the_formulas(sam, image, scores, names, min_iou=cut, **LOOSE)
    ours = refine(model, model.encode(image), Coarse.of(scores, *size, names), min_iou=cut, **LOOSE)
    good = [one for one in found if one["good"]]
    assert len(found) > 4 and 0 < len(good) < len(found)
    assert ours.parts.names.tolist() == [one["name"] for one in found]
    np.testing.assert_allclose(ours.parts.boxes, [one["box"] for one in found], atol=1e-9)
    np.testing.assert_allclose(ours.parts.points, [one["point"] for one in found], atol=1e-9)
    np.testing.assert_allclose(asked[0]["masks"], np.stack([one["prompt"].numpy() for one in found]), atol=1e-8)
    np.testing.assert_allclose(ours.quality, [one["iou"] for one in found], atol=1e-5)
    assert ours.accepted.tolist() == [one["good"] for one in found]
    assert ours.names.tolist() == [one["name"] for one in good]
    np.testing.assert_array_equal(ours.regions.quality, ours.quality[ours.accepted].clip(0, 1))
    flips = ours.regions.masks ^ np.stack([one["mask"].numpy() for one in good])
    assert flips.sum() <= 2  # the mask is the sign of a logit that rounding may turn
    assert (np.abs(ours.scores() - refined) > 2e-5).sum() <= 2
    assert (ours.labels != labels).sum() <= 2
    assert (labels != np.where(scores.argmax(0) < names, scores.argmax(0), -1)).any()


def test_prompt_maps_are_scores_at_a_quarter_of_the_side_with_zeros_below_the_cut(rng: Generator) -> None:
    scores = world(rng, 61, 83, sharpness=2.0)
    maps = prompt_maps(
        Coarse.of(scores, 61, 83), np.array([2, 0]), (47, 64), (64, 64), coarse_thresh=0.3, mask_factor=0.005
    )
    half = F.interpolate(torch.from_numpy(scores[[2, 0]])[None], (30, 41), mode="bilinear")
    wanted = F.pad(F.interpolate(half, (47, 64), mode="bilinear")[0], (0, 0, 0, 17)).numpy()
    wanted = np.where(wanted > 0.3, 0.005 * wanted, 0)
    np.testing.assert_allclose(maps, wanted, atol=1e-7)
    assert 0 < (maps > 0).mean() < 0.9


def test_each_part_is_one_prompt_and_its_box_comes_back(model: MaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.full((3, 48, 80), 0.2, np.float32)
    scores[0, 4:24, 6:30] = 0.9
    scores[0, 10, 20] = 0.95
    scores[0, 30:44, 50:70] = 0.8
    scores[1, 4:20, 40:60] = 0.7
    asked = stub(monkeypatch, lambda part: True)
    found = refine(model, embedded(48, 80), scores, coarse_thresh=0.3, min_part_px=50)
    assert [sorted(one) for one in asked] == [["boxes", "labels", "masks", "points"]]
    assert asked[0]["boxes"].tolist() == [[6, 4, 30, 24], [50, 30, 70, 44], [40, 4, 60, 20]]
    assert asked[0]["points"][0].tolist() == [[21.0, 11.0]]  # the middle of the pixel at half resolution
    assert asked[0]["labels"].tolist() == [[1], [1], [1]]
    assert (asked[0]["masks"][0] == asked[0]["masks"][1]).all()  # of the name, not of the part
    assert found.names.tolist() == [0, 0, 1]
    masks = np.zeros((3, 48, 80), bool)
    masks[0, 4:24, 6:30], masks[1, 30:44, 50:70], masks[2, 4:20, 40:60] = True, True, True
    assert (found.regions.masks == masks).all()
    np.testing.assert_allclose(found.scores()[0], scores[0] * (masks[0] | masks[1]), atol=1e-6)


def test_only_large_parts_above_the_cut_are_asked(model: MaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.full((2, 48, 80), 0.01, np.float32)
    scores[0, :30, :30] = 0.5  # 15 x 15 at half resolution: just enough
    scores[0, :28, 40:70] = 0.5  # 14 x 15
    scores[1, 32:, :] = 0.09  # below the cut
    asked = stub(monkeypatch, lambda part: True)
    found = refine(model, embedded(48, 80), scores)
    assert [one["boxes"].tolist() for one in asked] == [[[0, 0, 30, 30]]]
    assert found.labels[0, 50] == 0 and found.labels[40, 5] == 1  # where nothing was accepted the coarse label stays


def test_a_name_that_is_nowhere_above_the_cut_has_no_part_though_it_wins_pixels(
    model: MaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = np.zeros((2, 48, 80), np.float32)
    scores[1] = 0.9
    scores[:, ::2, ::2] = [[[1.0]], [[0.0]]]  # all pixels that are looked at, a quarter of all
    asked = stub(monkeypatch, lambda part: True)
    assert not len(refine(model, embedded(48, 80), scores, coarse_thresh=0.3).parts) and not asked
    assert refine(model, embedded(48, 80), scores, coarse_thresh=0.2).parts.names.tolist() == [0]


def test_a_part_one_pixel_wide_has_a_box_with_an_area(model: MaskModel, rng: Generator) -> None:
    scores = np.zeros((2, 48, 80), np.float32)
    scores[1] = 0.6
    scores[0, :, 10:12] = 0.9
    scores[0, 20:22, 12:60] = 0.9
    scores[0, 20:22, 12:14] = 0
    found = refine(model, model.encode(picture(rng, 48, 80)), Coarse.of(scores, 48, 80, 1), min_part_px=20, min_iou=-9)
    assert found.parts.boxes.tolist() == [[10, 0, 12, 48], [14, 20, 60, 22]]
    assert len(found.regions) == 2


def test_nothing_accepted_leaves_the_coarse_map_as_it_is(
    model: MaskModel, rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = world(rng, 48, 80)
    asked = stub(monkeypatch, lambda part: False)
    found = refine(model, embedded(48, 80), Coarse.of(scores, 48, 80, 3), **LOOSE)
    assert asked and not len(found.regions) and not found.accepted.any()
    np.testing.assert_array_equal(found.scores(), scores[:3])
    best = scores.argmax(axis=0)
    np.testing.assert_array_equal(found.labels, np.where(best < 3, best, -1))


def test_a_rejected_part_keeps_its_scores_where_an_accepted_mask_has_lower_ones(
    model: MaskModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = np.zeros((2, 48, 80), np.float32)
    scores[0, :, :40], scores[1, :, 40:] = 0.6, 0.9
    scores[0, 20:22, 40:60] = 0.95  # pulls the box of name 0 over the part of name 1
    scores[0, :, 40:] = np.maximum(scores[0, :, 40:], 0.3)
    stub(monkeypatch, lambda part: part == 0)
    found = refine(model, embedded(48, 80), scores, min_part_px=5)
    assert found.parts.boxes.tolist() == [[0, 0, 60, 48], [40, 0, 80, 48]] and found.names.tolist() == [0]
    assert found.labels[5, 50] == 1 and found.scores()[:, 5, 50].tolist() == pytest.approx([0.3, 0.9])
    assert found.labels[5, 5] == 0 and found.labels[21, 50] == 0
    stub(monkeypatch, lambda part: part == 0 or part == 1)
    taken = refine(model, embedded(48, 80), scores[:1], min_part_px=5)
    assert (taken.labels[5:15, 45:55] == 0).all()


def test_order_of_names_changes_no_answer(model: MaskModel, rng: Generator) -> None:
    scores, embedding = world(rng, 48, 80), model.encode(picture(rng, 48, 80))
    order = np.array([2, 0, 3, 1])
    one = refine(model, embedding, scores, min_iou=0.2, **LOOSE)
    other = refine(model, embedding, np.ascontiguousarray(scores[order]), min_iou=0.2, **LOOSE)
    assert len(one.regions) > 3
    np.testing.assert_array_equal(order[other.labels], one.labels)
    np.testing.assert_allclose(other.scores(), one.scores()[order], atol=1e-6)
    assert sorted(rle["counts"] for rle in one.regions.rles) == sorted(rle["counts"] for rle in other.regions.rles)


def test_negatives_win_pixels_and_have_no_parts(model: MaskModel, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = np.full((2, 48, 80), 0.2, np.float32)
    scores[0, :24, :40], scores[1, 24:, :] = 0.8, 0.9
    asked = stub(monkeypatch, lambda part: True)
    found = refine(model, embedded(48, 80), Coarse.of(scores, 48, 80, names=1), coarse_thresh=0.5)
    assert [one["boxes"].tolist() for one in asked] == [[[0, 0, 40, 24]]]
    assert (found.labels[:24, :40] == 0).all() and (found.labels[24:] == -1).all() and found.labels[0, 60] == 0
    assert found.scores().shape == (1, 48, 80)


@pytest.mark.parametrize("slots", [0, 2])
def test_no_names_or_no_parts_ask_nothing(model: MaskModel, monkeypatch: pytest.MonkeyPatch, slots: int) -> None:
    asked = stub(monkeypatch, lambda part: True)
    found = refine(model, embedded(48, 80), np.full((slots, 6, 10), 0.05, np.float32))
    assert not asked and not len(found.parts) and not len(found.regions)
    assert found.labels.tolist() == np.full((48, 80), 0 if slots else -1).tolist()
    assert found.scores().shape == (slots, 48, 80)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (3, 200), (17, 2)])
def test_the_smallest_and_thinnest_pictures_are_refined(
    model: MaskModel, rng: Generator, size: tuple[int, int]
) -> None:
    scores = np.full((1, 1, 1), 0.9, np.float32)
    found = refine(model, model.encode(picture(rng, *size)), scores, min_part_px=1, min_iou=-9)
    assert len(found.parts) == 1 and found.parts.boxes[0].tolist() == pytest.approx([0, 0, size[1], size[0]])
    assert found.labels.shape == size and (found.labels == 0).all()


def test_bands_and_chunks_change_nothing(model: MaskModel, rng: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    scores, embedding = world(rng, 61, 83), model.encode(picture(rng, 61, 83))

    def run() -> Guided:
        return refine(model, embedding, Coarse.of(scores, 61, 83, 3), min_iou=0.2, **LOOSE)

    whole = run()
    monkeypatch.setattr(guided, "BAND_BYTES", 4 * 4 * 83 * 3)
    monkeypatch.setattr(guided, "PARTS_AT_ONCE", 4)
    banded = run()
    assert banded.coarse.step == 3 and len(whole.parts) > 8
    for name in ("boxes", "points", "number"):
        np.testing.assert_array_equal(getattr(whole.parts, name), getattr(banded.parts, name))
    assert whole.regions.rles == banded.regions.rles
    np.testing.assert_array_equal(whole.labels, banded.labels)
    np.testing.assert_allclose(whole.scores(slice(20, 41)), banded.scores()[:, 20:41], atol=1e-6)


def test_a_coarse_map_of_evidence_is_its_posteriors_however_it_is_kept(
    rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = rng.normal(size=(5, 6, 10)).astype(np.float32)
    evidence = Evidence(48, 80, np.array([0, 0, 1, -1, -1]), rows, np.zeros(2, np.float32))
    kept = Coarse.of_evidence(evidence)
    monkeypatch.setattr(guided, "KEPT_BYTES", 0)
    made = Coarse.of_evidence(evidence)
    assert (kept.slots, kept.names) == (made.slots, made.names) == (4, 2)
    for band in (slice(0, 48), slice(7, 19)):
        np.testing.assert_array_equal(kept.band(band), evidence.dense(band))
        np.testing.assert_array_equal(made.band(band), evidence.dense(band))
    one, two = (parts_of(coarse, coarse_thresh=0.1, min_part_px=9) for coarse in (kept, made))
    assert len(one) > 1
    np.testing.assert_array_equal(one.number, two.number)


def test_a_map_of_another_picture_and_numbers_that_are_none_are_refused(model: MaskModel) -> None:
    with pytest.raises(BadInput, match="80x48 and 48x80"):
        refine(model, embedded(48, 80), Coarse.of(np.zeros((2, 6, 10), np.float32), 80, 48))
    with pytest.raises(BadInput, match="not finite"):
        refine(model, embedded(48, 80), np.full((2, 6, 10), np.nan, np.float32))
    with pytest.raises(BadInput, match="scores of 3 names"):
        Coarse.of(np.zeros((2, 6, 10), np.float32), 48, 80, names=3)


@pytest.mark.parametrize("name", NARROW)
def test_networks_of_other_families_are_asked_in_their_own_square(
    name: str, rng: Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ForeignModel(perturbed(NARROW[name]))
    embedding = model.encode(picture(rng, 48, 80))
    asked = spied(monkeypatch)
    found = refine(model, embedding, world(rng, 48, 80), min_iou=-9, **LOOSE)
    assert len(found.regions) == len(found.parts) == sum(len(one["masks"]) for one in asked) > 4
    rows = round(model.cells[0] * 48 / 80) if name == "sam_hq" else model.cells[0]  # the others squeeze, none pads
    maps = prompt_maps(
        found.coarse, found.parts.names, (rows, model.cells[1]), model.cells, coarse_thresh=0.3, mask_factor=0.005
    )
    np.testing.assert_array_equal(asked[0]["masks"], maps)
    alone = prompted(model, embedding, **{key: some[3:4] for key, some in asked[0].items()})
    np.testing.assert_allclose(found.quality[3:4], alone.quality[0], atol=1e-5)
    assert (found.regions[3:4].masks ^ alone.regions.masks).sum() <= 2
