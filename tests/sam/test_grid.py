from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from numpy.random import Generator
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.masks import iou
from ovseg.raster import decode_rle
from ovseg.sam import AutomaticMaskGenerator
from ovseg.sam import model as model_room
from ovseg.sam.grid import MODES, OPTIONS, _check
from ovseg.sam.model import MaskModel
from ovseg.sam.runs import Kept
from ovseg.sam.stretch import Cut, Stretch
from tests.sam.narrow import narrow_sam
from tests.sam.stubs import OpaqueScene, Scene, stubs

ALL = {
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
    "crop_nms_thresh": 1.0,
}


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(7)


def picture(rng: Generator, height: int = 48, width: int = 80) -> np.ndarray:
    return rng.integers(0, 256, (height, width, 3), np.uint8)


def raised_sam(seed: int = 0) -> Sam:
    """A narrow SAM that is sure of itself: cuts of 0 and less would be inactive."""
    sam = narrow_sam(seed)
    with torch.no_grad():
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.add_(1.0)
    return sam


def same(theirs: list[dict[str, Any]], ours: list[dict[str, Any]]) -> None:
    """Every record equal in keys, order, values and types."""
    assert len(theirs) == len(ours)
    for expected, actual in zip(theirs, ours, strict=True):
        assert list(expected) == list(actual)
        for key, value in expected.items():
            if isinstance(value, np.ndarray):
                assert value.dtype == actual[key].dtype
                assert (value == actual[key]).all()
            else:
                assert repr(value) == repr(actual[key]), key  # 3 and 3.0 differ, nan equals itself


def both(sam: Sam, image: np.ndarray, batch: int = 16, **options: Any) -> list[dict[str, Any]]:
    """The records of segment-anything, after ours were found equal to them."""
    theirs = SamAutomaticMaskGenerator(sam, points_per_batch=batch, **options).generate(image)
    same(theirs, AutomaticMaskGenerator(sam, points_per_batch=batch, **options).generate(image))
    return theirs


@pytest.mark.parametrize(
    ("points", "layers", "output_mode", "size"),
    [
        (4, 0, "binary_mask", (48, 80)),
        (4, 0, "uncompressed_rle", (80, 48)),
        (4, 0, "coco_rle", (300, 200)),
        (8, 0, "binary_mask", (64, 64)),
        (4, 1, "coco_rle", (80, 48)),
        (8, 1, "uncompressed_rle", (48, 80)),
    ],
)
def test_every_record_is_segment_anythings_own(
    points: int, layers: int, output_mode: str, size: tuple[int, int], rng: Generator
) -> None:
    options = {**ALL, "points_per_side": points, "crop_n_layers": layers, "output_mode": output_mode}
    found = both(raised_sam(points), picture(rng, *size), **options)
    assert len(found) >= 3 * points**2


@pytest.mark.parametrize("count", [0, 5, 60])
def test_with_the_cut_in_the_gap_after_so_many_masks(count: int, rng: Generator) -> None:
    sam, image = raised_sam(), picture(rng)
    every = SamAutomaticMaskGenerator(sam, points_per_side=6, points_per_batch=16, **ALL).generate(image)
    order = sorted((record["predicted_iou"] for record in every), reverse=True)
    cut = (order[count - 1] + order[count]) / 2 if count else order[0] + 1
    assert len(both(sam, image, points_per_side=6, **{**ALL, "pred_iou_thresh": cut})) == count


def test_with_a_cut_of_stability(rng: Generator) -> None:
    sam, image = raised_sam(), picture(rng)
    found = both(sam, image, points_per_side=8, stability_score_offset=0.02, **ALL)
    cut = float(np.median([record["stability_score"] for record in found]))
    kept = both(sam, image, points_per_side=8, stability_score_offset=0.02, **{**ALL, "stability_score_thresh": cut})
    assert 0 < len(kept) < len(found)


@pytest.mark.parametrize("layers", [0, 1])
def test_overlapping_boxes_are_thinned_alike(layers: int, rng: Generator) -> None:
    options = {**ALL, "box_nms_thresh": 0.9, "crop_nms_thresh": 0.8, "crop_n_layers": layers}
    assert both(raised_sam(), picture(rng), points_per_side=4, **options)


@pytest.mark.parametrize("smallest", [3, 30])
def test_small_holes_and_islands_go_alike(smallest: int, rng: Generator) -> None:
    options = {**ALL, "min_mask_region_area": smallest, "crop_n_layers": 1, "crop_n_points_downscale_factor": 2}
    sam, image = raised_sam(), picture(rng)
    without = both(sam, image, points_per_side=4, **{**options, "min_mask_region_area": 0})
    assert [one["area"] for one in both(sam, image, points_per_side=4, **options)] != [one["area"] for one in without]


def test_own_grids_are_asked(rng: Generator) -> None:
    grids = [rng.random((8, 2)), rng.random((4, 2))]  # fours: what is left over moves the peer's own last bits
    options = {**ALL, "points_per_side": None, "point_grids": grids, "crop_n_layers": 1}
    assert len(both(raised_sam(), picture(rng), **options)) == 3 * 8  # what crops hold ends at their edges


@pytest.mark.parametrize(
    ("size", "points", "layers", "mode"),
    [((270, 480), 12, 0, "coco_rle"), ((240, 150), 12, 0, "binary_mask"), ((300, 400), 6, 1, "uncompressed_rle")],
)
def test_masks_that_look_like_masks_are_equal_at_the_default_cuts(
    size: tuple[int, int], points: int, layers: int, mode: str
) -> None:
    sam, stub = stubs(Scene(*size, grid=points))
    image = np.zeros((*size, 3), np.uint8)
    options = {"points_per_side": points, "crop_n_layers": layers, "output_mode": mode}
    theirs = SamAutomaticMaskGenerator(sam, points_per_batch=16, **options).generate(image)
    assert len(theirs) > 5
    assert len({tuple(record["crop_box"]) for record in theirs}) > layers
    same(theirs, AutomaticMaskGenerator(stub, points_per_batch=16, **options).generate(image))


def test_batches_change_nothing(rng: Generator) -> None:
    sam, image = raised_sam(), picture(rng)
    options = {**ALL, "pred_iou_thresh": 0.5, "points_per_side": 5}
    found = [AutomaticMaskGenerator(sam, points_per_batch=batch, **options).generate(image) for batch in (1, 7, 16)]
    for other in found[1:]:
        same(found[0], other)


def test_the_calls_in_which_prompts_are_decoded_change_no_mask(rng: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    sam, image = raised_sam(), picture(rng)
    found = []
    for count in (1, 4, 7, 16):
        monkeypatch.setattr(model_room, "AT_ONCE", count)
        found.append(AutomaticMaskGenerator(sam, points_per_side=5, **ALL).generate(image))
    for other in found[1:]:
        assert len(other) == len(found[0]) == 75
        key = lambda one: (one["point_coords"], one["predicted_iou"])  # noqa: E731
        for one, two in zip(sorted(found[0], key=key), sorted(other, key=key), strict=True):
            assert one["predicted_iou"] == pytest.approx(two["predicted_iou"], abs=1e-6)
            assert (one["segmentation"] != two["segmentation"]).mean() <= 1e-3


def test_an_embedding_given_is_not_made_again(rng: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    sam, image = raised_sam(), picture(rng)
    generator = AutomaticMaskGenerator(sam, points_per_side=4, **ALL)
    embedding = generator.model.encode(image)
    wanted = generator.generate(image)
    monkeypatch.setattr(sam.image_encoder, "forward", None)
    same(wanted, generator.generate(image, embedding))


def test_an_embedding_of_another_picture_or_network_is_refused(rng: Generator) -> None:
    generator = AutomaticMaskGenerator(raised_sam(), points_per_side=4)
    with pytest.raises(BadInput, match="embedding is of 48x80, the picture is 80x48"):
        generator.generate(picture(rng, 80, 48), generator.model.encode(picture(rng)))
    _, stub = stubs(Scene(48, 80))
    with pytest.raises(BadInput, match="needs embeddings of 32 x 16 x 16: got 8 x 64 x 64"):
        generator.generate(picture(rng), stub.encode(picture(rng)))


def test_a_network_that_is_not_finite_is_said(rng: Generator) -> None:
    sam = raised_sam()
    with torch.no_grad():
        sam.mask_decoder.output_hypernetworks_mlps[2].layers[-1].bias.fill_(float("nan"))
    with pytest.raises(BadInput, match="not finite.*try float32"):
        AutomaticMaskGenerator(sam, points_per_side=2, **ALL).generate(picture(rng))


@pytest.mark.parametrize("image", [np.zeros((4, 5, 3)), np.zeros((4, 5), np.uint8), np.zeros((0, 5, 3), np.uint8)])
def test_what_is_no_picture_is_said(image: np.ndarray) -> None:
    generator = AutomaticMaskGenerator(raised_sam(), points_per_side=2)
    with pytest.raises(BadInput, match="RGB picture of bytes"):
        _check(image, None, generator.model)


def test_options_are_checked() -> None:
    sam = narrow_sam()
    with pytest.raises(UnknownName, match="option of AutomaticMaskGenerator"):
        AutomaticMaskGenerator(sam, points_per_sid=3)
    with pytest.raises(UnknownName, match="mode must be one of adaptive, coarse, exact"):
        AutomaticMaskGenerator(sam, mode="exakt")
    with pytest.raises(UnknownName, match="output_mode"):
        AutomaticMaskGenerator(sam, output_mode="png")
    with pytest.raises(BadUsage, match="and not both"):
        AutomaticMaskGenerator(sam, points_per_side=None)
    with pytest.raises(BadUsage, match="adaptive walks a square grid"):
        AutomaticMaskGenerator(sam, mode="adaptive", points_per_side=None, point_grids=[np.zeros((1, 2))])


def test_options_and_defaults_are_segment_anythings() -> None:
    import inspect

    theirs = {
        name: parameter.default
        for name, parameter in inspect.signature(SamAutomaticMaskGenerator).parameters.items()
        if name != "model"
    }
    assert OPTIONS["pred_iou_thresh"] is None and OPTIONS["stability_score_thresh"] is None  # the model's
    ours = AutomaticMaskGenerator(narrow_sam()).options
    assert {name: ours[name] for name in theirs} == theirs


def test_cuts_are_the_models_own_unless_they_are_given() -> None:
    model = MaskModel(narrow_sam())
    model.cuts = (0.3, 0.6)
    names = ("pred_iou_thresh", "stability_score_thresh")
    ours = [AutomaticMaskGenerator(model, **given).options for given in ({}, {"pred_iou_thresh": 0.0})]
    assert [[options[name] for name in names] for options in ours] == [[0.3, 0.6], [0.0, 0.6]]
    coarse = AutomaticMaskGenerator(model, mode="coarse").options
    assert [coarse[name] for name in names] == [0.4, 0.4]


def test_logits_are_kept_when_asked(rng: Generator) -> None:
    sam, image = raised_sam(), picture(rng)
    records = AutomaticMaskGenerator(sam, points_per_side=2, keep_logits=True, **ALL).generate(image)
    for record in records:
        logits = torch.from_numpy(record["low_res_logits"])[None, None].expand(1, 3, -1, -1).contiguous()
        frame = sam.postprocess_masks(logits, (154, 256), (48, 80))[0, 0]
        assert ((frame > 0).numpy() == record["segmentation"]).all()


def test_quality_can_be_the_stability(rng: Generator) -> None:
    options = {**ALL, "stability_score_offset": 0.02, "points_per_side": 3}
    for quality in ("predicted_iou", "stability_score"):
        generator = AutomaticMaskGenerator(raised_sam(), quality=quality, **options)
        found = [record[quality] for record in generator.generate(picture(rng))]
        assert len(found) > 2 and found == sorted(found, reverse=True)


def test_coarse_is_segment_anything_with_one_mask_a_point(rng: Generator) -> None:
    assert MODES["coarse"]["points_per_side"] == 8
    sam, image = raised_sam(), picture(rng)
    generator = AutomaticMaskGenerator(sam, mode="coarse", stability_score_thresh=0.0, box_nms_thresh=1.0)
    records = generator.generate(image)
    assert len(records) == 64
    from segment_anything import SamPredictor

    predictor = SamPredictor(sam)
    predictor.set_image(image)
    for record in records[::9]:
        point = np.array(record["point_coords"])
        masks, quality, _ = predictor.predict(point, np.array([1]), multimask_output=False)
        assert (masks[0] == record["segmentation"]).mean() >= 0.999
        assert quality[0] == pytest.approx(record["predicted_iou"], abs=1e-5)


class TestAdaptive:
    def test_finds_the_objects_with_fewer_decodes(self) -> None:
        image = np.zeros((240, 320, 3), np.uint8)
        true, found, masks, met, decoded = 0, 0, 0, 0, {"objects": 0, "parts": 0}
        for seed in (10, 13):  # the rule was chosen on 0 to 7; tests/bench/adaptive.py prints more
            scene = OpaqueScene(240, 320, seed=seed)
            _, stub = stubs(scene)
            way = stub.stretch(stub.encode(image))
            things = [Kept.of(way.cut(scene.distance(thing), 0.0, 1.0)).rle(240, 320) for thing in scene.things]
            every, _ = AutomaticMaskGenerator(stub).regions(image)
            there = iou(things, every.rles).max(axis=1) >= 0.9
            some = {}
            for recall in decoded:
                some[recall], work = AutomaticMaskGenerator(stub, mode="adaptive", recall=recall).regions(image)
                decoded[recall] += work.decoded
            true += there.sum()
            found += (there & (iou(things, some["objects"].rles).max(axis=1) >= 0.9)).sum()
            masks += len(every)
            met += (iou(every.rles, some["parts"].rles).max(axis=1) >= 0.9).sum()
        assert true > 40
        assert found >= 0.95 * true
        assert decoded["objects"] <= 0.45 * 2 * 1024
        assert met >= 0.95 * masks
        assert decoded["parts"] < 2 * 1024

    def test_a_ground_that_the_network_is_not_sure_of_is_not_asked_to_the_end(self) -> None:
        scene = Scene(270, 480, objects=1)
        scene.radius[:] = 500.0
        scene.iou[:] = 0.5
        _, stub = stubs(scene)
        for recall, most in (("objects", 64 + 64), ("parts", 1024)):
            generator = AutomaticMaskGenerator(stub, mode="adaptive", recall=recall)
            found, work = generator.regions(np.zeros((270, 480, 3), np.uint8))
            assert len(found) == work.raised == 0
            assert 64 <= work.decoded <= most and (recall == "objects" or work.decoded == most)

    def test_a_point_lies_in_its_cell_of_the_low_masks(self, rng: Generator) -> None:
        generator = AutomaticMaskGenerator(
            narrow_sam(), mode="adaptive"
        )  # 64 x 64 cells, of which 39 x 64 hold picture
        points = np.array([[79.5, 47.5], [79.5, 0.5], [0.5, 47.5], [40.0, 12.0], [80.0, 48.0]])  # x, y
        cells = generator._cells(points, generator.model.encode(picture(rng)))
        assert cells.tolist() == [[38, 63], [0, 63], [38, 0], [9, 32], [38, 63]]

    def test_decodes_all_points_where_nothing_is_accepted(self, rng: Generator) -> None:
        generator = AutomaticMaskGenerator(narrow_sam(), mode="adaptive", points_per_side=8, recall="parts")
        found, work = generator.regions(picture(rng))
        assert (len(found), work.points, work.decoded) == (0, 64, 64)

    def test_every_mask_is_one_of_exact(self, rng: Generator) -> None:
        sam, image = raised_sam(), picture(rng)
        options = {**ALL, "points_per_side": 8}
        exact = AutomaticMaskGenerator(sam, **options).regions(image)[0]
        some, work = AutomaticMaskGenerator(sam, mode="adaptive", **options).regions(image)
        assert set(r["counts"] for r in some.rles) <= set(r["counts"] for r in exact.rles)
        assert 0 < work.decoded < 64


def test_regions_are_the_records(rng: Generator) -> None:
    generator = AutomaticMaskGenerator(raised_sam(), points_per_side=3, **ALL)
    image = picture(rng)
    regions, work = generator.regions(image)
    records = generator.generate(image)
    assert len(regions) == len(records) > 1
    for rle, record in zip(regions.rles, records, strict=True):
        assert (decode_rle(rle) == record["segmentation"]).all()
    assert work.decoded == 9 and work.raised == 27
    assert ((regions.quality >= 0) & (regions.quality <= 1)).all()


def test_a_generator_takes_a_model_as_well(rng: Generator) -> None:
    model = MaskModel(raised_sam())
    assert AutomaticMaskGenerator(model).model is model


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 300), (16, 3)])
def test_the_smallest_pictures_are_answered_as_by_segment_anything(size: tuple[int, int], rng: Generator) -> None:
    both(raised_sam(), picture(rng, *size), points_per_side=4, **ALL)


def test_nothing_found_is_no_error_with_crops_either(rng: Generator) -> None:
    generator = AutomaticMaskGenerator(narrow_sam(), points_per_side=2, pred_iou_thresh=9.0, crop_n_layers=1)
    assert generator.generate(picture(rng)) == []


def test_masks_may_be_thinned_by_their_own_overlap(rng: Generator) -> None:
    sam, image = raised_sam(), picture(rng)
    options = {**ALL, "points_per_side": 6, "crop_n_layers": 1, "nms": "mask", "min_mask_region_area": 4}
    every = AutomaticMaskGenerator(sam, **options).regions(image)[0]
    assert len(every) > 9
    cut = float(np.median(iou(every.rles, every.rles)[~np.eye(len(every), dtype=bool)]))
    some = AutomaticMaskGenerator(sam, **{**options, "box_nms_thresh": cut, "crop_nms_thresh": cut}).regions(image)[0]
    overlaps = iou(some.rles, some.rles)[~np.eye(len(some), dtype=bool)]
    assert 1 < len(some) < len(every)
    assert overlaps.max() <= cut


def test_quality_can_be_a_function(rng: Generator) -> None:
    options = {**ALL, "points_per_side": 3, "quality": lambda one: one.kept.area / (48 * 80)}
    records = AutomaticMaskGenerator(raised_sam(), **options).generate(picture(rng))
    areas = [record["area"] for record in records]
    assert len(set(areas)) > 2 and areas == sorted(areas, reverse=True)
    regions, _ = AutomaticMaskGenerator(raised_sam(), **options).regions(picture(rng))
    assert regions.quality == pytest.approx(regions.area / (48 * 80), abs=1e-6)


def test_more_regions_than_allowed_are_refused_with_what_they_take(rng: Generator) -> None:
    sam, image = raised_sam(), picture(rng)
    assert len(AutomaticMaskGenerator(sam, points_per_side=4, max_regions=48, **ALL).generate(image)) == 48
    with pytest.raises(BadUsage, match="max_regions is 47: 48 masks passed.* MB as run lengths.*raise the cuts"):
        AutomaticMaskGenerator(sam, points_per_side=4, max_regions=47, **ALL).generate(image)


def test_options_that_cannot_be_are_said() -> None:
    sam = narrow_sam()
    for options, said in (
        ({"points_per_side": 0}, "points_per_side must be 1 or more: got 0"),
        ({"points_per_batch": 0}, "points_per_batch must be 1 or more: got 0"),
        ({"crop_n_layers": -1}, "crop_n_layers must be 0 or more: got -1"),
        ({"points_per_side": 3, "crop_n_layers": 2, "crop_n_points_downscale_factor": 2}, "must be 4 or more with 2"),
        ({"points_per_side": None, "point_grids": [np.zeros((3, 2))], "crop_n_layers": 1}, r"2 arrays.*\(3, 2\)"),
        ({"points_per_side": None, "point_grids": [np.zeros(3)]}, r"1 arrays.*shapes \(3,\)"),
        ({"points_per_side": None, "point_grids": []}, "shapes none"),
    ):
        with pytest.raises(BadUsage, match=said):
            AutomaticMaskGenerator(sam, **options)
    with pytest.raises(UnknownName, match="nms must be one of box, mask: got 'soft'"):
        AutomaticMaskGenerator(sam, nms="soft")


@pytest.mark.parametrize("mode", ["exact", "coarse"])
def test_a_grid_without_points_gives_nothing(mode: str, rng: Generator) -> None:
    options = {**ALL, "points_per_side": None, "point_grids": [np.zeros((0, 2)), rng.random((4, 2))]}
    generator = AutomaticMaskGenerator(raised_sam(), mode=mode, crop_n_layers=1, **options)
    _, work = generator.regions(picture(rng))
    assert (work.points, work.decoded) == (16, 16)  # four crops are asked all the same
    generator = AutomaticMaskGenerator(raised_sam(), mode=mode, **{**options, "point_grids": [np.zeros((0, 2))]})
    assert generator.generate(picture(rng)) == []


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("size", "layers"), [((16, 16), 1), ((1, 1), 3), ((2, 9), 2)])  # crops of no pixels as well
def test_every_mode_answers_small_pictures_with_crops(
    mode: str, size: tuple[int, int], layers: int, rng: Generator
) -> None:
    options = {**ALL, "crop_n_layers": layers, "points_per_side": 2}
    records = AutomaticMaskGenerator(raised_sam(), mode=mode, **options).generate(picture(rng, *size))
    assert all(record["segmentation"].shape == size for record in records)
    assert records


def test_however_a_picture_lies_in_memory_it_is_the_same_and_stays_so(rng: Generator) -> None:
    image = picture(rng)
    generator = AutomaticMaskGenerator(raised_sam(), points_per_side=3, crop_n_layers=1, **ALL)
    wanted, before = generator.generate(image), image.tobytes()
    still = image.copy()
    still.flags.writeable = False
    turned = np.ascontiguousarray(image.transpose(1, 0, 2)).transpose(1, 0, 2)
    wide = np.repeat(image, 2, axis=1)[:, ::2]
    backwards = image[::-1, ::-1, ::-1].copy()[::-1, ::-1, ::-1]
    for other in (still, turned, wide, backwards):
        same(wanted, generator.generate(other))
    assert image.tobytes() == before


def test_one_generator_serves_many_threads(rng: Generator) -> None:
    pictures = [picture(rng, 48 + 8 * i, 80) for i in range(4)]
    for mode in MODES:
        generator = AutomaticMaskGenerator(raised_sam(), mode=mode, **{**ALL, "points_per_side": 4})
        alone = [generator.generate(image) for image in pictures]
        with ThreadPoolExecutor(4) as pool:
            for one, other in zip(alone * 2, pool.map(generator.generate, pictures * 2), strict=True):
                same(one, other)


def test_masks_of_a_large_picture_are_made_in_their_own_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, made = Scene(1500, 2000, objects=20), []
    _, stub = stubs(scene)
    scene.iou[:] = 1.0
    generator = AutomaticMaskGenerator(stub, points_per_side=8, output_mode="coco_rle")
    cut = Stretch.cut

    def counted(self: Stretch, *args: Any) -> Cut:
        made.append(cut(self, *args))
        return made[-1]

    monkeypatch.setattr(Stretch, "cut", counted)
    monkeypatch.setattr(Stretch, "_two_steps", None)  # the way over full frames
    monkeypatch.setattr(Kept, "mask", None)
    _, work = generator.regions(np.zeros((1500, 2000, 3), np.uint8))
    assert work.raised == len(made) == 192
    boxes = [one.box for one in made if one.bits.any()]
    tight = sum((right - left + 1) * (bottom - top + 1) for left, top, right, bottom in boxes)
    assert sum(one.bits.size for one in made) <= 1.3 * tight  # the rest lies between the mask and its lowest threshold


def test_predicted_ious_that_are_no_number_are_no_empty_picture(rng: Generator) -> None:
    sam = narrow_sam()
    with torch.no_grad():
        sam.mask_decoder.iou_prediction_head.layers[-1].bias.fill_(float("nan"))
    with pytest.raises(BadInput, match="predicted IoUs are not finite"):
        AutomaticMaskGenerator(sam, points_per_side=2).generate(rng.integers(0, 256, (48, 80, 3), np.uint8))
