import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.random import Generator
from segment_anything import SamAutomaticMaskGenerator

from ovseg.errors import BadInput, BadUsage, UnknownName
from ovseg.evidence import Evidence
from ovseg.mergetree import MergeTree, merge_tree
from ovseg.proposals import PROPOSERS, propose, proposer
from ovseg.recipe import Recipe
from ovseg.sam.guided import Coarse, refine
from ovseg.sam.model import MaskModel
from ovseg.sam.prompted import prompted
from ovseg.types import DenseFeatures, Regions
from tests.sam.narrow import narrow_sam
from tests.scenes import features_of, random_features, tiles

ALL_MASKS = {
    "points_per_side": 4,
    "pred_iou_thresh": 0.0,
    "stability_score_thresh": 0.0,
    "box_nms_thresh": 1.0,
    "crop_nms_thresh": 1.0,
}
OPTIONS: dict[str, dict[str, Any]] = {  # rows that need their own
    "felzenszwalb": {"min_size": 20},
    "sam": ALL_MASKS,
    "sam-coarse": ALL_MASKS,
    "sam-adaptive": {**ALL_MASKS, "points_per_side": 8},
    "from-map": {"min_iou": -9, "min_part_px": 1},
}


@pytest.fixture
def rng() -> Generator:
    return np.random.default_rng(7)


def node_masks(tree: MergeTree) -> set[bytes]:
    return {tree.mask(node).tobytes() for node in range(len(tree.area))}


Ask = Callable[..., Regions]


@pytest.fixture(params=PROPOSERS)
def row(request: pytest.FixtureRequest) -> tuple[str, Ask]:
    """A row's name, and `propose` with what it needs: a network, a question, prompts of this picture."""
    name: str = request.param
    model = MaskModel(narrow_sam()) if PROPOSERS[name].needs_sam else None

    def ask(image: np.ndarray, features: DenseFeatures, **options: Any) -> Regions:
        needed: dict[str, Any] = {**OPTIONS.get(name, {}), "model": model}
        if name == "prompted":
            high, wide = image.shape[:2]
            needed["boxes"] = [[0, 0, wide, high], [0, 0, max(1, wide // 2), max(1, high // 3)]]
        if PROPOSERS[name].needs_names:
            needed["coarse"] = question(*image.shape[:2])
        if name == "files":
            needed["folder"], needed["source"] = str(request.getfixturevalue("tmp_path")), "shots/tile.jpg"
            masks = np.zeros((2, *image.shape[:2]), bool)
            masks[0, :1], masks[1, :, :1] = True, True
            if not (Path(needed["folder"]) / "tile.npz").exists():
                np.savez(Path(needed["folder"]) / "tile.npz", masks=masks)
        return propose(name, image, features, **{**needed, **options})

    return name, ask


def question(height: int, width: int) -> Evidence:
    """Two names that share a picture with a negative in its middle, as the cells would say."""
    rows = np.zeros((3, 6, 10), np.float32)
    rows[0, :, :4], rows[1, :, 6:], rows[2, :, 4:6] = 9, 9, 9
    return Evidence(height, width, np.array([0, 1, -1]), rows, np.zeros(2, np.float32))


class TestEveryProposer:
    def test_is_deterministic_inside_the_frame_and_never_empty(self, row: Any, rng: Generator) -> None:
        name, ask = row
        image, features = rng.integers(0, 256, (48, 80, 3), np.uint8), random_features(rng)
        image[:24] = image[0, 0]
        image.setflags(write=False)
        one, two = (ask(image, features) for _ in range(2))
        assert (one.height, one.width) == (48, 80)
        assert (one.area > 0).all()
        assert ((one.quality >= 0) & (one.quality <= 1)).all()
        assert one.rles == two.rles and one.quality.tobytes() == two.quality.tobytes()
        if name != "none":
            assert len(one) > 1

    def test_gives_several_threads_what_it_gives_one(self, row: Any, rng: Generator) -> None:
        _, ask = row
        pictures = [(rng.integers(0, 256, (48, 80, 3), np.uint8), random_features(rng)) for _ in range(2)]
        alone = [ask(*one).rles for one in pictures]
        with ThreadPoolExecutor(2) as pool:
            together = [future.result().rles for future in [pool.submit(ask, *pictures[i % 2]) for i in range(6)]]
        assert together == alone * 3

    def test_options_go_to_json_and_back(self, row: Any) -> None:
        name, _ = row
        options = json.loads(json.dumps(dict(PROPOSERS[name].options)))
        if PROPOSERS[name].requires:
            options[PROPOSERS[name].requires] = "masks"
        recipe = Recipe(sam="sam-vit-b", proposer=name, proposer_options=options)
        assert Recipe.from_json(recipe.to_json()).proposer_options == options
        for option in options:
            assert option in Recipe.from_json(recipe.to_json()).image_side

    def test_says_in_a_line_what_comes_out(self, row: Any) -> None:
        name, _ = row
        assert 5 < len(PROPOSERS[name].what) <= 60 and "\n" not in PROPOSERS[name].what

    def test_leaves_a_blank_picture_with_none_or_one(self, row: Any) -> None:
        name, ask = row
        if name in ("files", "prompted") or PROPOSERS[name].needs_names:
            return  # they answer to files, prompts and questions, of which a blank picture has as many
        options = {"box_nms_thresh": 0.7} if PROPOSERS[name].needs_sam else {}
        assert len(ask(np.full((48, 80, 3), 90, np.uint8), features_of(48, 80), **options)) <= 1

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (16, 3)])
    def test_takes_the_smallest_pictures(self, row: Any, size: tuple[int, int]) -> None:
        _, ask = row
        regions = ask(np.zeros((*size, 3), np.uint8), features_of(*size))
        assert (regions.height, regions.width) == size

    def test_knows_its_options(self, row: Any) -> None:
        name, ask = row
        with pytest.raises(UnknownName, match=f"option of proposer {name}"):
            ask(np.zeros((48, 80, 3), np.uint8), features_of(48, 80), nonsense=1)

    def test_refuses_features_of_another_picture(self, row: Any) -> None:
        _, ask = row
        with pytest.raises(BadInput, match="48x80, the features are of 80x48"):
            ask(np.zeros((48, 80, 3), np.uint8), features_of(80, 48))


def test_names_are_found_whatever_their_case_and_unknown_ones_list_the_known() -> None:
    assert proposer("Felzenszwalb") is PROPOSERS["felzenszwalb"]
    with pytest.raises(
        UnknownName,
        match="felzenszwalb, files, from-map, none, prompted, sam, sam-adaptive, sam-coarse: got 'felzenswalb'. "
        "Did you mean 'felzenszwalb'",
    ):
        proposer("felzenswalb")


def test_a_missing_sam_is_said_with_what_needs_none() -> None:
    with pytest.raises(BadUsage, match=r"sam needs a SAM-type network.*\(none, felzenszwalb, files\)"):
        propose("sam", np.zeros((48, 80, 3), np.uint8), features_of(48, 80))


class TestSam:
    def test_gives_segment_anythings_own_records(self, rng: Generator) -> None:
        sam, image = narrow_sam(), rng.integers(0, 256, (48, 80, 3), np.uint8)
        options = {**ALL_MASKS, "crop_n_layers": 1, "min_mask_region_area": 5}
        theirs = SamAutomaticMaskGenerator(sam, points_per_batch=16, **options).generate(image)
        ours = propose("sam", image, features_of(48, 80), model=sam, **options)
        assert len(theirs) > 3
        assert (np.stack([record["segmentation"] for record in theirs]) == ours.masks).all()
        assert np.array([r["predicted_iou"] for r in theirs], np.float32).clip(0, 1).tolist() == ours.quality.tolist()
        assert [r["area"] for r in theirs] == ours.area.tolist()

    def test_quality_can_be_the_stability(self, rng: Generator) -> None:
        sam, image = narrow_sam(), rng.integers(0, 256, (48, 80, 3), np.uint8)
        theirs = SamAutomaticMaskGenerator(sam, points_per_batch=16, **ALL_MASKS).generate(image)
        ours = propose("sam", image, features_of(48, 80), model=sam, quality="stability_score", **ALL_MASKS)
        assert np.array([record["stability_score"] for record in theirs], np.float32).tolist() == ours.quality.tolist()
        with pytest.raises(UnknownName, match="quality of a proposer"):
            propose("sam", image, features_of(48, 80), model=sam, quality="beauty")

    def test_defaults_are_segment_anythings_but_for_the_batch(self) -> None:
        import inspect

        theirs = {
            name: parameter.default
            for name, parameter in inspect.signature(SamAutomaticMaskGenerator).parameters.items()
            if name not in ("model", "point_grids", "output_mode")
        }
        cuts = {"pred_iou_thresh": None, "stability_score_thresh": None}  # the network's own
        assert {**theirs, **cuts, "points_per_batch": 16, "quality": "predicted_iou"} == PROPOSERS["sam"].options

    def test_coarse_and_adaptive_are_the_generators_own_modes(self, rng: Generator) -> None:
        from ovseg.sam import AutomaticMaskGenerator

        sam, image = narrow_sam(), rng.integers(0, 256, (48, 80, 3), np.uint8)
        for name in ("coarse", "adaptive"):
            defaults = {key: value for key, value in PROPOSERS[f"sam-{name}"].options.items() if key != "quality"}
            generator = AutomaticMaskGenerator(sam, mode=name)
            asked = {key: value for key, value in {**defaults, "points_per_batch": 64}.items() if value is not None}
            assert {key: generator.options[key] for key in asked} == asked
            wanted, _ = AutomaticMaskGenerator(sam, mode=name, **ALL_MASKS).regions(image)
            found = propose(f"sam-{name}", image, features_of(48, 80), model=sam, **ALL_MASKS)
            assert len(found) > 3 and found.rles == wanted.rles


class TestFromMap:
    def test_gives_the_accepted_masks_of_the_guided_refinement(self, rng: Generator) -> None:
        model, image = MaskModel(narrow_sam()), rng.integers(0, 256, (48, 80, 3), np.uint8)
        coarse, embedding = question(48, 80), model.encode(image)
        scores = coarse.dense(slice(0, 48))
        every = refine(model, embedding, scores, min_part_px=30, min_iou=-9)
        cut = float(np.sort(every.quality)[-2])
        wanted = refine(model, embedding, Coarse.of(scores, 48, 80, 2), min_part_px=30, min_iou=cut)
        found = propose("from-map", image, features_of(48, 80), model=model, coarse=coarse, min_part_px=30, min_iou=cut)
        assert 0 < len(found) < 3 and found.rles == wanted.regions.rles
        given = propose(
            "from-map", image, features_of(48, 80), model=model, embedding=embedding, coarse=coarse, min_part_px=30,
            min_iou=cut,
        )  # fmt: skip
        assert given.rles == found.rles and given.quality.tolist() == found.quality.tolist()

    def test_defaults_are_those_of_the_refinement(self) -> None:
        import inspect

        given = inspect.signature(refine).parameters.values()
        theirs = {one.name: one.default for one in given if one.kind is one.KEYWORD_ONLY}
        assert theirs == PROPOSERS["from-map"].options

    def test_without_a_question_is_a_sentence(self) -> None:
        with pytest.raises(BadUsage, match="from-map reads the coarse map of the names.*Pipeline.segment"):
            propose("from-map", np.zeros((48, 80, 3), np.uint8), features_of(48, 80), model=narrow_sam())


class TestPrompted:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"boxes": [[1, 2, 30, 40], [1, 1, 300, 20]]}, "box 1 is outside of the frame"),
            ({"points": [[[9, 9]]], "labels": [[0.7]]}, r"labels of proposer prompted are 1 .*got \[\[0.7\]\]"),
        ],
    )
    def test_a_prompt_that_cannot_be_asked_is_a_sentence(self, options: Any, message: str) -> None:
        with pytest.raises((BadInput, BadUsage), match=message):
            propose("prompted", np.zeros((48, 80, 3), np.uint8), features_of(48, 80), model=narrow_sam(), **options)

    def test_gives_one_mask_a_prompt_in_their_order(self, rng: Generator) -> None:
        sam, image = narrow_sam(), rng.integers(0, 256, (48, 80, 3), np.uint8)
        model = MaskModel(sam)
        boxes = [[2, 3, 40, 30], [20, 10, 75, 44]]
        points = [[[9, 9], [70, 40]], [[30, 30], [5, 40]]]
        for options in (
            {"boxes": boxes},
            {"points": points, "labels": [[1, 0], [1, -1]]},
            {"boxes": boxes, "points": points},
        ):
            arrays: dict[str, Any] = {key: np.array(value, float) for key, value in options.items() if key != "labels"}
            if "points" in options:
                arrays["labels"] = np.array(options.get("labels", [[1, 1], [1, 1]]))
            wanted = prompted(model, model.encode(image), **arrays).regions
            found = propose("prompted", image, features_of(48, 80), model=sam, **options)
            assert len(found) == 2 and found.rles == wanted.rles

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({}, "needs boxes .* or points .* none came"),
            ({"boxes": [1, 2, 3, 4]}, r"boxes of proposer prompted are \[\[left, top"),
            ({"boxes": [[1, 2, 3]]}, "boxes of proposer prompted"),
            ({"points": [[3, 4]]}, r"points of proposer prompted are \[\[\[x, y\]"),
            ({"points": [[[3, 4]]], "labels": ["in"]}, "labels of proposer prompted"),
        ],
    )
    def test_prompts_that_are_none_are_a_sentence(self, options: dict[str, Any], sentence: str) -> None:
        with pytest.raises(BadUsage, match=sentence):
            propose("prompted", np.zeros((48, 80, 3), np.uint8), features_of(48, 80), model=narrow_sam(), **options)


class TestFiles:
    def test_gives_the_masks_that_lie_in_the_folder_under_the_pictures_name(
        self, tmp_path: Path, rng: Generator
    ) -> None:
        masks = rng.random((2, 48, 80)) < 0.5
        np.savez(tmp_path / "tile.npz", masks=masks, quality=np.array([0.25, 0.5]))
        image = np.zeros((48, 80, 3), np.uint8)
        found = propose("files", image, features_of(48, 80), folder=str(tmp_path), source="shots/tile.jpg")
        assert (found.masks == masks).all() and found.quality.tolist() == [0.25, 0.5]

    def test_without_a_folder_or_a_name_is_a_sentence(self, tmp_path: Path) -> None:
        image = np.zeros((48, 80, 3), np.uint8)
        with pytest.raises(BadUsage, match="files needs the option folder"):
            propose("files", image, features_of(48, 80), source="tile.jpg")
        with pytest.raises(BadInput, match="came without one; give its path"):
            propose("files", image, features_of(48, 80), folder=str(tmp_path))


class TestFelzenszwalb:
    def test_planted_tiles_come_back_exactly(self) -> None:
        image, number = tiles()
        found = {mask.tobytes() for mask in propose("felzenszwalb", image, features_of(48, 80), sigma=0).masks}
        assert {(number == tile).tobytes() for tile in range(6)} <= found

    def test_blur_moves_a_border_by_a_pixel_at_most(self) -> None:
        image, number = tiles()
        masks = propose("felzenszwalb", image, features_of(48, 80)).masks
        for tile in range(6):
            here = (number == tile).astype(np.uint8)
            inner, outer = (change(here, np.ones((3, 3), np.uint8)) > 0 for change in (cv2.erode, cv2.dilate))
            assert any((mask >= inner).all() and (mask <= outer).all() for mask in masks)

    def test_a_large_picture_is_segmented_small_and_answered_at_its_own_size(self) -> None:
        image, number = tiles()
        image, number = image.repeat(3, axis=0).repeat(3, axis=1), number.repeat(3, axis=0).repeat(3, axis=1)
        regions = propose("felzenszwalb", image, features_of(144, 240), long_side=80, sigma=0)
        assert {(number == tile).tobytes() for tile in range(6)} <= {mask.tobytes() for mask in regions.masks}

    def test_identical_neighbours_are_no_regions(self) -> None:
        image, number = tiles()
        tree = merge_tree(np.full_like(image, 90), number, features_of(48, 80))
        assert (tree.quality[:-1] <= 1e-6).all()

    def test_regions_are_the_best_by_quality_and_size_within_the_bounds(self, rng: Generator) -> None:
        image, features = rng.integers(0, 256, (48, 80, 3), np.uint8), random_features(rng)
        every = propose("felzenszwalb", image, features, min_size=10, min_area=0.02, max_area=0.5)
        share = every.area / (48 * 80)
        assert ((share >= 0.02) & (share <= 0.5)).all()
        worth = every.quality * np.sqrt(share)
        assert (np.diff(worth) <= 1e-6).all()
        few = propose("felzenszwalb", image, features, min_size=10, min_area=0.02, max_area=0.5, keep=5)
        assert few.rles == every.rles[:5]


def test_no_regions_is_regions() -> None:
    assert isinstance(propose("none", np.zeros((48, 80, 3), np.uint8), features_of(48, 80)), Regions)
