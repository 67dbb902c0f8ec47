"""Train the tiny CLIP on composed pictures whose masks are known.

    python weights/tiny/train_clip.py --data CACHE --out RUN --minutes 100 --seed 0 [--resume]
    python weights/tiny/train_clip.py --data CACHE --out RUN --export weights/tiny

The network is open_clip's own (``open_clip.CLIP``); only the way it is walked is written out here, since the training
signal is at the patches: the value path of the last block (no attention, no residual, no MLP), final norm, projection,
cosine with the words.
The learning rate is a function of the wall clock: a run ends when it was told to and may be stopped and resumed.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import math
import platform
import random
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from compose import BACKGROUND, IGNORED, MAX_SEGMENTS, Composer, curve, texture_bank
from numpy.typing import NDArray
from open_clip.tokenizer import SimpleTokenizer, basic_clean, bytes_to_unicode, default_bpe
from torch import Tensor
from words import BROADER, COMMON, GROUND, TEMPLATES, overlaps, vocabulary

MEAN, STD = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
PATCH, GRID = 12, 12
CONFIG: dict[str, Any] = {
    "embed_dim": 160,
    "vision_cfg": {"image_size": PATCH * GRID, "patch_size": PATCH, "width": 192, "layers": 6, "head_width": 64},
    "text_cfg": {"context_length": 24, "vocab_size": 0, "width": 128, "heads": 2, "layers": 2},
}
# Grid of patches and its share of the steps at the beginning and at the end of a run: many small pictures teach names,
# larger ones later teach the grids that the product reads.
GRIDS = (
    (8, 8, 0.34, 0.06),
    (10, 10, 0.36, 0.16),
    (12, 12, 0.16, 0.20),
    (9, 13, 0.05, 0.12),
    (13, 9, 0.05, 0.12),
    (15, 15, 0.03, 0.16),
    (18, 18, 0.01, 0.18),
)
TOKENS_PER_STEP = 4800
# The Fluent sets draw the same shapes, so each weighs little; glyphs of one colour teach outlines only.
WEIGHT_OF_SOURCE = {
    "fluent-emoji-3d": 1.6, "fluent-emoji-anim": 0.5, "fluent-emoji": 0.6, "fluent-emoji-flat": 0.8, "noto": 2.0,
    "noto-v1": 1.5, "fxemoji": 1.5, "streamline-emojis": 1.8, "emojione": 2.0, "openclipart": 1.8, "glyphs": 0.6,
}  # fmt: skip
NAMES_PER_STEP = 160
KEPT_BATCHES = 150
SAME_GROUND = {
    "sky": {"clouds", "cloud"},
    "clouds": {"sky", "cloud"},
    "water": {"wave"},
    "brick wall": {"wall", "brick block"},
    "wall": {"concrete", "brick wall", "paper", "fabric"},
    "concrete": {"wall", "road", "stone"},
    "road": {"concrete", "gravel"},
    "wood": {"log"},
    "stone": {"rock", "gravel", "concrete"},
    "gravel": {"stone", "road"},
    "fabric": {"carpet", "wall"},
    "carpet": {"fabric"},
    "snow": {"paper", "clouds"},
    "paper": {"wall", "snow"},
    "sand": {"dirt"},
    "dirt": {"sand"},
}


# ---------------------------------------------------------------- words


def write_bpe(words: list[str], path: Path, most: int) -> None:
    """Keep of open_clip's merges those that the words need, in their order: the words are cut exactly as before.

    ``words`` in order of importance: merges of later words are left out once there are ``most``.
    """
    full = SimpleTokenizer()
    kept: set[tuple[str, str]] = set()
    byte = bytes_to_unicode()
    for text in words:
        for word in full.pat.findall(basic_clean(text).lower()):
            pieces = [byte[value] for value in word.encode()]
            pieces[-1] += "</w>"
            used = set()
            while len(pieces) > 1:
                pair = min(zip(pieces, pieces[1:], strict=False), key=lambda pair: full.bpe_ranks.get(pair, math.inf))
                if pair not in full.bpe_ranks:
                    break
                used.add(pair)
                merged, index = [], 0
                while index < len(pieces):
                    hit = tuple(pieces[index : index + 2]) == pair
                    merged.append("".join(pair) if hit else pieces[index])
                    index += 2 if hit else 1
                pieces = merged
            if len(kept | used) <= most:
                kept |= used
    lines = ["#version: pruned from open_clip's bpe_simple_vocab_16e6 (MIT)"] + [
        " ".join(pair) for pair in sorted(kept, key=full.bpe_ranks.__getitem__)
    ]
    # mtime 0: the same words give the same bytes
    path.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    assert Path(default_bpe()).exists()


def word_list(npm_tags: Path | None) -> list[str]:
    """Words the tokenizer should know whole, the most important first."""
    names = vocabulary()
    words = [word for name, synonyms in (names | GROUND).items() for word in [name, *synonyms]]
    words += [template.replace("{}", " ") for template in TEMPLATES] + COMMON + [BACKGROUND]
    words += [f"{word}s" for word in words if " " not in word]
    if npm_tags:
        words += [
            tag
            for entry in json.loads(npm_tags.read_text())
            for tag in [entry["label"], *entry.get("tags", [])]
            if entry.get("group") in (3, 4, 5, 6, 7)
        ]
    return words


# ---------------------------------------------------------------- pictures


class Scenes(torch.utils.data.IterableDataset):
    """Endless batches: pixels (B, H, W, 3) uint8, segments (B, H, W) uint8, names (B, 8) int64 or -1."""

    def __init__(self, data: Path, names: list[str], seed: int, started: float = 0.0, minutes: float = 1e9) -> None:
        self.data, self.names, self.seed, self.started, self.minutes = data, names, seed, started, minutes

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        composer = training_composer(self.data, rng)
        number = {name: index for index, name in enumerate(self.names)}
        wider: dict[str, list[str]] = {}
        for wide, narrow in BROADER.items():
            for word in narrow:
                wider.setdefault(word, []).append(wide)
        shapes = [(rows, columns) for rows, columns, _, _ in GRIDS]
        early, late = (np.array([row[column] for row in GRIDS]) for column in (2, 3))
        earlier: list[tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.int64]]] = []
        while True:
            done = min(1.0, max(0.0, (time.time() - self.started) / (60 * self.minutes)))
            composer.style = 0.3
            chance = early + (late - early) * max(0.0, done - 0.7)
            rows, columns = shapes[rng.choice(len(shapes), p=chance / chance.sum())]
            smallest = max(2.3, 4.2 - 2.5 * done) / min(rows, columns)
            scenes = [
                composer.compose(rows * PATCH, columns * PATCH, sizes=(smallest, 1.05))
                for _ in range(round(TOKENS_PER_STEP / (rows * columns)))
            ]
            words = np.full((len(scenes), MAX_SEGMENTS), -1, np.int64)
            for row, scene in zip(words, scenes, strict=True):
                for segment, word in enumerate(scene.words):
                    if word in wider and rng.random() < 0.1:
                        word = wider[word][rng.integers(len(wider[word]))]
                    row[segment] = number.get(word, -1)
            pixels, segments = (
                np.stack([scene.picture for scene in scenes]),
                np.stack([scene.segments for scene in scenes]),
            )
            yield torch.from_numpy(pixels), torch.from_numpy(segments), torch.from_numpy(words)
            # Composing costs half as much as learning: every batch comes back about twice, later, mirrored and tinted.
            earlier.append((pixels, segments, words))
            if len(earlier) > KEPT_BATCHES:
                earlier.pop(0)
                for again in rng.choice(len(earlier), 2, replace=False):
                    pixels, segments, words = earlier[again]
                    turn = slice(None, None, -1 if rng.random() < 0.5 else 1)
                    pixels = np.stack([cv2.LUT(picture, curve(rng, 0.6)) for picture in pixels[:, :, turn]])
                    segments = np.ascontiguousarray(segments[:, :, turn])
                    yield torch.from_numpy(pixels), torch.from_numpy(segments), torch.from_numpy(words)


def training_composer(data: Path, rng: np.random.Generator) -> Composer:
    rows = json.loads((data / "sprites.json").read_text())["sprites"]
    photos = {name: photo for name, photo in np.load(data / "photos.npz").items() if not name.startswith("heldout")}
    return Composer(
        np.load(data / "sprites.npy", mmap_mode="r"),
        [row["name"] for row in rows],
        photos,
        texture_bank(list(GROUND), seed=7),
        rng,
        weights=[WEIGHT_OF_SOURCE.get(row["source"], 1.0) for row in rows],
    )


def held_out(folder: Path) -> tuple[NDArray[np.uint8], list[str]]:
    """(sprites (N, S, S, 4), their names) of the style that is never trained on."""
    with np.load(folder / "heldout.npz") as pack:
        parts = np.split(pack["png"], pack["ends"][:-1])
        names = [str(name) for name in pack["names"]]
    sprites = [cv2.cvtColor(cv2.imdecode(part, cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA) for part in parts]
    return np.stack(sprites), names


# ---------------------------------------------------------------- the walk


def normalised(pixels: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) as the tower eats it."""
    mean, std = torch.tensor(MEAN) * 255, torch.tensor(STD) * 255
    return ((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()


def positions(table: Tensor, rows: int, columns: int) -> Tensor:
    """The embedding table (1 + G*G, W) for a grid of rows x columns: bicubic, corners not aligned."""
    if (rows, columns) == (GRID, GRID):
        return table
    square = table[1:].T.reshape(1, -1, GRID, GRID)
    moved = F.interpolate(square, (rows, columns), mode="bicubic", align_corners=False)
    return torch.cat([table[:1], moved.reshape(-1, rows * columns).T])


def split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, causal: bool = False) -> Tensor:
    """Attention of (B, heads, N, d) as two products: on small grids far faster backwards than a CPU's fused kernel."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        scores = scores + torch.full(scores.shape[-2:], -1e4, dtype=scores.dtype).triu(1)
    return scores.softmax(-1, dtype=scores.dtype) @ v


def block(layer: Any, x: Tensor, causal: bool = False) -> Tensor:
    """One residual attention block, the same numbers as open_clip's, written for speed."""
    heads = layer.attn.num_heads
    q, k, v = F.linear(layer.ln_1(x), layer.attn.in_proj_weight, layer.attn.in_proj_bias).chunk(3, -1)
    mixed = attend(*(split_heads(part, heads) for part in (q, k, v)), causal)
    x = x + layer.attn.out_proj(mixed.transpose(1, 2).flatten(2))
    return x + layer.mlp(layer.ln_2(x))


def walk(visual: Any, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
    """The tokens entering the last block, (B, 1 + R*C, W), and the grid."""
    patches = visual.conv1(pixels)
    rows, columns = patches.shape[-2:]
    x = patches.flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.to(x.dtype).expand(len(x), 1, -1), x], 1)
    x = visual.ln_pre(x + positions(visual.positional_embedding, rows, columns).to(x.dtype))
    for layer in visual.transformer.resblocks[:-1]:
        x = block(layer, x)
    return x, (rows, columns)


def last_block(visual: Any, x: Tensor, attention: str) -> tuple[Tensor, Tensor]:
    """(patch features (B, N, D), picture features (B, D)): patches by the reduced path, CLS by the ordinary block."""
    layer = visual.transformer.resblocks[-1]
    heads = layer.attn.num_heads
    q, k, v = F.linear(layer.ln_1(x), layer.attn.in_proj_weight, layer.attn.in_proj_bias).chunk(3, -1)
    q, k, heads_v = split_heads(q, heads), split_heads(k, heads), split_heads(v, heads)
    if attention == "identity":
        patches = v[:, 1:]
    else:
        both = q if attention == "qq" else k
        patches = attend(both, both, heads_v).transpose(1, 2).flatten(2)[:, 1:]
    dense = visual.ln_post(layer.attn.out_proj(patches)) @ visual.proj
    whole = x[:, :1] + layer.attn.out_proj(attend(q[:, :, :1], k, heads_v).transpose(1, 2).flatten(2))
    whole = whole + layer.mlp(layer.ln_2(whole))
    return dense, visual.ln_post(whole[:, 0]) @ visual.proj


def encode_text(model: Any, tokens: Tensor) -> Tensor:
    """As ``model.encode_text``, on no more columns than the longest row needs."""
    ends = tokens.argmax(-1)
    tokens = tokens[:, : int(ends.max()) + 1]
    x = model.token_embedding(tokens) + model.positional_embedding[: tokens.shape[1]]
    for layer in model.transformer.resblocks:
        x = block(layer, x, causal=True)
    return model.ln_final(x)[torch.arange(len(x)), ends] @ model.text_projection


# ---------------------------------------------------------------- the loss


class Lexicon:
    """Names as numbers: their sentences, and which of them must not be counted as wrong beside which."""

    def __init__(self, tokenizer: SimpleTokenizer, learned: list[str]) -> None:
        table = vocabulary() | GROUND | {BACKGROUND: []}
        self.names = learned + list(GROUND) + [BACKGROUND]
        self.names += [wide for wide in BROADER if wide not in self.names]
        self.words = [[name, *table.get(name, [])] for name in self.names]
        self.tokenizer = tokenizer
        number = {name: index for index, name in enumerate(self.names)}
        self.number = number
        self.excused = torch.zeros(len(self.names), len(self.names), dtype=torch.bool)
        for pairs in (overlaps(), SAME_GROUND):
            for name, others in pairs.items():
                for other in others:
                    if name in number and other in number:
                        self.excused[number[name], number[other]] = True
        ground = [number[word] for word in GROUND]
        self.excused[ground, number[BACKGROUND]] = True
        self.excused[number[BACKGROUND], ground] = True
        self.is_ground = torch.zeros(len(self.names), dtype=torch.bool)
        self.is_ground[[*ground, number[BACKGROUND]]] = True

    def sentences(self, chosen: list[int], rng: random.Random) -> Tensor:
        """One random sentence with a random synonym for each name, (N, context)."""
        texts = []
        for index in chosen:
            word = rng.choice(self.words[index]) if rng.random() < 0.4 else self.words[index][0]
            texts.append((rng.choice(TEMPLATES) if rng.random() < 0.75 else "{}").format(word))
        return self.tokenizer(texts)


def coverage(segments: Tensor) -> Tensor:
    """The share of each patch that belongs to each segment, (B, 8, R*C), of segment numbers (B, H, W)."""
    count, height, width = segments.shape
    rows, columns = height // PATCH, width // PATCH
    patch = torch.arange(height)[:, None] // PATCH * columns + torch.arange(width) // PATCH
    place = torch.arange(count)[:, None, None] * rows * columns + patch
    sums = torch.bincount((place * MAX_SEGMENTS + segments).flatten(), minlength=count * rows * columns * MAX_SEGMENTS)
    return (sums.view(count, rows * columns, MAX_SEGMENTS).float() / PATCH**2).transpose(1, 2)


def agree(
    vectors: Tensor, words: Tensor, targets: Tensor, excused: Tensor, weight: Tensor, rough: bool = False
) -> tuple[Tensor, Tensor]:
    """(weighted cross entropy of the products against their targets, the products), other right words left out."""
    with torch.autocast("cpu", torch.bfloat16, enabled=rough):
        scores = vectors @ words.T
    scores = scores.float().masked_fill(excused[targets], -1e4)
    return (F.cross_entropy(scores, targets, reduction="none") * weight).sum() / weight.sum().clamp(min=1e-3), scores


def losses(
    model: Any,
    anchors: Tensor,
    lexicon: Lexicon,
    batch: tuple[Tensor, Tensor, Tensor],
    rng: random.Random,
    autocast: bool,
) -> tuple[Tensor, dict[str, float]]:
    pixels, segments, names = batch
    present = sorted(set(names[names >= 0].tolist()))
    others = [index for index in range(len(lexicon.names)) if index not in set(present)]
    chosen = present + rng.sample(others, max(0, NAMES_PER_STEP - len(present)))
    position = torch.full((len(lexicon.names) + 1,), -1)
    position[torch.tensor(chosen)] = torch.arange(len(chosen))
    targets = position[names]  # (B, 8): column of the step's names; -1 stays -1 through the spare last entry
    dice = rng.random()
    numbers = torch.tensor(chosen)
    anchors = F.normalize(anchors, dim=-1)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        # Sentences are soon where their anchors are; half of the steps spare themselves the text tower.
        spoken = rng.random() < 0.5
        text = encode_text(model, lexicon.sentences(chosen, rng)) if spoken else anchors[numbers]
        x, _ = walk(model.visual, normalised(pixels).to(torch.bfloat16 if autocast else torch.float32))
        dense, whole = last_block(model.visual, x, "identity" if dice < 0.8 else "qq" if dice < 0.92 else "kk")
    text, dense, whole = (F.normalize(part.float(), dim=-1) for part in (text, dense, whole))
    scale = model.logit_scale.exp().clamp(max=60)
    text = scale * text
    anchors = scale * anchors
    few, every = lexicon.excused[numbers][:, numbers], lexicon.excused
    cover = coverage(segments)
    ground = lexicon.is_ground[numbers]

    # every patch that mostly belongs to one thing
    purity, owner = cover.max(1)
    target = targets.gather(1, owner)
    size = cover.sum(2).gather(1, owner).clamp(min=1)
    weight = (purity > 0.5) * (target >= 0) * purity * size**-0.5
    weight = weight * torch.where(ground[target.clamp(min=0)], 0.5, 1.0)
    keep = weight > 0
    patches, target, weight = dense[keep], target[keep], weight[keep]
    patch_loss, _ = agree(patches, text, target, few, weight, autocast)
    patch_anchor_loss, _ = agree(patches, anchors, numbers[target], every, weight, autocast)

    # every thing as a whole
    pooled = F.normalize((cover * (cover > 0.25)) @ dense, dim=-1)
    thing = (targets >= 0) & (cover.amax(2) > 0.3)
    thing[:, IGNORED] = False
    target = targets[thing]
    weight = torch.where(ground[target], 0.3, 1.0)
    region_loss, scores = agree(pooled[thing], text, target, few, weight)
    region_anchor_loss, _ = agree(pooled[thing], anchors, numbers[target], every, weight)
    named = ~ground[target]
    hits = (scores.argmax(1) == target)[named].float().mean()

    # the picture as a whole, towards all things in it
    rows = thing.nonzero()[:, 0][named]
    wanted = torch.zeros(len(pixels), len(chosen)).index_put_(
        (rows, target[named]), torch.ones(len(rows)), accumulate=True
    )
    some = wanted.sum(1) > 0
    share = wanted[some] / wanted[some].sum(1, keepdim=True)
    whole_loss = -(share * F.log_softmax(whole[some] @ text.T, -1)).sum(1).mean()

    # every sentence towards the anchor of its name
    words_loss, _ = agree(text / scale, anchors, numbers, every, torch.ones(len(numbers)))
    total = patch_loss + region_loss + patch_anchor_loss + region_anchor_loss
    total = total + 0.25 * whole_loss + 0.5 * spoken * words_loss
    parts = {
        "patch": patch_loss,
        "region": region_loss,
        "anchor": region_anchor_loss,
        "whole": whole_loss,
        "words": words_loss,
        "hits": hits,
    }
    return total, {key: float(value) for key, value in parts.items()}


# ---------------------------------------------------------------- measuring while it runs


@torch.no_grad()
def measure(model: Any, lexicon: Lexicon, composer: Composer, count: int = 60, side: int = 192) -> dict[str, float]:
    """Held-out style: share of object pixels named right among the names present, and among those and 20 absent."""
    right = np.zeros(2)
    pixels = 0
    rng = np.random.default_rng(11)
    texts = F.normalize(
        encode_text(model, lexicon.tokenizer([f"a photo of a {name}." for name in composer.words])), dim=-1
    )
    for _ in range(count):
        words = [str(word) for word in rng.choice(composer.words, int(rng.integers(2, 5)), replace=False)]
        scene = composer.compose(side, side, words)
        x, grid = walk(model.visual, normalised(torch.from_numpy(scene.picture)[None]))
        dense = F.normalize(last_block(model.visual, x, "identity")[0], dim=-1)
        absent = [
            str(word) for word in rng.choice([word for word in composer.words if word not in words], 20, replace=False)
        ]
        scores = dense[0] @ texts[[composer.words.index(word) for word in words + absent]].T
        maps = F.interpolate(scores.T.reshape(1, -1, *grid), (side, side), mode="bilinear")[0].numpy()
        truth = np.full(scene.segments.shape, -1)
        for segment, word in enumerate(scene.words):
            if word in words:
                truth[scene.segments == segment] = words.index(word)
        named = truth >= 0
        pixels += int(named.sum())
        right += [(maps[:number].argmax(0) == truth)[named].sum() for number in (len(words), len(maps))]
    return {"present": round(float(right[0]) / pixels, 4), "with_absent": round(float(right[1]) / pixels, 4)}


# ---------------------------------------------------------------- the run


def build(tokenizer: SimpleTokenizer) -> tuple[Any, dict[str, Any]]:
    config = copy.deepcopy(CONFIG)
    config["text_cfg"]["vocab_size"] = len(tokenizer.encoder)
    return open_clip.CLIP(**config), config


def train(args: argparse.Namespace) -> None:
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    bpe = args.out / "bpe.txt.gz"
    if not bpe.exists():
        write_bpe(word_list(args.tags), bpe, most=3600)
    tokenizer = SimpleTokenizer(bpe_path=str(bpe), context_length=CONFIG["text_cfg"]["context_length"])
    learned = sorted({row["name"] for row in json.loads((args.data / "sprites.json").read_text())["sprites"]})
    lexicon = Lexicon(tokenizer, learned)
    model, config = build(tokenizer)
    average = copy.deepcopy(model)
    # A free vector for each name. Sentences alone start so alike that the picture side would learn nothing for long;
    # the anchors give it something to tell apart, the sentences follow them, and they are thrown away in the end.
    anchors = torch.nn.Parameter(F.normalize(torch.randn(len(lexicon.names), CONFIG["embed_dim"]), dim=-1))
    # The matrices inside the picture side's blocks take orthogonalised steps (Muon), everything else AdamW's.
    hidden = [value for name, value in model.named_parameters() if "visual.transformer" in name and value.ndim == 2]
    inside = set(map(id, hidden))
    decayed = [value for value in model.parameters() if value.ndim >= 2 and id(value) not in inside]
    others = [anchors, *(value for value in model.parameters() if value.ndim < 2)]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.08}, {"params": others, "weight_decay": 0.0}],
            lr=args.lr,
            betas=(0.9, 0.97),
            fused=True,
        ),
        torch.optim.Muon(hidden, lr=args.lr, weight_decay=0.08, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
    ]
    state: dict[str, Any] = {"step": 0, "seen": 0, "started": time.time(), "curve": []}
    path = args.out / "checkpoint.pt"
    if args.resume and path.exists():
        saved = torch.load(path, weights_only=False)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        anchors.data.copy_(saved["anchors"])
        for optimiser, memory in zip(optimisers, saved.get("optimisers", []), strict=False):
            optimiser.load_state_dict(memory)
        state = saved["state"]
        rng.seed(args.seed + state["step"])
    sprites, names = held_out(Path(__file__).parent)
    photos = {name: photo for name, photo in np.load(args.data / "photos.npz").items() if name.startswith("heldout")}
    textures = texture_bank(list(GROUND), seed=99, each=2)
    print(
        f"{sum(value.numel() for value in model.parameters()) / 1e6:.2f} M parameters, "
        f"{len(lexicon.names)} names, {len(tokenizer.encoder)} tokens",
        flush=True,
    )
    loader = iter(
        torch.utils.data.DataLoader(
            Scenes(args.data, lexicon.names, args.seed + state["step"], state["started"], args.minutes),
            batch_size=None,
            num_workers=args.workers,
            prefetch_factor=4,
        )
    )
    end = state["started"] + 60 * args.minutes
    saved_at, told_at, told_seen, sums = time.time(), time.time(), state["seen"], []
    while True:
        now = time.time()
        done = min(1.0, (now - state["started"]) / (60 * args.minutes))
        rate = args.lr * min(1.0, (state["step"] + 1) / 150) * min(1.0, (1 - done) / 0.3) + 1e-6
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate * (args.muon if isinstance(optimiser, torch.optim.Muon) else 1)
        batch = next(loader)
        loss, parts = losses(model, anchors, lexicon, batch, rng, args.bf16)
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_([*decayed, *others, *hidden], 1.0)
        if torch.isfinite(norm):
            for optimiser in optimisers:
                optimiser.step()
        state["step"] += 1
        state["seen"] += len(batch[0])
        keep = min(0.998, (1 + state["step"]) / (10 + state["step"]))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - keep)
        sums.append(parts)
        last = now >= end
        if state["step"] % 50 == 0:
            means = {key: round(float(np.mean([part[key] for part in sums])), 3) for key in parts}
            speed = (state["seen"] - told_seen) / (time.time() - told_at)
            print(
                f"{(now - state['started']) / 60:6.1f} min step {state['step']} seen {state['seen']} "
                f"{speed:.0f}/s lr {rate:.1e} {means}",
                flush=True,
            )
            state["curve"].append(
                {
                    "minute": round((now - state["started"]) / 60, 2),
                    "step": state["step"],
                    "seen": state["seen"],
                    **means,
                }
            )
            told_at, told_seen, sums = time.time(), state["seen"], []
        if last or now - saved_at > 60 * args.every:
            composer = Composer(sprites, names, photos, textures, np.random.default_rng(5), style=0)
            state["curve"].append(
                {
                    "minute": round((now - state["started"]) / 60, 2),
                    "step": state["step"],
                    "heldout": measure(average, lexicon, composer),
                }
            )
            print("heldout", state["curve"][-1], flush=True)
            torch.save(
                {
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "anchors": anchors.data,
                    "optimisers": [optimiser.state_dict() for optimiser in optimisers],
                    "state": state,
                    "config": config,
                    "learned": learned,
                },
                path.with_suffix(".tmp"),
            )
            path.with_suffix(".tmp").replace(path)
            saved_at = time.time()
        if last:
            return


def export(args: argparse.Namespace) -> None:
    """Write the files that ovseg loads, from the last checkpoint's averaged weights."""
    from safetensors.torch import save_file

    saved = torch.load(args.out / "checkpoint.pt", weights_only=False)
    config = saved["config"] | {"quick_gelu": False, "preprocess": {"mean": list(MEAN), "std": list(STD)}}
    weights = {name: value.half().contiguous() for name, value in saved["average"].items() if name != "attn_mask"}
    save_file(
        weights, str(args.export / "clip.safetensors"), metadata={"model_cfg": json.dumps(config), "format": "pt"}
    )
    (args.export / "clip.safetensors").chmod(0o644)
    (args.export / "clip.json").write_text(json.dumps(config, indent=2) + "\n")
    shutil.copy(args.out / "bpe.txt.gz", args.export / "bpe.txt.gz")
    table = vocabulary()
    names = {name: table[name] for name in saved["learned"]}
    names |= {wide: [] for wide in BROADER if wide not in names}
    (args.export / "names.json").write_text(
        json.dumps(
            {"names": names, "ground": list(GROUND), "generic_background": BACKGROUND}, indent=1, ensure_ascii=False
        )
        + "\n"
    )
    state = saved["state"]
    data = json.loads((args.data / "sprites.json").read_text())
    record = {
        "command": args.command,
        "seed": args.seed,
        "pictures_seen": state["seen"],
        "steps": state["step"],
        "minutes": round(max(point["minute"] for point in state["curve"]), 1),
        "sprites_sha256": data["sha256"],
        "sprites": data["counts"],
        "machine": f"{platform.machine()}, 2 cores, no GPU",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "curve": state["curve"],
    }
    (args.export / "training.json").write_text(
        json.dumps(record, indent=None, separators=(",", ":")).replace('{"minute"', '\n{"minute"') + "\n"
    )
    print(f"exported step {state['step']}, {sum(value.numel() for value in weights.values()) * 2 / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the cache that make_data.py wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run: checkpoint and tokenizer")
    parser.add_argument("--tags", type=Path, help="emojibase-data/en/data.json: more words for the tokenizer")
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--every", type=float, default=5, help="minutes between checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=2.4e-4)
    parser.add_argument("--muon", type=float, default=3.0, help="the rate of Muon's steps over --lr")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--export", type=Path, help="write the product's files to this folder instead of training")
    parser.add_argument("--command", default="see weights/README.md", help="what to record as the command of the run")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    (export if args.export else train)(args)


if __name__ == "__main__":
    sys.exit(main())
