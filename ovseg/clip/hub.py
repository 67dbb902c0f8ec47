"""What some networks need beside their weights: tokenizers and text towers of transformers, from files that are here.

Nothing is fetched: files lie beside the checkpoint or in the Hugging Face cache, or a sentence says how to bring them.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

from ovseg.errors import MissingExtra, MissingWeights


@dataclass(frozen=True, eq=False)
class HubTokenizer:
    """open_clip's `HFTokenizer` with `encode`, so that a text's length can be asked.

    Its padding is not always 0 (SigLIP's and XLM-R's is 1), so a row of numbers does not tell where a text ends.
    """

    inner: Any
    name: str

    def __call__(self, texts: str | list[str], context_length: int | None = None) -> Tensor:
        tokens: Tensor = self.inner(texts, context_length=context_length)
        return tokens

    def encode(self, text: str) -> list[int]:
        """The numbers of a text alone, without start and end."""
        return list(self.inner.tokenizer.encode(self.inner.clean_fn(text), add_special_tokens=False))


def tokenizer(architecture: str, beside: Path) -> Any:
    """The tokenizer of an architecture of open_clip's list: open_clip's own, or one of transformers."""
    import open_clip

    text = open_clip.get_model_config(architecture)["text_cfg"]
    repository = text.get("hf_tokenizer_name")
    if not repository:
        return open_clip.get_tokenizer(architecture)
    folder = folder_of(repository, "tokenizer_config.json", architecture, beside)
    inner = open_clip.tokenizer.HFTokenizer(
        str(folder),
        context_length=text.get("context_length", 77),
        tokenizer_mode=text.get("tokenizer_mode"),
        **text.get("tokenizer_kwargs", {}),
    )
    return HubTokenizer(inner, repository)


def require_text_tower(architecture: str) -> None:
    """Nothing where open_clip makes the text tower itself or its description is here; else a sentence."""
    import open_clip

    repository = open_clip.get_model_config(architecture)["text_cfg"].get("hf_model_name")
    if repository:
        folder_of(repository, "config.json", architecture)


def folder_of(repository: str, file: str, architecture: str, beside: Path | None = None) -> Path:
    """The folder that holds a file of a repository: beside the checkpoint, or in the Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache

    if find_spec("transformers") is None:
        raise MissingExtra(
            f"{architecture} reads words by {repository}, which needs transformers: pip install transformers "
            "sentencepiece (or give load() a tokenizer of your own)"
        )
    if beside and (beside / file).is_file():
        return beside
    found = try_to_load_from_cache(repository, file)
    if not isinstance(found, str):
        where = f"neither beside the checkpoint ({beside}) nor" if beside else "not"
        raise MissingWeights(
            f"{architecture} reads words by {repository}, whose {file} is {where} in the Hugging Face cache: run "
            f"`huggingface-cli download {repository}` where there is a network"
        )
    return Path(found).parent


__all__ = ["HubTokenizer", "folder_of", "require_text_tower", "tokenizer"]
