from dataclasses import replace
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch

import tiny
from ovseg import prompts
from ovseg.clip import text
from ovseg.clip.load import Clip, wrap
from ovseg.clip.text import encode_phrases, encode_text, vocabulary
from ovseg.prompts import read_words

TEXTS = ["cat", "a photo of a small brown dog on the grass", "two cats", "a photo of a cat."]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return tiny.clip()


class Calls:
    """Counts how often a network's text side runs, and on how many positions; leaves no trace."""

    def __init__(self, clip: Clip) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.hook = clip.model.transformer.register_forward_pre_hook(lambda _, x: self.shapes.append(tuple(x[0].shape)))

    def __enter__(self) -> "Calls":
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


def full(clip: Clip, texts: list[str]) -> np.ndarray:
    tokens = clip.tokenizer(texts, context_length=clip.context_length)
    return clip.model.encode_text(tokens, normalize=True).numpy()


def test_cut_texts_equal_the_networks_own_full_length(clip: Clip) -> None:
    with Calls(clip) as calls:
        got = encode_text(clip, TEXTS)
    assert max(shape[1] for shape in calls.shapes) < clip.context_length
    np.testing.assert_allclose(got, full(clip, TEXTS), atol=3e-6)


def test_order_and_company_of_texts_change_nothing(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = encode_text(clip, TEXTS)
    np.testing.assert_allclose(encode_text(clip, TEXTS[::-1])[::-1], wanted, atol=3e-6)
    monkeypatch.setattr(text, "BATCH", 1)
    np.testing.assert_allclose(encode_text(clip, TEXTS), wanted, atol=3e-6)


def test_a_tower_that_sees_later_positions_is_not_cut() -> None:
    torch.manual_seed(0)
    open_tower = open_clip.model.CustomTextCLIP(
        32,
        {"layers": 1, "width": 64, "head_width": 16, "patch_size": 8, "image_size": 48},
        {"context_length": 12, "vocab_size": 49408, "width": 48, "heads": 3, "layers": 2, "no_causal_mask": True},
    )
    open_tower.eval().requires_grad_(False)
    both = wrap(open_tower, open_clip.tokenizer.SimpleTokenizer(context_length=12))
    assert not text.can_cut(both.model)
    np.testing.assert_allclose(encode_text(both, TEXTS[:1] * 2), full(both, TEXTS[:1] * 2), atol=1e-6)
    assert text.can_cut(tiny.model())


def test_second_run_makes_no_call_and_one_new_name_one(clip: Clip, tmp_path: Path) -> None:
    words = read_words(["cat", {"dog": ["dog", "puppy"]}])
    first = vocabulary(clip, words, templates="few", negatives="word", cache=tmp_path)
    with Calls(clip) as calls:
        again = vocabulary(clip, words, templates="few", negatives="word", cache=tmp_path)
        assert calls.shapes == []
        vocabulary(clip, read_words(["cat", "horse"]), templates="few", negatives="word", cache=tmp_path)
    assert sum(shape[0] for shape in calls.shapes) == len(prompts.templates("few"))
    assert np.array_equal(first.vectors, again.vectors)


def test_cache_is_of_one_text_tower(clip: Clip, tmp_path: Path) -> None:
    other = tiny.clip(seed=1)
    mine, theirs = (encode_text(one, TEXTS, cache=tmp_path) for one in (clip, other))
    assert len(list(tmp_path.iterdir())) == 2
    np.testing.assert_allclose(encode_text(other, TEXTS, cache=tmp_path), theirs)
    assert np.abs(mine - theirs).max() > 0.01
    quick = tiny.clip(quick_gelu=False)
    assert quick.text_fingerprint != clip.text_fingerprint  # same parameters, another activation


def test_broken_or_read_only_cache_never_stops_the_work(clip: Clip, tmp_path: Path) -> None:
    (tmp_path / f"{clip.text_fingerprint[:32]}.sqlite").write_text("no database at all, but long enough to look at it")
    np.testing.assert_allclose(encode_text(clip, TEXTS, cache=tmp_path), full(clip, TEXTS), atol=3e-6)
    (tmp_path / "file").write_text("")
    np.testing.assert_allclose(encode_text(clip, TEXTS, cache=tmp_path / "file"), full(clip, TEXTS), atol=3e-6)


def test_row_is_the_unit_mean_over_templates(clip: Clip) -> None:
    rows, split = encode_phrases(clip, ["cat", "dog"], ("a {}", "the {} here"))
    both = full(clip, ["a dog", "the dog here"]).mean(axis=0)
    np.testing.assert_allclose(rows[1], both / np.linalg.norm(both), atol=1e-5)
    assert split == {}


def test_overlong_name_is_read_in_windows_and_said(clip: Clip) -> None:
    name = "a very long name of a very small thing that lies on the second shelf of the third rack in hall number four"
    made = vocabulary(clip, read_words([name, "cat"]), templates="bare", negatives="none")
    pieces = text._windows(clip, name)
    assert " ".join(pieces) == name and len(pieces) > 1
    assert any(f"{len(pieces)} windows were averaged" in note for note in made.notes)
    mean = full(clip, pieces).mean(axis=0)
    np.testing.assert_allclose(made.vectors[0], mean / np.linalg.norm(mean), atol=1e-5)
    other = vocabulary(clip, read_words([name[:-4] + "five", "cat"]), templates="bare", negatives="none")
    assert np.abs(other.vectors[0] - made.vectors[0]).max() > 1e-4  # the very last word still counts


def test_word_without_spaces_is_cut_inside(clip: Clip) -> None:
    assert "".join(text._windows(clip, "x1" * 40)) == "x1" * 40


def test_synonyms_are_rows_of_one_name_and_negatives_of_none(clip: Clip) -> None:
    made = vocabulary(clip, read_words(["cat", {"dog": ["dog", "puppy"]}]), templates="bare", negatives="word")
    assert made.owner.tolist() == [0, 1, 1, -1]
    assert made.phrases == ("cat", "dog", "puppy", "background")
    np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=1), 1, atol=1e-5)


def test_adding_a_name_leaves_the_other_rows_alone(clip: Clip) -> None:
    few = vocabulary(clip, read_words(["cat", "dog"]), templates="few", negatives="none")
    more = vocabulary(clip, read_words(["cat", "horse", "dog"]), templates="few", negatives="none")
    np.testing.assert_allclose(more.vectors[[0, 2]], few.vectors, atol=3e-6)


def test_negative_that_means_an_asked_name_steps_back(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    made = vocabulary(clip, read_words(["Background", "cat"]), templates="bare", negatives="word")
    assert made.phrases == ("Background", "cat")
    monkeypatch.setattr(text, "TOO_CLOSE", -2.0)
    assert len(vocabulary(clip, read_words(["cat", "dog"]), templates="bare", negatives="word").phrases) == 2


def test_one_name_alone_is_asked_against_the_scene(clip: Clip) -> None:
    made = vocabulary(clip, read_words("cat"), templates="bare", negatives="none")
    assert (made.owner == -1).sum() > 0
    assert "a softmax over one name is always 1" in made.notes[0]


def test_name_that_a_small_model_was_never_taught_is_said(clip: Clip) -> None:
    small = Clip(
        "small", clip.model, clip.tokenizer, clip.mean, clip.std, clip.device, frozenset({"cat", "background"})
    )
    made = vocabulary(small, read_words(["Cat", "oscilloscope"]), templates="bare", negatives="word")
    assert made.notes == ("the model small was never taught 'oscilloscope': its answer is a guess",)


def test_templates_have_one_place_each_and_no_duplicates() -> None:
    for name in prompts.TEMPLATES:
        sentences = prompts.templates(name)
        assert len(set(sentences)) == len(sentences) > 0
        assert all(sentence.count("{}") == 1 for sentence in sentences), name
    assert len(prompts.templates("openai80")) == 80


@pytest.mark.parametrize(("padding", "end"), [(0, 2), (1, 2), (2, 2)])
def test_tokenizer_with_any_padding_tells_what_fits(padding: int, end: int) -> None:
    """A tokenizer that only makes rows: words are numbers from 10, the end is kept when a text is cut."""

    def rows(texts: list[str], context_length: int) -> torch.Tensor:
        out = torch.full((len(texts), context_length), padding)
        for row, sentence in zip(out, texts, strict=True):
            words = [10 + len(word) for word in sentence.split()][: context_length - 2]
            row[: len(words) + 2] = torch.tensor([3, *words, end])
        return out

    clip = replace(tiny.clip(), tokenizer=rows)
    assert clip.context_length == 16
    assert text._fits(clip, " ".join(["w"] * 13)) and not text._fits(clip, " ".join(["w"] * 15))
    windows = text._windows(clip, " ".join(["word"] * 30))
    assert len(windows) > 1 and " ".join(windows) == " ".join(["word"] * 30)


def test_phrases_in_parts_are_the_same_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    clip = tiny.clip()
    phrases = [f"w{k}" for k in range(7)] + ["cat " * 20]
    whole, split = text.encode_phrases(clip, phrases, prompts.templates("few"))
    monkeypatch.setattr(text, "TOGETHER", 15)  # three phrases of five sentences
    seen: list[tuple[int, int]] = []
    parts, again = text.encode_phrases(
        clip, phrases, prompts.templates("few"), progress=lambda done, of: seen.append((done, of))
    )
    np.testing.assert_allclose(whole, parts, atol=2e-6)
    assert again == split == {phrases[-1]: split[phrases[-1]]}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and seen[-1][0] == seen[-1][1]
