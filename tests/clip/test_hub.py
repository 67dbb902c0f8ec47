import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import pytest
import torch

import tiny
from ovseg.clip import hub, text
from ovseg.clip.load import wrap
from ovseg.errors import MissingExtra, MissingWeights

PADDING = 1  # SigLIP's and XLM-R's


class Words:
    """As transformers answers: words of any length are one number each, padding is 1, an end and no start."""

    def encode(self, words: str, add_special_tokens: bool = True) -> list[int]:
        return [100 + len(word) for word in words.split()] + [2] * add_special_tokens

    def __call__(self, texts: list[str], max_length: int, **options: Any) -> SimpleNamespace:
        rows = [(self.encode(words)[:max_length] + [PADDING] * max_length)[:max_length] for words in texts]
        return SimpleNamespace(input_ids=torch.tensor(rows))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """transformers as far as it is used here, and the folders that it was asked for; nothing is in the cache."""
    names: list[str] = []

    class AutoTokenizer:
        @staticmethod
        def from_pretrained(name: str, **options: Any) -> Words:
            names.append(name)
            return Words()

    monkeypatch.setattr(hub, "find_spec", lambda name: name)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(AutoTokenizer=AutoTokenizer))  # type: ignore[arg-type]
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: None)
    return names


def test_files_beside_the_checkpoint_come_first_then_the_cache(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MissingWeights, match="timm/ViT-B-16-SigLIP, whose tokenizer_config.json is neither beside the"):
        hub.tokenizer("ViT-L-16-SigLIP-256", tmp_path)
    cached = tmp_path / "cache" / "tokenizer_config.json"
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda repository, name: str(cached))
    found = hub.tokenizer("ViT-L-16-SigLIP-256", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    hub.tokenizer("ViT-L-16-SigLIP-256", tmp_path)
    assert asked == [str(cached.parent), str(tmp_path)] and found.name == "timm/ViT-B-16-SigLIP"
    assert found(["a dog"]).shape == (1, 64)  # SigLIP's context
    assert found.inner.clean_fn("A  Dog!") == "a dog"  # as its configuration asks
    assert hub.tokenizer("EVA02-B-16", tmp_path)(["a dog"]).shape == (1, 77) and len(asked) == 2


def test_without_transformers_the_sentence_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(hub, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="ViT-L-14-CLIPA reads words by bert-base-uncased, which needs transformers"):
        hub.tokenizer("ViT-L-14-CLIPA", tmp_path)
    hub.require_text_tower("ViT-L-14-CLIPA")  # its tower is open_clip's own


def test_text_tower_of_transformers_must_be_described_in_the_cache(asked: list[str]) -> None:
    with pytest.raises(MissingWeights, match="by xlm-roberta-base, whose config.json is not in the Hugging Face cache"):
        hub.require_text_tower("xlm-roberta-base-ViT-B-32")


def test_length_of_a_text_is_counted_and_not_read_off_the_padding(asked: list[str], tmp_path: Path) -> None:
    """A long phrase is read in windows, a short one in one, whatever number pads."""
    (tmp_path / "tokenizer_config.json").write_text("{}")
    words = hub.tokenizer("ViT-L-16-SigLIP-256", tmp_path)
    assert words.encode("A tall, old  tree") == [101, 104, 103, 104]
    options = {"no_causal_mask": True, "pool_type": "last", "proj_bias": True}
    small = {"context_length": 16, "vocab_size": 200, "width": 48, "heads": 3, "layers": 2, **options}
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(
        tiny.DIM, {"layers": 1, "width": 64, "patch_size": 8, "image_size": 48}, small
    ).eval()
    clip = wrap(model, words)
    long = " ".join(["word"] * 40)
    rows, split = text.encode_phrases(clip, ["a dog", long])
    assert rows.shape == (2, tiny.DIM) and split == {long: 3}  # 14 words and two marks a window
    with torch.inference_mode():
        wanted = torch.nn.functional.normalize(model.encode_text(words(["a dog"], 16)), dim=-1)
    np.testing.assert_allclose(rows[:1], wanted.numpy(), atol=1e-6)
