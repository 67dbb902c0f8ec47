"""The report on regions: its scenes, its sums against slow counts, its way through pipelines and encoders."""

import importlib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from ovseg.encoders import Described
from ovseg.types import Regions, Segmentation

TINY = Path(__file__).resolve().parents[2] / "weights" / "tiny"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TINY))
        return importlib.import_module("report_regions")


@pytest.fixture(scope="module")
def scenes(report: ModuleType) -> list[Any]:
    return list(report.drawn(8, 3, "confirmation"))


@pytest.fixture(scope="module")
def pipes(report: ModuleType) -> dict[str, Any]:
    return report.pipelines()


def answer(report: ModuleType, scene: Any, things: np.ndarray, of: list[int]) -> Segmentation:
    """An answer of these segments, among the scene's names and its absent ones."""
    names = (*scene.names, *scene.absent)
    height, width = things.shape
    kept = [number for number in range(len(of)) if (things == number).any()]
    recipe = importlib.import_module("ovseg.recipe").preset("tiny").replace(stuff="none")
    return Segmentation(
        names,
        np.append(np.array(of), -1)[things].astype(np.int16),
        np.ones((height, width), np.float32),
        Regions.from_masks(np.array([things == number for number in kept], bool).reshape(-1, height, width)),
        np.array(of, int)[kept],
        np.ones((len(kept), len(names)), np.float32),
        recipe,
    )


def disturbed(scene: Any, seed: int) -> tuple[np.ndarray, list[int]]:
    """The scene's things with a border gone, some renamed to absent names, one cut in two."""
    rng = np.random.default_rng(seed)
    things, of = scene.things.copy(), list(scene.of)
    things[:, : int(rng.integers(40, 120))] = -1
    for thing in rng.choice(len(of), 1 + len(of) // 4, replace=False):
        of[thing] = len(scene.names) + int(rng.integers(20))
    half = (things == 0) & (np.arange(256)[:, None] > 128)
    things[half] = len(of)
    return things, [*of, of[0]]


def test_scenes_hold_one_to_six_things_that_can_be_seen(report: ModuleType, scenes: list[Any]) -> None:
    for scene in scenes:
        seen = set(np.unique(scene.things)) - {-1}
        assert seen == set(range(len(scene.of))) and 1 <= len(scene.of) <= report.MOST
        assert set(scene.of) == set(range(len(scene.names)))
        assert len({*scene.names, *scene.absent}) == len(scene.names) + report.ABSENT
        assert (scene.labels[scene.things < 0] == -1).all()
        assert all((scene.labels[scene.things == thing] == name).all() for thing, name in enumerate(scene.of))
    assert any(len(scene.names) < len(scene.of) for scene in scenes) and max(len(scene.of) for scene in scenes) > 4
    again = list(report.drawn(8, 3, "confirmation"))
    assert all((one.picture == other.picture).all() for one, other in zip(scenes, again, strict=True))


def test_scenes_of_a_half_ask_for_names_of_that_half_alone(report: ModuleType, scenes: list[Any]) -> None:
    others = list(report.drawn(8, 3, "development"))
    ours, theirs = ({name for s in some for name in (*s.names, *s.absent)} for some in (scenes, others))
    assert not ours & theirs


def test_a_small_world_has_so_many_names(report: ModuleType) -> None:
    small = list(report.drawn(6, 3, "confirmation", 9))
    known = {name for s in small for name in (*s.names, *s.absent)}
    assert len(known) <= 9 and all(len(s.names) + len(s.absent) <= 9 and s.absent for s in small)


def test_figures_are_what_a_slow_count_gives(report: ModuleType, scenes: list[Any]) -> None:
    words = sorted({name for s in scenes for name in (*s.names, *s.absent)})
    place = {word: number for number, word in enumerate(words)}
    counts = report.Counts.empty(len(scenes), len(words))
    iou: dict[str, list[float]] = {word: [] for word in words}
    spare, missed = dict.fromkeys(words, 0), dict.fromkeys(words, 0)
    pixels = {word: [0, 0] for word in words}
    absent_pixels = absent_names = lost = 0
    for row, scene in enumerate(scenes):
        found = answer(report, scene, *disturbed(scene, row))
        counts.add(row, scene, found, place)
        truths = [(scene.names[name], scene.things == thing) for thing, name in enumerate(scene.of)]
        said = [(found.names[k], mask) for k, mask in zip(found.region_labels, found.regions.masks, strict=True)]
        for name in scene.names:
            true = np.any([mask for other, mask in truths if other == name], axis=0)
            got = found.masks[name]
            pixels[name][0] += int((true & got).sum())
            pixels[name][1] += int((true | got).sum())
            lost += not got.any()
        absent_pixels += int((found.labels >= len(scene.names)).sum())
        absent_names += sum(found.masks[name].any() for name in scene.absent)
        for name, mask in truths:
            fits = [(mask & m).sum() / (mask | m).sum() for other, m in said if other == name]
            good = [fit for fit in fits if fit > 0.5]
            iou[name] += good
            missed[name] += not good
        for name, mask in said:
            spare[name] += not any(other == name and (mask & m).sum() / (mask | m).sum() > 0.5 for other, m in truths)
    present = sorted({name for s in scenes for name in s.names})
    cost = {word: len(iou[word]) + (spare[word] + missed[word]) / 2 for word in present}
    wanted = {
        "PQ": np.mean([sum(iou[word]) / cost[word] for word in present]),
        "SQ": np.mean([np.mean(iou[word]) if iou[word] else 0 for word in present]),
        "RQ": np.mean([len(iou[word]) / cost[word] for word in present]),
        "mIoU": np.mean([pixels[word][0] / pixels[word][1] for word in present]),
        "absent px": absent_pixels / (len(scenes) * 256 * 256),
        "absent names": absent_names / (len(scenes) * 20),
        "lost": lost / sum(len(s.names) for s in scenes),
        "alone": 0,
    }
    got = counts.figures(np.ones((1, len(scenes)), np.int64))
    assert {name: value[0] for name, value in got.items()} == pytest.approx({n: 100 * v for n, v in wanted.items()})
    assert 0 < got["PQ"][0] < got["RQ"][0] < 100 and got["absent names"][0] > 0 and got["lost"][0] > 0


def test_the_truth_itself_is_perfect_and_nothing_is_lost(report: ModuleType, scenes: list[Any]) -> None:
    place = {name: number for number, name in enumerate(sorted({n for s in scenes for n in (*s.names, *s.absent)}))}
    counts = report.Counts.empty(len(scenes), len(place))
    for row, scene in enumerate(scenes):
        counts.add(row, scene, answer(report, scene, scene.things, list(scene.of)), place)
    numbers = counts.figures(report.resamples(len(scenes), 0))
    for name in ("PQ", "SQ", "RQ", "mIoU"):
        np.testing.assert_allclose(numbers[name], 100)
    for name in ("absent px", "absent names", "lost"):
        assert (numbers[name] == 0).all()


def test_a_segment_on_the_ground_is_a_mistake(report: ModuleType, scenes: list[Any]) -> None:
    """Void would excuse it."""
    scene = scenes[0]
    things = np.where(scene.things < 0, len(scene.of), scene.things)
    counts = report.Counts.empty(1, len(scene.names))
    answered = answer(report, scene, things, [*scene.of, 0])
    counts.add(0, scene, answered, {name: n for n, name in enumerate(answered.names[: len(scene.names)])})
    assert counts.spare.sum() == 1 and counts.missed.sum() == 0


def test_each_way_to_find_regions_gives_what_its_own_pipeline_gives(
    report: ModuleType, scenes: list[Any], pipes: dict[str, Any]
) -> None:
    scene = scenes[0]
    made = report.readings(pipes, scene)
    assert list(made) == list(report.PROPOSERS)
    for name in ("none (dense)", "merge tree", "sam-coarse", report.PRESET):
        found, wanted = pipes[name].segment(made[name], scene.names), pipes[name].segment(scene.picture, scene.names)
        assert (found.labels == wanted.labels).all() and made[name].regions.rles == pipes[name].encode(
            scene.picture
        ).regions.rles
    assert len(made[report.LEAVES].regions) > 1
    assert (made[report.LEAVES].regions.masks.sum(axis=0) == 1).all()


def test_every_choice_is_asked_with_and_without_absent_names(
    report: ModuleType, scenes: list[Any], pipes: dict[str, Any]
) -> None:
    some = {name: pipes[name] for name in ("none (dense)", report.PRESET)}
    got = report.end_to_end(scenes[:2], some)
    assert set(got) == {(name, gate, crowd) for name in some for gate in report.GATES for crowd in (False, True)}
    for (name, gate, crowd), counts in got.items():
        assert (counts.true.sum(axis=1) > 0).all()
        if not crowd:
            assert not counts.absent.any() and not counts.false.any()
        asked = scenes[1].names + (scenes[1].absent if crowd else [])
        found = some[name].segment(scenes[1].picture, asked, **report.GATES[gate])
        alone = [some[name].segment(scenes[1].picture, [word], **report.GATES[gate]) for word in scenes[1].absent[:2]]
        assert counts.alone[1] == (sum((one.labels >= 0).any() for one in alone) if crowd else 0)
        assert counts.predicted[1].sum() == (found.labels >= 0).sum() - (found.labels >= len(scenes[1].names)).sum()


def test_an_encoder_that_knows_the_names_is_right_everywhere(
    report: ModuleType, scenes: list[Any], pipes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = pipes["none (dense)"]
    words = {scene.picture.tobytes(): scene for scene in scenes}

    def told(pipe: Any, encoding: Any, regions: Regions) -> Described:
        scene = words[encoding.image.tobytes()]
        rows = pipe.vocabulary(scene.names, negatives="none")
        return Described(np.stack([rows.vectors[np.flatnonzero(rows.owner == name)[0]] for name in scene.of]))

    monkeypatch.setattr(report, "described", told)
    found = report.naming(scenes, pipe, timed=0)
    assert (found.right == found.of).all() and (found.crowded == found.things).all()
    assert found.things.tolist() == [len(scene.of) for scene in scenes]
    assert [bool(n) for n in found.of] == [len(scene.names) > 1 for scene in scenes]

    def wrong(pipe: Any, encoding: Any, regions: Regions) -> Described:
        scene = words[encoding.image.tobytes()]
        row = pipe.vocabulary([scene.absent[0]], negatives="none").vectors[:1]
        return Described(np.repeat(row, len(regions), axis=0))

    monkeypatch.setattr(report, "described", wrong)
    assert report.naming(scenes, pipe, timed=0).crowded.sum() == 0


def test_roc_is_what_counting_pairs_gives(report: ModuleType) -> None:
    rng = np.random.default_rng(0)
    there = rng.random(200) < 0.3
    tied = np.where(np.arange(200) < 100, np.round(rng.random(200), 1), rng.random(200))
    scores, passed = tied + 0.4 * there, rng.random(200) < 0.5
    found = report.Presences(scores, -scores, passed, there, np.repeat(np.arange(20), 10))
    times = report.resamples(20, 1)[:30]
    got = found.figures(times)
    for row, counted in enumerate(times):
        often = counted[found.picture]
        yes, no = np.repeat(scores[there], often[there]), np.repeat(scores[~there], often[~there])
        pairs = (yes[:, None] > no).mean() + (yes[:, None] == no).mean() / 2
        assert got["AUROC, odds"][row] == pytest.approx(100 * pairs)
        assert got["AUROC, share"][row] == pytest.approx(100 - 100 * pairs)
        cuts = [cut for cut in np.unique(scores) if (no >= cut).mean() <= 0.05]
        reached = max([(yes >= cut).mean() for cut in cuts], default=0)
        assert got["TPR at FPR 5 %"][row] == pytest.approx(100 * reached)
        assert got["present pass"][row] == pytest.approx(100 * np.repeat(passed[there], often[there]).mean())
        assert got["absent pass"][row] == pytest.approx(100 * np.repeat(passed[~there], often[~there]).mean())


def test_presence_is_what_the_pipeline_says_about_each_name(
    report: ModuleType, scenes: list[Any], pipes: dict[str, Any]
) -> None:
    pipe = pipes["none (dense)"]
    found = report.presences(iter(scenes[:2]), pipe)
    start = 0
    for number, scene in enumerate(scenes[:2]):
        said = pipe.segment(scene.picture, scene.names + scene.absent, absent="presence").presence
        part = slice(start, start + len(said))
        assert found.share[part].tolist() == pytest.approx(list(said.values()))
        assert found.there[part].tolist() == [name in scene.names for name in said]
        assert (found.picture[part] == number).all()
        start += len(said)
    assert start == len(found.odds) and 0 < found.passed.sum() < start


def test_calibration_is_counted_on_pictures_that_it_never_saw(
    report: ModuleType, pipes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, small = pipes["none (dense)"], list(report.drawn(8, 4, "development", 9))
    fitted: list[Any] = []
    real = type(pipe).calibrate

    def watched(self: Any, pictures: list[Any], names: Any, labels: Any) -> Any:
        fitted.extend(pictures)
        assert all(truth.max() < len(names) and (truth == -1).any() for truth in labels)
        return real(self, pictures, names, labels)

    monkeypatch.setattr(type(pipe), "calibrate", watched)
    got = report.calibrated(small, pipe)
    assert [one.tobytes() for one in fitted] == [scene.picture.tobytes() for scene in small[:4]]
    names = sorted({name for s in small for name in (*s.names, *s.absent)})
    sure, right, above, there = [], [], [], 0
    for scene in small[4:]:
        truth = np.array([names.index(name) for name in scene.names] + [-1])[scene.labels]
        found = pipe.segment(scene.picture, names, threshold=0.0)
        won = found.labels >= 0
        sure += found.confidence[won].tolist()
        right += (found.labels == truth)[won].tolist()
        there += int((truth >= 0).sum())
    above = np.array(sure) >= pipe.recipe.threshold
    parts = np.array_split(np.argsort(sure, kind="stable"), 15)
    gaps = [len(part) * abs(np.mean(np.array(sure)[part]) - np.mean(np.array(right)[part])) for part in parts]
    assert got["before"]["ECE"] == pytest.approx(100 * sum(gaps) / len(sure), abs=0.05)
    assert got["before"]["precision"] == pytest.approx(100 * np.array(right)[above].mean(), abs=0.05)
    assert got["before"]["recall"] == pytest.approx(100 * np.array(right)[above].sum() / there, abs=0.05)
    assert got["after"]["scale"] != got["before"]["scale"]


def test_sheets_are_written_six_pictures_each(
    report: ModuleType, scenes: list[Any], pipes: dict[str, Any], tmp_path: Path
) -> None:
    report.look(scenes[:7], pipes["none (dense)"], tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers_0.png", "answers_1.png"]


def test_tables_have_a_cell_for_every_column(
    report: ModuleType, scenes: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    place = {name: number for number, name in enumerate(sorted({n for s in scenes for n in (*s.names, *s.absent)}))}
    counts = report.Counts.empty(len(scenes), len(place))
    for row, scene in enumerate(scenes):
        counts.add(row, scene, answer(report, scene, *disturbed(scene, row)), place)
    keys = [(name, gate, crowd) for name in report.PROPOSERS for gate in report.GATES for crowd in (False, True)]
    report.print_end_to_end(dict.fromkeys(keys, counts), report.resamples(len(scenes), 0))
    told = report.Naming(*np.ones((4, len(scenes)), np.int64), 0.5, 10)
    report.print_naming({"pool": told, "crop": replace(told, masks=2)}, {"alpha": "why"}, report.resamples(8, 0))
    out = capsys.readouterr().out
    for block in (part for part in out.split("\n\n") if part.startswith("|")):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len(lines) > 2 and len({line.count("|") for line in lines}) == 1
    assert "0.0 [0.0, 0.0]" in out and "- alpha: why" in out and "| 20 |" in out
