"""Words become unit rows: templates filled, encoded once, kept on disk, exact and as short as the tower allows.

A causal text tower that reads its answer at the end-of-text token cannot see later positions, so a batch is cut behind
its longest text: the same vectors (3e-6) for a sixth of the work. Towers of other kinds get their full length. A
sentence longer than the context is never cut: it is read in windows whose vectors are averaged, and the vocabulary
says so.
"""

import hashlib
import logging
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32
from torch import Tensor

from ovseg import prompts, runtime
from ovseg.clip.load import Clip
from ovseg.presence import Crowd
from ovseg.types import Vocabulary

BATCH = 256
TOGETHER = 20_480  # sentences
WORDING = "few"  # how presence words its crowd, and the names that it holds against it
TOO_CLOSE = 0.9  # cosine of a negative to an asked name from which the negative steps back


def vocabulary(
    clip: Clip,
    words: prompts.Words,
    *,
    templates: str = "openai80",
    negatives: str = "none",
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Vocabulary:
    """One unit row for every phrase, then for every negative: the mean over the templates of unit text vectors.

    Negatives that mean what a name means (same text, or cosine of 0.9 and more) step back. One name without any
    negative takes the "scene" set, since a softmax over one name is always 1; the notes say so.
    """
    notes: list[str] = []
    if len(words.names) == 1 and negatives == "none" and not words.negatives:
        negatives = "scene"
        notes.append("one name alone is asked against the 'scene' negatives: a softmax over one name is always 1")
    phrases = [phrase for group in words.phrases for phrase in group]
    owner = [index for index, group in enumerate(words.phrases) for _ in group]
    asked = {phrase.casefold() for phrase in phrases}
    own = list(dict.fromkeys(text for text in words.negatives if text.casefold() not in asked))
    others = [text for text in prompts.negatives(negatives) if text.casefold() not in asked and text not in own]
    texts = [*phrases, *own, *others]
    rows, split = encode_phrases(clip, texts, prompts.templates(templates), cache=cache, progress=progress)
    for text in texts:
        if text in split:
            notes.append(f"{text[:40]!r} is longer than the text tower reads: {split[text]} windows were averaged")
    if clip.learned is not None:
        new = [text for text in phrases if text.casefold() not in clip.learned]
        if new:
            notes.append(f"the model {clip.name} was never taught {', '.join(map(repr, new))}: its answer is a guess")
    first = len(phrases) + len(own)
    near = (rows[first:] @ rows[: len(phrases)].T).max(axis=1, initial=-1) >= TOO_CLOSE
    keep = np.append(np.ones(first, bool), ~near)
    owners = np.array(owner + [-1] * (len(texts) - len(phrases)), np.int64)[keep]
    kept = tuple(text for text, stays in zip(texts, keep, strict=True) if stays)
    return Vocabulary(words.names, rows[keep], owners, kept, dict(words.thresholds), tuple(notes))


def crowd(clip: Clip, cache: Path | None = None, progress: Callable[[int, int], None] | None = None) -> Crowd:
    """The crowd of everyday nouns and ground words that presence holds names against, in its own `WORDING`: a set of 80
    sentences would cost minutes of a large text tower."""
    words = [*prompts.NOUNS, *prompts.negatives("scene")]
    rows, _ = encode_phrases(clip, words, prompts.templates(WORDING), cache=cache, progress=progress)
    count = len(prompts.NOUNS)
    return Crowd(rows[:count], rows[count:])


def before(
    crowd: Crowd, clip: Clip, vocabulary: Vocabulary, *, templates: str = "openai80", cache: Path | None = None
) -> Vocabulary:
    """The vocabulary with the crowd that its names are held against, their phrases in the crowd's wording.

    `templates` are those that its rows were made with; where they are the crowd's, no text is encoded.
    """
    mine = vocabulary.owner >= 0
    rows = vocabulary.vectors[mine]
    if templates != WORDING:
        phrases = [phrase for phrase, asked in zip(vocabulary.phrases, mine, strict=True) if asked]
        rows, _ = encode_phrases(clip, phrases, prompts.templates(WORDING), cache=cache)
    return replace(vocabulary, crowd=replace(crowd, asked=rows, owner=vocabulary.owner[mine]))


def encode_phrases(
    clip: Clip,
    phrases: Sequence[str],
    templates: Sequence[str] = ("{}",),
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Float32[np.ndarray, "phrases dim"], dict[str, int]]:
    """Unit mean over the templates of each phrase, and the phrases that needed several windows with their number.

    At most `TOGETHER` sentences are in memory: 20,000 phrases of 80 sentences would take gigabytes.
    """
    step = max(1, TOGETHER // max(1, len(templates)))
    rows, split = np.zeros((len(phrases), clip.dim), np.float32), dict[str, int]()
    for first in range(0, len(phrases), step):
        some = phrases[first : first + step]
        told = None if progress is None else partial(_onward, progress, first / len(phrases), len(some) / len(phrases))
        rows[first : first + step], found = _encode_some(clip, some, templates, cache, told)
        split |= found
    return rows, split


def _onward(progress: Callable[[int, int], None], before: float, share: float, done: int, of: int) -> None:
    """Progress of one part as that of the whole, in texts of the size of this part."""
    whole = round(of / share)
    progress(min(whole, round(before * whole) + done), whole)


def _encode_some(
    clip: Clip,
    phrases: Sequence[str],
    templates: Sequence[str],
    cache: Path | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[Float32[np.ndarray, "phrases dim"], dict[str, int]]:
    sentences = list(dict.fromkeys(t.replace("{}", phrase) for phrase in phrases for t in templates))
    parts = {sentence: _windows(clip, sentence) for sentence in sentences}
    pieces = list(dict.fromkeys(piece for group in parts.values() for piece in group))
    vectors = dict(zip(pieces, encode_text(clip, pieces, cache=cache, progress=progress), strict=True))
    rows = []
    for phrase in phrases:
        whole = [_unit(np.mean([vectors[p] for p in parts[t.replace("{}", phrase)]], axis=0)) for t in templates]
        rows.append(_unit(np.mean(whole, axis=0)))
    split = {phrase: max(len(parts[t.replace("{}", phrase)]) for t in templates) for phrase in phrases}
    return np.stack(rows).astype(np.float32), {phrase: count for phrase, count in split.items() if count > 1}


def encode_text(
    clip: Clip,
    texts: Sequence[str],
    *,
    cache: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Float32[np.ndarray, "texts dim"]:
    """Unit vectors of texts that fit the context, from the cache file where they stand there, else encoded and kept."""
    keys = [hashlib.sha256(text.encode()).digest() for text in texts]
    held = _recall(cache, clip.text_fingerprint, keys) if cache else {}
    new = [index for index, key in enumerate(keys) if key not in held]
    if new:
        fresh = _encode(clip, [texts[index] for index in new], progress)
        held |= {keys[index]: row for index, row in zip(new, fresh, strict=True)}
        if cache:
            _keep(cache, clip.text_fingerprint, {keys[index]: held[keys[index]] for index in new})
    return np.stack([held[key] for key in keys]) if texts else np.zeros((0, 0), np.float32)


def can_cut(model: Any) -> bool:
    """Whether the text tower is causal and pooled at end-of-text, so that later positions can be left out exactly."""
    tower = getattr(model, "text", model)
    causal = isinstance(getattr(tower, "attn_mask", None), Tensor)
    pool = getattr(tower, "pool_type", getattr(tower, "text_pool_type", ""))
    return causal and pool in ("argmax", "eos") and getattr(tower, "cls_emb", None) is None


@torch.inference_mode()
def _encode(
    clip: Clip, texts: Sequence[str], progress: Callable[[int, int], None] | None
) -> Float32[np.ndarray, "texts dim"]:
    """Unit vectors, the texts grouped by length so that short ones run short."""
    tokens: Tensor = clip.tokenizer(list(texts), context_length=clip.context_length)
    cut = can_cut(clip.model)
    lengths = _lengths(clip, tokens)
    order = torch.argsort(lengths, stable=True)
    out: Tensor | None = None
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        batch = tokens[chosen].to(clip.device)
        ends = (lengths[chosen] - 1).to(clip.device)
        with runtime.kernels(clip.device):
            vectors = _walk(clip.model, batch, ends) if cut else clip.model.encode_text(batch)
        vectors = F.normalize(vectors.float(), dim=-1).cpu()
        out = torch.empty(len(texts), vectors.shape[1]) if out is None else out
        out[chosen] = vectors
        if progress:
            progress(min(start + BATCH, len(order)), len(order))
    assert out is not None, "called with at least one text"
    return out.numpy()


def _walk(model: Any, tokens: Tensor, ends: Tensor) -> Tensor:
    """The text tower on the first max(ends) + 1 positions: open_clip's own modules, in its order."""
    tower = getattr(model, "text", model)
    length = int(ends.max()) + 1
    hidden: Tensor = tower.token_embedding(tokens[:, :length])
    hidden = hidden + tower.positional_embedding[:length].to(hidden.dtype)
    hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length])
    pooled = tower.ln_final(hidden)[torch.arange(len(tokens), device=tokens.device), ends]
    head = tower.text_projection
    if isinstance(head, torch.nn.Module):
        pooled = head(pooled)
    elif head is not None:
        pooled = pooled @ head
    out: Tensor = pooled
    return out


def _lengths(clip: Clip, tokens: Tensor) -> Tensor:
    """Tokens up to and with end-of-text, which is the largest number of CLIP's tokenizers."""
    pool = getattr(clip.model, "text_pool_type", "argmax")
    ends = getattr(clip.model, "text_eos_id", None)
    if pool == "eos" and ends is not None:
        stops: Tensor = (tokens == ends).int()
        return stops.argmax(dim=1) + 1
    return tokens.argmax(dim=1) + 1


def _windows(clip: Clip, text: str) -> list[str]:
    """The text itself, or pieces of it that each fit the context: cut between words, inside a word only where one
    alone is too long."""
    if _fits(clip, text):
        return [text]
    pieces: list[str] = []
    for word in text.split(" "):
        if pieces and _fits(clip, f"{pieces[-1]} {word}"):
            pieces[-1] += f" {word}"
            continue
        while not _fits(clip, word):
            size = len(word) // 2
            while not _fits(clip, word[:size]):
                size //= 2
            pieces.append(word[:size])
            word = word[size:]
        pieces.append(word)
    return pieces


def _fits(clip: Clip, text: str) -> bool:
    if hasattr(clip.tokenizer, "encode"):
        return len(clip.tokenizer.encode(text)) + 2 <= clip.context_length
    longer: Tensor = clip.tokenizer([text, "a"], context_length=clip.context_length + 2)
    return bool((longer[0, -3:] == longer[1, -1]).all())  # padding, whatever its number, even that of the end


def _unit(vector: Float32[np.ndarray, " dim"]) -> Float32[np.ndarray, " dim"]:
    out: Float32[np.ndarray, " dim"] = vector / max(float(np.linalg.norm(vector)), 1e-12)
    return out


def _recall(folder: Path, tower: str, keys: Sequence[bytes]) -> dict[bytes, Float32[np.ndarray, " dim"]]:
    file = folder / f"{tower[:32]}.sqlite"
    if not file.is_file():
        return {}
    found: dict[bytes, Float32[np.ndarray, " dim"]] = {}
    try:
        with closing(sqlite3.connect(file, timeout=30)) as opened:
            for start in range(0, len(keys), 500):
                some = keys[start : start + 500]
                marks = ",".join("?" * len(some))
                rows = opened.execute(f"SELECT key, vector FROM text WHERE key IN ({marks})", some)
                found |= {key: np.frombuffer(blob, np.float32) for key, blob in rows}
    except sqlite3.Error as error:
        logging.getLogger("ovseg").warning("the cache of texts cannot be read and is left out: %s (%s)", file, error)
    return found


def _keep(folder: Path, tower: str, rows: dict[bytes, Float32[np.ndarray, " dim"]]) -> None:
    file = folder / f"{tower[:32]}.sqlite"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file, timeout=30)) as opened, opened:
            opened.execute("CREATE TABLE IF NOT EXISTS text (key BLOB PRIMARY KEY, vector BLOB) WITHOUT ROWID")
            pairs = [(key, np.ascontiguousarray(row, np.float32).tobytes()) for key, row in rows.items()]
            opened.executemany("INSERT OR REPLACE INTO text VALUES (?, ?)", pairs)
    except (OSError, sqlite3.Error) as error:
        logging.getLogger("ovseg").warning("texts are not kept for the next time: %s (%s)", file, error)


__all__ = [
    "BATCH",
    "TOGETHER",
    "TOO_CLOSE",
    "WORDING",
    "before",
    "can_cut",
    "crowd",
    "encode_phrases",
    "encode_text",
    "vocabulary",
]
