import io
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiny
from ovseg import labels, pipeline, proposals
from ovseg.clip import pictures
from ovseg.clip.guides import load_guide
from ovseg.clip.methods import PICTURES
from ovseg.clip.plugins.cliptrase import affinity_map
from ovseg.errors import BadInput, BadUsage, MissingDevice, MissingWeights, UnknownName
from ovseg.extras import gives
from ovseg.pipeline import Encoding, Pipeline
from ovseg.recipe import Recipe
from ovseg.stages import STAGES, Scene, apply, cliptrase
from ovseg.stages.cliper import cliper_maps
from ovseg.stages.cliptrase import denoised
from ovseg.types import AnomalyMap, Segmentation
from tests.clip.guides.networks import guide, vit
from tests.sam.narrow import narrow_sam

RECIPE = Recipe(name="test", model="test", short_side=48, templates="bare", negatives="word", scale=100.0)
WIDE, TALL = tiny.picture(48, 80), tiny.picture(91, 50, seed=1)


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return Pipeline(RECIPE, tiny.clip())


class ImageCalls:
    """Counts pictures that enter the vision tower; leaves no trace."""

    def __init__(self, pipe: Pipeline) -> None:
        self.count = 0
        self.hook = pipe.clip.visual.conv1.register_forward_pre_hook(self._add)

    def _add(self, _: Any, given: tuple[Any, ...]) -> None:
        self.count += len(given[0])

    def __enter__(self) -> "ImageCalls":
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def test_ten_vocabularies_of_one_encoding_call_no_image_network(pipe: Pipeline) -> None:
    with ImageCalls(pipe) as calls:
        encoding = pipe.encode(WIDE)
        first = calls.count
        assert first > 0
        seen = set()
        for number in range(10):
            found = pipe.segment(encoding, [f"thing {number}", "cat"])
            assert isinstance(found, Segmentation)
            seen.add(found.names)
            found.with_threshold(0.3)
        assert len(seen) == 10 and calls.count == first


def test_one_in_one_out_and_a_list_in_a_list_out(pipe: Pipeline) -> None:
    one, many = pipe.segment(WIDE, ["cat", "dog"]), pipe.segment([WIDE, TALL], ["cat", "dog"])
    assert isinstance(one, Segmentation) and isinstance(many, list) and len(many) == 2
    assert many[1].labels.shape == TALL.shape[:2]
    assert np.array_equal(one.labels, many[0].labels)
    assert pipe.segment([], ["cat"]) == [] and pipe.encode([]) == []
    assert isinstance(pipe.encode(WIDE), Encoding) and isinstance(pipe.encode([WIDE]), list)


def test_every_kind_of_picture_gives_the_same_answer(pipe: Pipeline, tmp_path: Path) -> None:
    import torch

    path = tmp_path / "a picture (1).png"
    Image.fromarray(WIDE).save(path)
    wanted = pipe.segment(WIDE, ["cat", "dog"])
    kinds = [path, str(path), path.read_bytes(), io.BytesIO(path.read_bytes()), Image.open(path)]
    for kind in [*kinds, torch.from_numpy(WIDE).permute(2, 0, 1)]:
        got = pipe.segment(kind, ["cat", "dog"])
        assert np.array_equal(got.labels, wanted.labels) and np.array_equal(got.confidence, wanted.confidence)
    bgr = pipe.segment(WIDE[:, :, ::-1].copy(), ["cat", "dog"], channel_order="bgr")
    assert np.array_equal(bgr.confidence, wanted.confidence)


def test_answer_is_of_the_upright_pictures_size(pipe: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(tiny.picture(40, 64)).save(path, exif=exif)
    assert pipe.segment(path, ["cat", "dog"]).labels.shape == (64, 40)


def test_choices_of_asking_can_be_changed_and_those_of_the_image_side_cannot(pipe: Pipeline) -> None:
    encoding = pipe.encode(WIDE)
    loose, strict = (pipe.segment(encoding, ["cat", "dog"], threshold=value) for value in (0.0, 0.99))
    assert (strict.labels >= 0).sum() < (loose.labels >= 0).sum()
    assert strict.recipe.fingerprint != loose.recipe.fingerprint
    assert np.array_equal(loose.with_threshold(0.99).labels, strict.labels)
    with pytest.raises(BadUsage, match="belong to the image side"):
        pipe.segment(encoding, ["cat"], method="sclip")
    with pytest.raises(UnknownName, match="Did you mean 'threshold'"):
        pipe.segment(encoding, ["cat"], treshold=0.3)
    other = Pipeline(RECIPE.replace(method="sclip"), pipe.clip)
    with pytest.raises(BadUsage, match="encode the picture again"):
        other.segment(encoding, ["cat"])


def test_vocabulary_is_made_once_and_must_be_of_this_network(pipe: Pipeline) -> None:
    vocabulary = pipe.vocabulary(["cat", "dog"])
    assert pipe.vocabulary(["cat", "dog"]) is vocabulary and pipe.vocabulary(vocabulary) is vocabulary
    encoding = pipe.encode(WIDE)
    by_names, by_rows = pipe.segment(encoding, ["cat", "dog"]), pipe.segment(encoding, vocabulary)
    assert np.array_equal(by_names.confidence, by_rows.confidence)
    from dataclasses import replace

    foreign = replace(vocabulary, vectors=np.eye(len(vocabulary.owner), 9, dtype=np.float32))
    with pytest.raises(BadUsage, match="rows have 9 numbers, those of test have 32"):
        pipe.segment(encoding, foreign)


def test_a_ready_vocabulary_has_its_negatives_and_templates_and_refuses_others(pipe: Pipeline) -> None:
    vocabulary = pipe.vocabulary(["cat", "dog"])
    for change in ({"negatives": "none"}, {"templates": "few"}):
        with pytest.raises(BadUsage, match=f"{next(iter(change))} are part of a vocabulary that is ready"):
            pipe.segment(WIDE, vocabulary, **change)
    assert len(pipe.vocabulary(["cat", "dog"], negatives="none").owner) < len(vocabulary.owner)
    bare = pipe.segment(WIDE, ["cat", "dog"], negatives="none")
    assert bare.evidence is not None and len(bare.evidence.owner) == 2


@pytest.mark.parametrize("protocol", ["fast", "paper"])
@pytest.mark.parametrize("name", STAGES)
def test_every_stage_runs_from_picture_to_labels(name: str, protocol: str) -> None:
    """On a tall picture, by the small network; a stage changes the answer, and a new threshold needs no stage."""
    proposer = "felzenszwalb" if STAGES[name].needs_proposals else "none"
    method = next(method for method in ("naclip", "cliper") if set(STAGES[name].needs) <= set(gives(method)))
    recipe = RECIPE.replace(method=method, protocol=protocol, proposer=proposer, short_side=56, crop=48)
    pipe = Pipeline(recipe, tiny.clip())
    encoding = pipe.encode(TALL)
    stages = [{name: {"eps": 0.5, "least": 3}} if name == "cliptrase" else name]
    plain, found = pipe.segment(encoding, ["cat", "dog"]), pipe.segment(encoding, ["cat", "dog"], stages=stages)
    assert found.labels.shape == TALL.shape[:2] and np.isfinite(found.confidence).all()
    assert not np.array_equal(found.labels, plain.labels) or np.abs(found.confidence - plain.confidence).max() > 1e-3
    again = Pipeline(pipe.recipe.replace(stages=stages, threshold=0.6), pipe.clip).segment(encoding, ["cat", "dog"])
    assert np.array_equal(found.with_threshold(0.6).labels, again.labels)
    assert found.recipe.fingerprint != plain.recipe.fingerprint


def test_stages_see_the_picture_as_it_is(pipe: Pipeline) -> None:
    encoding = pipe.encode(WIDE)
    vocabulary = pipe.vocabulary(["cat", "dog"])
    scene = Scene(WIDE, encoding.features, vocabulary, 100.0)
    wanted, _ = apply(["tlp"], scene, labels.cell_rows(encoding.features, vocabulary, 100.0))
    found = pipe.segment(encoding, ["cat", "dog"], stages=["tlp"]).evidence
    assert found is not None and np.array_equal(found.rows, wanted)


def test_bundled_model_still_finds_what_is_there_after_stages_that_look_at_the_picture() -> None:
    pipe = Pipeline.open("tiny", cache=None)
    encoding = pipe.encode(pipeline.weights.bundled("demo/examples") / "meadow.jpg")
    names = ["cow", "sheep", "dog", "balloon", "car"]
    plain = pipe.segment(encoding, names)
    for change in (
        {"stages": ["tlp"]},
        {"stages": [{"lposs-plus": {"short_side": 112}}]},
        {"stages": ["surgery"]},
        {"refine": "pamr"},
    ):
        found = pipe.segment(encoding, names, **change)
        assert not np.array_equal(found.labels, plain.labels)
        for name, share in found.shares.items():
            assert (share > 0.01) == (name != "car"), (change, name)
            both = plain.masks[name] & found.masks[name]
            assert both.sum() >= 0.7 * min(plain.masks[name].sum(), found.masks[name].sum()), (change, name)


def test_method_cliptrase_brings_the_affinity_that_its_stage_clusters() -> None:
    pipe = Pipeline(RECIPE.replace(method="cliptrase", short_side=56, crop=48), tiny.clip())
    encoding = pipe.encode(TALL)
    rows, cols = encoding.features.grid
    wanted = denoised(affinity_map(pipe.clip, TALL, (rows, cols)))
    assert np.array_equal(encoding.features.extras["affinity"], wanted)
    stages = [{"cliptrase": {"eps": 1.0}}]
    found = pipe.segment(encoding, ["cat", "dog"], stages=stages)
    assert found.evidence is not None and found.evidence.vote is not None
    segments = cliptrase.segments(wanted, cliptrase.clusters(wanted, eps=1.0), (rows, cols), *TALL.shape[:2])
    assert np.array_equal(found.evidence.vote, segments)
    assert not Pipeline(RECIPE, pipe.clip).encode(TALL).features.extras


def test_method_cliper_and_its_stage_are_the_papers_class_maps() -> None:
    """Posteriors are shares of the maps; other words need no image network, and other methods cannot be asked so."""
    clip = tiny.clip()
    pipe = Pipeline(RECIPE.replace(method="cliper", stages=["cliper"], scales=(0.8, 1.0)), clip)
    encoding = pipe.encode(WIDE)
    layers, attention = (encoding.features.extras[name] for name in ("layers", "attention"))
    with ImageCalls(pipe) as calls:
        found, other = (pipe.segment(encoding, names).evidence for names in (["cat", "dog"], ["tree"]))
    assert found is not None and other is not None and calls.count == 0
    words = pipe.vocabulary(["cat", "dog"])
    maps = cliper_maps(layers, attention, words.vectors[words.owner >= 0], words.vectors[words.owner < 0])
    np.testing.assert_allclose(np.exp(found.rows[words.owner >= 0]), maps, atol=1e-5)
    with pytest.raises(BadUsage, match="needs layers and attention.*naclip brings none; take cliper"):
        Pipeline(RECIPE.replace(method="naclip"), clip).segment(WIDE, ["cat"], stages=["cliper"])


def test_refining_area_and_closing_are_asked_of_an_encoding(pipe: Pipeline) -> None:
    encoding = pipe.encode(WIDE)
    plain = pipe.segment(encoding, ["cat", "dog", "tree"])
    for change in ({"refine": "pamr"}, {"area": 0.45}, {"closing": 9}):
        changed = pipe.segment(encoding, ["cat", "dog", "tree"], **change)
        assert not np.array_equal(changed.labels, plain.labels), change
        assert changed.evidence is not None
        assert all(getattr(changed.evidence, key) == value for key, value in change.items())
    seen = pipe.segment(encoding, ["cat", "dog"], refine="pamr").evidence
    assert seen is not None and seen.picture is not None and np.array_equal(seen.picture, WIDE)
    shares = [share for share in plain.shares.values() if share]
    nobody = pipe.segment(encoding, ["cat", "dog", "tree"], area=1.0)
    assert len(shares) > 1 and not any(nobody.shares.values())


def test_order_of_names_and_company_change_no_label(pipe: Pipeline) -> None:
    encoding = pipe.encode(WIDE)
    one, other = pipe.segment(encoding, ["cat", "dog", "tree"]), pipe.segment(encoding, ["tree", "cat", "dog"])
    for name in one.names:
        assert np.array_equal(one.masks[name], other.masks[name])
    more = pipe.segment(encoding, [{"cat": ["cat", "kitten"]}, "dog", "tree"])
    assert ((more.labels == 0) >= (one.labels == 0)).all()  # a synonym only adds to its name


def test_two_threads_get_what_one_gets(pipe: Pipeline) -> None:
    wanted = [pipe.segment(picture, ["cat", "dog"]) for picture in (WIDE, TALL)]
    got: dict[int, Segmentation] = {}

    def ask(index: int) -> None:
        got[index] = Pipeline.segment(pipe, (WIDE, TALL)[index % 2], ["cat", "dog"])

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(6):
        np.testing.assert_allclose(got[index].confidence, wanted[index % 2].confidence, atol=1e-5)


def test_pictures_too_small_are_one_sentence(pipe: Pipeline) -> None:
    with pytest.raises(BadInput, match="at least 16 px on each side: got 1x1"):
        pipe.segment(np.zeros((1, 1, 3), np.uint8), ["cat"])
    assert pipe.segment(tiny.picture(16, 17), ["cat", "dog"]).labels.shape == (16, 17)


@pytest.mark.parametrize("protocol", ["fast", "paper"])
@pytest.mark.parametrize("proposer", ["none", "felzenszwalb"])
def test_every_road_gives_labels_of_the_picture(protocol: str, proposer: str) -> None:
    pipe = Pipeline(RECIPE.replace(protocol=protocol, proposer=proposer, method="sclip"), tiny.clip())
    found = pipe.segment(TALL, ["cat", "dog"])
    assert found.labels.shape == TALL.shape[:2] and np.isfinite(found.confidence).all()
    assert (np.bincount(found.labels[found.labels >= 0], minlength=2) == [m.sum() for m in found.masks.values()]).all()
    assert found.regions.area.sum() == (found.labels >= 0).sum()  # every labelled pixel is of one region


def test_anomaly_gives_the_same_noun_with_and_without_normal_pictures(pipe: Pipeline) -> None:
    zero, few = pipe.anomaly(WIDE, "ceramic tile"), pipe.anomaly(WIDE, "ceramic tile", normal=[TALL])
    for made in (zero, few):
        assert isinstance(made, AnomalyMap) and made.values.shape == WIDE.shape[:2] and made.object == "ceramic tile"
    own = pipe.anomaly(pipe.encode(WIDE), "ceramic tile", normal=[pipe.encode(WIDE)])
    assert own.values.mean() < few.values.mean()
    assert len(pipe.anomaly([WIDE, TALL], "tile")) == 2


def test_a_preset_is_that_preset_or_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match="ovseg weights pull"):
        Pipeline.open("base")
    with pytest.raises(MissingWeights) as missing:
        Pipeline.open("base", sam="", proposer="none", model="ViT-B-32@gone.safetensors", proposer_options={})
    assert "brings all that" not in str(missing.value)
    with pytest.raises(UnknownName, match="Did you mean 'tiny'"):
        Pipeline.open("tinny")
    with pytest.raises(MissingDevice):
        Pipeline.open("tiny", device="cuda:9")


def test_a_guided_method_runs_end_to_end_on_the_guides_grid() -> None:
    clip, fine = tiny.clip(), guide(vit(patch_size=4, img_size=24))
    pipe = Pipeline(RECIPE.replace(method="proxyclip", guide="dino-b8"), clip, guide=fine)
    encoding = pipe.encode(WIDE)
    assert encoding.features.grid == (12, 20) and not encoding.features.extras  # the method has it; the stages see CLIP
    found = pipe.segment(encoding, ["cat", "dog"])
    assert found.labels.shape == (48, 80) and np.isfinite(found.confidence).all()
    with pytest.raises(BadUsage, match="give a guide"):
        Pipeline(pipe.recipe, clip).encode(WIDE)


def test_a_guide_that_the_method_does_not_take_reaches_the_stages() -> None:
    clip, fine = tiny.clip(), guide(vit(patch_size=4, img_size=24))
    recipe = RECIPE.replace(method="naclip", stages=[{"lposs": {"neighbours": 5}}])
    guided = Pipeline(recipe.replace(guide="dino-b16-v"), clip, guide=fine)
    alone = Pipeline(recipe, clip)
    encoding = guided.encode(WIDE)
    assert encoding.features.extras["guide"].shape == (48, 12, 20) and not alone.encode(WIDE).features.extras
    ours, theirs = guided.segment(encoding, ["cat", "dog"]), alone.segment(WIDE, ["cat", "dog"])
    assert not np.array_equal(ours.confidence, theirs.confidence)
    with pytest.raises(BadUsage, match="belong to the image side"):
        guided.segment(encoding, ["cat", "dog"], guide="self")


def test_the_bundled_model_guides_itself_and_a_guide_that_is_not_here_names_its_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pipe = Pipeline.open("tiny", method="proxyclip", guide="self", cache=None)
    found = pipe.segment(WIDE, ["cat", "dog"])
    assert found.labels.shape == (48, 80) and pipe.guide is not None and pipe.guide.network is pipe.clip
    monkeypatch.setenv("OVSEG_WEIGHTS", str(tmp_path))
    with pytest.raises(MissingWeights, match="ovseg weights pull dino-vit-b16"):
        Pipeline.open("tiny", method="proxyclip", guide="dino-b16", cache=None)


def test_a_sam_looks_at_a_picture_once_and_its_embedding_stays_in_the_encoding() -> None:
    sam, seen = narrow_sam(), []
    sam.image_encoder.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    options = {"points_per_side": 4, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "box_nms_thresh": 1.0}
    recipe = RECIPE.replace(sam="sam-vit-b", proposer="sam", proposer_options=options)
    pipe = Pipeline(recipe, tiny.clip(), sam)
    encoding = pipe.encode(WIDE)
    assert len(seen) == 1 and len(encoding.regions) > 0
    assert (encoding.embedding.height, encoding.embedding.width) == (48, 80)
    alone = proposals.propose("sam", WIDE, encoding.features, model=sam, **options)
    assert alone.rles == encoding.regions.rles
    assert Pipeline(RECIPE, tiny.clip()).encode(WIDE).embedding is None


WHOLE: dict[str, dict[str, Any]] = {
    "itaclip-views": {},
    "cass": {"guide": "self"},
    "corrclip": {"guide": "self", "proposer": "felzenszwalb", "proposer_options": {"scale": 60.0}},
    "trident": {"guide": "self", "sam": "sam-vit-b"},
}


def whole(method: str, **change: Any) -> Pipeline:
    """A pipeline of a method of whole pictures: the tower guides itself, a narrow SAM attends."""
    clip, recipe = tiny.clip(), RECIPE.replace(method=method, **WHOLE[method], **change)
    guide = load_guide("self", clip=clip) if recipe.guide else None
    return Pipeline(recipe, clip, narrow_sam() if recipe.sam else None, guide=guide)


@pytest.mark.parametrize("method", PICTURES)
def test_a_method_of_whole_pictures_runs_end_to_end_and_any_words_are_asked_of_it(method: str) -> None:
    pipe = whole(method)
    steps: list[str] = []
    together = pipe.encode([WIDE, TALL], progress=lambda stage, done, of: steps.append(stage))
    assert {"encode", "propose"} <= set(steps)
    for picture, wanted in zip([WIDE, TALL], together, strict=True):
        alone = pipe.encode(picture)
        assert np.array_equal(alone.features.vectors, wanted.features.vectors)
        assert np.array_equal(alone.region_vectors, wanted.region_vectors) and not alone.features.extras
    with ImageCalls(pipe) as calls:
        for names in (["cat", "dog"], ["tree"]):
            found = pipe.segment(together[1], names)
            assert found.labels.shape == TALL.shape[:2] and np.isfinite(found.confidence).all()
        assert calls.count == 0
    with pytest.raises(BadUsage, match="encode the picture again"):
        Pipeline(RECIPE, pipe.clip).segment(together[0], ["cat"])
    given = {"guide": pipe.guide, "sam": load_guide("sam", sam=pipe.sam) if pipe.sam else None}
    if method == "corrclip":  # of whom cells may look at: the regions of a plain first look, largest on top
        regions = proposals.propose(
            "felzenszwalb", WIDE, Pipeline(RECIPE, pipe.clip).encode(WIDE).features, **pipe.recipe.proposer_options
        )
        assert len(regions) > 1 and together[0].regions.rles == regions.rles
        given["parts"] = labels.own(regions, np.ones(len(regions), np.float32), "largest")
    wanted_features = pictures.encode(pipe.clip, WIDE, pipe.recipe.reading, **given)
    assert np.array_equal(together[0].features.vectors, wanted_features.vectors)


def test_options_and_scales_of_a_method_of_whole_pictures_reach_it() -> None:
    usual = whole("itaclip-views").encode(WIDE).features.vectors
    for change in ({"method_options": {"keep": 0.2}}, {"scales": (1.0, 1.5)}):
        changed = whole("itaclip-views", **change).encode(WIDE).features.vectors
        assert changed.shape != usual.shape or np.abs(changed - usual).max() > 1e-3


def test_the_bundled_model_is_read_by_whole_pictures() -> None:
    found = Pipeline.open("tiny", method="itaclip-views", scales=(0.6,), cache=None).segment(WIDE, ["cat", "dog"])
    assert found.labels.shape == (48, 80)
    with pytest.raises(BadUsage, match="guide sam is an open SAM"):
        recipe = RECIPE.replace(method="trident", **WHOLE["trident"])
        clip = tiny.clip()
        Pipeline(recipe, clip, guide=load_guide("self", clip=clip)).encode(WIDE)


ALL_PARTS = {"min_part_px": 4, "min_iou": -9}  # a random SAM is sure of nothing


def from_map(**changes: Any) -> Pipeline:
    changes = {"proposer_options": ALL_PARTS, **changes}
    return Pipeline(RECIPE.replace(proposer="from-map", sam="sam-vit-b", **changes), tiny.clip(), narrow_sam())


def test_regions_from_the_map_are_made_when_names_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, plain = from_map(), Pipeline(RECIPE, tiny.clip())
    encoding = pipe.encode(WIDE)
    assert len(encoding.regions) == 0 and encoding.region_vectors.shape == (0, pipe.clip.dim)
    monkeypatch.setattr(pipe.sam.image_encoder, "forward", None)  # a picture is looked at once
    answers = {}
    for names in (["cat", "dog"], ["car"], ["cat", "dog", "balloon"]):
        found = pipe.segment(encoding, names)
        answers[found.names] = found
        assert found.evidence is not None and found.evidence.parts is not None and (found.evidence.parts >= 0).any()
        assert found.labels.tobytes() == pipe.segment(encoding, names).labels.tobytes()
        coarse = plain.segment(WIDE, names)
        outside = found.evidence.parts < 0
        assert (found.labels == coarse.labels)[outside].all()
        again = found.with_threshold(0.4)
        assert again.labels.tobytes() == pipe.segment(encoding, names, threshold=0.4).labels.tobytes()
    assert (answers["cat", "dog"].evidence.parts != answers["car",].evidence.parts).any()


def test_regions_from_the_map_take_part_as_all_regions_do() -> None:
    for changes in ({"encoder": "crop"}, {"overlap": "largest", "refine": "pamr"}, {"stages": ["tlp"]}):
        pipe = from_map(**changes)
        found = pipe.segment(TALL, ["cat", "dog"])
        assert found.labels.shape == TALL.shape[:2]
        assert found.evidence is not None and len(found.evidence.part_rows) > 0
    nobody = from_map(proposer_options={**ALL_PARTS, "min_iou": 99}).segment(TALL, ["cat", "dog"])
    assert (nobody.labels == Pipeline(RECIPE, tiny.clip()).segment(TALL, ["cat", "dog"]).labels).all()


def test_regions_from_the_map_are_read_off_the_scores_that_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stages and refining come first, and so do the negatives; a threshold has no say."""
    seen = []
    pipe = from_map(stages=["tlp"], refine="pamr")
    propose = proposals.propose

    def spy(*given: Any, **more: Any) -> Any:
        seen.extend([more["coarse"]] if more["coarse"] is not None else [])
        return propose(*given, **more)

    monkeypatch.setattr(proposals, "propose", spy)
    encoding = pipe.encode(WIDE)
    found, strict = (pipe.segment(encoding, ["cat", "dog"], threshold=cut) for cut in (0.0, 0.9))
    assert found.evidence is not None and strict.evidence is not None
    assert seen[0].refine == "pamr" and (seen[0].rows == found.evidence.rows).all() and (seen[0].owner < 0).any()
    assert (found.evidence.parts == strict.evidence.parts).all()


def test_masks_on_disk_are_found_by_the_pictures_path(tmp_path: Path) -> None:
    masks = np.zeros((2, 48, 80), bool)
    masks[0, :20], masks[1, 30:, :40] = True, True
    np.savez(tmp_path / "wide.npz", masks=masks)
    Image.fromarray(WIDE).save(tmp_path / "wide.bmp")
    for method in ("sclip", "itaclip-views"):
        recipe = RECIPE.replace(proposer="files", proposer_options={"folder": str(tmp_path)}, method=method)
        pipe = Pipeline(recipe, tiny.clip())
        for path in (tmp_path / "wide.bmp", str(tmp_path / "wide.bmp")):
            encoding = pipe.encode(path)
            assert (encoding.regions.masks == masks).all() and len(encoding.region_vectors) == 2
        (found,) = pipe.segment([tmp_path / "wide.bmp"], ["cat", "dog"])
        assert found.evidence is not None and (found.evidence.parts[:20] == 0).all()
        with pytest.raises(BadInput, match="came without one"):
            pipe.encode(WIDE)
