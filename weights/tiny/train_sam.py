"""Train the tiny SAM on painted pictures whose masks are known.

    python weights/tiny/train_sam.py compose --data CACHE --sheets SHEETS --shards 140
    python weights/tiny/train_sam.py train --sheets SHEETS --out RUN --minutes 25 [--resume]
    python weights/tiny/train_sam.py export --sheets SHEETS --out RUN --export weights/tiny

The network is segment-anything's own (Kirillov et al. 2023, arXiv:2304.02643; ``ovseg.sam.load.build``); only the way
it is walked is written out here, for many prompts of many pictures at once: same numbers, other order of the axes (a
test holds them together). Low-resolution logits are kept in "cell order": the 16 sub-pixels of a patch lie together,
as the two up-scalings make them, so that no picture is put together in training.
The learning rate is a function of the clock, which stands still while the run does: it may be stopped and resumed.
"""

import argparse
import copy
import hashlib
import json
import math
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from compose import Composer, curve, texture_bank
from figures import FIGURES, HELD_OUT, LEAVES, SMALLEST, Painter
from numpy.typing import NDArray
from report import held_out
from torch import Tensor, nn
from words import GROUND

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from ovseg.sam.load import KINDS, PIXEL_MEAN, PIXEL_STD, build  # noqa: E402  (the one of this checkout)

SHAPE = KINDS["tiny"]
SIDE, CELLS = SHAPE.side, SHAPE.side // SHAPE.patch
LOW = 4 * CELLS  # side of the logits
PAUSE = 3.0  # s: a step that took longer was stopped from outside, or compiled; the clock does not count it
SHEETS_IN_SHARD = 256
NO_LEAF = 255
Prompt = tuple[Tensor, Tensor]  # points (B, K, T, 2) in px as x, y; labels (B, K, T): -1 none, 0 not, 1 in, 2 3 corners

# ---------------------------------------------------------------- pictures


def compose(args: argparse.Namespace) -> None:
    """Write shards of painted sheets; a shard depends on nothing but the data, the seed and its number."""
    from train_clip import training_composer

    args.sheets.mkdir(parents=True, exist_ok=True)
    painter = Painter(training_composer(args.data, np.random.default_rng(0)), FIGURES)
    painter.composer.style = 0.3
    for shard in range(args.shards):
        path = args.sheets / f"{shard:04}.npy"
        if path.exists():
            continue
        painter.rng = painter.composer.rng = np.random.default_rng((args.seed, shard))
        sheets = [painter.paint(SIDE) for _ in range(SHEETS_IN_SHARD)]
        masks = np.zeros((len(sheets), LEAVES), np.uint64)
        for row, sheet in zip(masks, sheets, strict=True):
            row[: len(sheet.masks)] = sheet.masks[:LEAVES]
        np.save(args.sheets / f"{shard:04}.masks.npy", masks)
        np.save(args.sheets / f"{shard:04}.grounds.npy", np.array([sheet.grounds for sheet in sheets], np.uint8))
        pixels = np.stack([np.dstack([sheet.picture, sheet.leaves]) for sheet in sheets])
        np.save(path.with_suffix(".part.npy"), pixels)
        path.with_suffix(".part.npy").replace(path)


def held_out_painter(seed: int) -> Painter:
    """Sprites of the held-out style, figures and surfaces that no training picture has, nothing restyled."""
    sprites, names = held_out(Path(__file__).parent)
    textures = texture_bank(list(GROUND), seed=1000 + seed, each=2)
    return Painter(Composer(sprites, names, {}, textures, np.random.default_rng(seed), style=0), HELD_OUT)


def members(masks: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Which leaves each mask holds, (N, 256) of 0 and 1, so that ``members(masks)[n][leaves]`` is a mask."""
    table = np.zeros((len(masks), 256), np.uint8)
    table[:, :LEAVES] = (masks[:, None] >> np.arange(LEAVES, dtype=np.uint64)) & np.uint64(1)
    return table


def varied(rng: np.random.Generator, sheet: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A sheet (S, S, 4) turned, mirrored, tinted, sometimes cut out larger or cut short and padded, same size."""
    sheet = np.rot90(sheet, int(rng.integers(4)))
    sheet = sheet[:, ::-1] if rng.random() < 0.5 else sheet
    picture, leaves = np.ascontiguousarray(sheet[..., :3]), np.ascontiguousarray(sheet[..., 3])
    if rng.random() < 0.35:
        part = int(rng.uniform(0.45, 0.95) * SIDE)
        top, left = rng.integers(0, SIDE - part, 2)
        inside = slice(top, top + part), slice(left, left + part)
        picture = cv2.resize(picture[inside], (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
        leaves = cv2.resize(leaves[inside], (SIDE, SIDE), interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.5:
        picture = cv2.LUT(picture, curve(rng, 0.6))
    if rng.random() < 0.3:  # pictures that are not square are padded below or at the right with the mean
        kept = int(rng.uniform(0.4, 1) * SIDE)
        beyond = slice(kept, None) if rng.random() < 0.6 else (slice(None), slice(kept, None))
        picture[beyond] = np.round(PIXEL_MEAN).astype(np.uint8)
        leaves[beyond] = NO_LEAF
    return np.dstack([picture, leaves])


def in_cell_order(low: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(N, 64, 64) to (N, 256 cells, 16): the two 2x2 steps of the up-scaling, the coarser first."""
    n = len(low)
    split = low.reshape(n, CELLS, 2, 2, CELLS, 2, 2)
    return split.transpose(0, 1, 4, 2, 5, 3, 6).reshape(n, CELLS**2, 16)


def from_cell_order(cells: Tensor) -> Tensor:
    """(N, 256 cells, 16) to (N, 64, 64)."""
    split = cells.reshape(-1, CELLS, CELLS, 2, 2, 2, 2)
    return split.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, LOW, LOW)


def low_centres() -> Tensor:
    """Where the middle of each low-resolution pixel is, in px of the picture as x, y, (256 * 16, 2), cell order."""
    grid = torch.arange(LOW) * (SIDE // LOW) + (SIDE // LOW - 1) / 2
    rows, columns = (
        in_cell_order(part[None].numpy())[0].reshape(-1) for part in torch.meshgrid(grid, grid, indexing="ij")
    )
    return torch.from_numpy(np.stack([columns, rows], 1))


def asked(
    rng: np.random.Generator, leaves: NDArray[np.uint8], masks: NDArray[np.uint64], grounds: int, count: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]] | None:
    """Masks of a sheet to ask for: (targets (count, 256, 16), points (count, 2, 3), boxes (count, 4)), or None.

    A point is x, y and 1 in the mask or 0 beside it; the first is always in it. Boxes are shaken by some hundredths.
    """
    table = members(masks)
    area = table @ np.bincount(leaves.ravel(), minlength=256)
    weight = np.where(np.arange(len(masks)) < grounds, 0.5, 1.0) * (area >= SMALLEST * SIDE**2)
    if not weight.sum():
        return None
    chosen = rng.choice(len(masks), count, p=weight / weight.sum(), replace=count > (weight > 0).sum())
    low, points, boxes = [], np.zeros((count, 2, 3), np.float32), np.zeros((count, 4), np.float32)
    for row, index in enumerate(chosen):
        mask = table[index][leaves]
        low.append(cv2.resize(mask * np.uint8(255), (LOW, LOW), interpolation=cv2.INTER_AREA))
        inside = np.flatnonzero(mask)
        at = inside[rng.integers(len(inside), size=2)]
        points[row] = np.stack([at % SIDE, at // SIDE, [1, 1]], 1)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        edges = np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float32)
        size = np.tile(edges[2:] - edges[:2] + 1, 2)
        if rng.random() < 0.5:  # the second point says what is not meant: somewhere near
            near = (edges + size * [-0.3, -0.3, 0.3, 0.3]).clip(0, SIDE - 1)
            x, y = (int(rng.integers(near[axis], near[axis + 2] + 1)) for axis in (0, 1))
            points[row, 1] = x, y, mask[y, x]
        boxes[row] = (edges + rng.normal(0, 0.07, 4).clip(-0.15, 0.15) * size).clip(0, SIDE - 1)
    return in_cell_order(np.stack(low)), points, boxes


class Sheets(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Endless batches: pixels (B, S, S, 3), targets (B, M, 256, 16) as bytes, points (B, M, 2, 3), boxes (B, M, 4)."""

    def __init__(self, folder: Path, seed: int, pictures: int, masks: int) -> None:
        self.folder, self.seed, self.pictures, self.masks = folder, seed, pictures, masks

    def __iter__(self) -> Iterator[list[Tensor]]:
        cv2.setNumThreads(1)
        torch.set_num_threads(1)
        worker = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, worker.id if worker else 0))
        shards = [
            tuple(np.load(path.with_suffix(end), mmap_mode="r") for end in (".npy", ".masks.npy", ".grounds.npy"))
            for path in sorted(self.folder.glob("[0-9][0-9][0-9][0-9].npy"))
        ]
        while True:
            batch = []
            while len(batch) < self.pictures:
                sheets, masks, grounds = shards[rng.integers(len(shards))]
                index = int(rng.integers(len(sheets)))
                sheet = varied(rng, sheets[index])
                found = asked(rng, sheet[..., 3], masks[index][masks[index] > 0], int(grounds[index]), self.masks)
                if found is not None:
                    batch.append((np.ascontiguousarray(sheet[..., :3]), *found))
            yield [torch.from_numpy(np.stack(parts)) for parts in zip(*batch, strict=True)]


# ---------------------------------------------------------------- the walk


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(-2, -3)


def mixed(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T) v with the heads put side by side; ``q`` is scaled already."""
    weights = (q @ k.transpose(-1, -2)).softmax(-1, dtype=q.dtype)
    return (weights @ v).transpose(-2, -3).flatten(-2)


def encoder_attention(layer: Any, x: Tensor) -> Tensor:
    """(B, H, W, C) to the same: attention with the decomposed relative positions as further channels of q and k."""
    batch, side, _, _ = x.shape
    heads = layer.num_heads
    q, k, v = (heads_of(part, heads) for part in layer.qkv(x.flatten(1, 2)).chunk(3, -1))  # (B, heads, N, c)
    steps = torch.arange(side)
    apart = steps[:, None] - steps[None] + side - 1
    square = q.unflatten(2, (side, side))
    down = torch.einsum("bnhwc,hkc->bnhwk", square, layer.rel_pos_h[apart].to(q.dtype)).flatten(2, 3)
    across = torch.einsum("bnhwc,wkc->bnhwk", square, layer.rel_pos_w[apart].to(q.dtype)).flatten(2, 3)
    one = torch.eye(side, dtype=q.dtype)
    place = torch.cat([one.repeat_interleave(side, 0), one.repeat(side, 1)], 1).expand(batch, heads, -1, -1)
    q, k = torch.cat([q * layer.scale, down, across], -1), torch.cat([k, place], -1)
    return layer.proj(mixed(q, k, v)).view(x.shape)


def layer_norm_2d(layer: Any, x: Tensor) -> Tensor:
    """segment-anything's LayerNorm2d on channels that come last."""
    return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias, layer.eps)


def encode(encoder: Any, pixels: Tensor) -> Tensor:
    """(B, S, S, 3) uint8 to embeddings (B, 256 cells, channels)."""
    x = (pixels - torch.tensor(PIXEL_MEAN)) / torch.tensor(PIXEL_STD)
    x = x.view(len(x), CELLS, SHAPE.patch, CELLS, SHAPE.patch, 3).transpose(2, 3).flatten(3)
    x = F.linear(x, encoder.patch_embed.proj.weight.permute(0, 2, 3, 1).flatten(1), encoder.patch_embed.proj.bias)
    x = x + encoder.pos_embed
    for block in encoder.blocks:
        y, size = block.norm1(x), block.window_size
        if size:
            count = CELLS // size
            y = y.view(-1, count, size, count, size, SHAPE.width).transpose(2, 3).reshape(-1, size, size, SHAPE.width)
            y = encoder_attention(block.attn, y)
            y = y.view(-1, count, count, size, size, SHAPE.width).transpose(2, 3).reshape(x.shape)
        else:
            y = encoder_attention(block.attn, y)
        x = x + y
        x = x + block.mlp(block.norm2(x))
    first, norm, second, last = encoder.neck
    x = layer_norm_2d(norm, F.linear(x, first.weight.flatten(1)))
    x = second(x.permute(0, 3, 1, 2).contiguous()).permute(0, 2, 3, 1)
    return layer_norm_2d(last, x).flatten(1, 2)


def attend(layer: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The decoder's attention on (..., N, C); ``k`` and ``v`` may lack the axis of the prompts (size 1 there)."""
    q, k, v = layer.q_proj(q), layer.k_proj(k), layer.v_proj(v)
    heads, width = layer.num_heads, q.shape[-1] // layer.num_heads
    q = q * width**-0.5
    if k.ndim == 4 and k.shape[1] == 1 and q.shape[1] > 1:  # all prompts ask the same picture: one product
        together = mixed(heads_of(q.flatten(1, 2), heads), heads_of(k[:, 0], heads), heads_of(v[:, 0], heads))
        return layer.out_proj(together.view(q.shape))
    return layer.out_proj(mixed(*(heads_of(part, heads) for part in (q, k, v))))


def point_encoding(prompts: Any, places: Tensor) -> Tensor:
    """Fourier features of places in 0..1, (..., 2) to (..., C)."""
    turns = 2 * math.pi * ((2 * places - 1) @ prompts.pe_layer.positional_encoding_gaussian_matrix)
    return torch.cat([turns.sin(), turns.cos()], -1)


def embed_prompts(prompts: Any, points: Tensor, labels: Tensor) -> Tensor:
    """Points (..., T, 2) with labels (..., T) to tokens (..., T, C)."""
    kinds = torch.cat([prompts.not_a_point_embed.weight, *(row.weight for row in prompts.point_embeddings)])
    places = point_encoding(prompts, (points + 0.5) / SIDE) * (labels >= 0)[..., None]
    return places + kinds[labels.long() + 1]


def embed_mask(prompts: Any, logits: Tensor) -> Tensor:
    """Logits of a former answer in cell order (..., 256, 16) to what is added to the embedding, (..., 256, C)."""
    first, norm1, act, second, norm2, _, last = prompts.mask_downscaling
    x = F.linear(logits.unflatten(-1, (4, 4)), first.weight.flatten(1), first.bias)  # (..., 256, 4, 4 channels)
    x = act(layer_norm_2d(norm1, x)).transpose(-1, -2).flatten(-2)
    x = act(layer_norm_2d(norm2, F.linear(x, second.weight.flatten(1), second.bias)))
    return F.linear(x, last.weight.flatten(1), last.bias)


def upscale(layer: Any, x: Tensor) -> Tensor:
    """A 2x2 transposed convolution of stride 2 on (..., C) as a product: (..., 4, channels)."""
    weight = layer.weight.permute(2, 3, 1, 0).flatten(0, 2)
    return F.linear(x, weight, layer.bias.repeat(4)).unflatten(-1, (4, -1))


def decode(sam: Any, image: Tensor, tokens: Tensor, dense: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(pixel features (B, K, 4096, C/8) in cell order, the four masks' weights (B, K, 4, C/8), IoUs (B, K, 4)).

    ``image`` (B, 256, C), ``tokens`` (B, K, T, C), ``dense`` (B, K, 256, C) of former masks.
    """
    decoder, prompts = sam.mask_decoder, sam.prompt_encoder
    steps = (torch.arange(CELLS) + 0.5) / CELLS
    rows, columns = torch.meshgrid(steps, steps, indexing="ij")
    place = point_encoding(prompts, torch.stack([columns, rows], -1).flatten(0, 1)).to(image.dtype)
    keys = image[:, None] + (prompts.no_mask_embed.weight if dense is None else dense).to(image.dtype)
    own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(*tokens.shape[:2], -1, -1)
    start = torch.cat([own, tokens], 2)
    x = start
    for layer in decoder.transformer.layers:
        q = x if layer.skip_first_layer_pe else x + start
        mixed_in = attend(layer.self_attn, q, q, x)
        x = layer.norm1(mixed_in if layer.skip_first_layer_pe else x + mixed_in)
        placed = keys + place
        x = layer.norm2(x + attend(layer.cross_attn_token_to_image, x + start, placed, keys))
        x = layer.norm3(x + layer.mlp(x))
        keys = layer.norm4(keys + attend(layer.cross_attn_image_to_token, placed, x + start, x))
    last = decoder.transformer.final_attn_token_to_image
    x = decoder.transformer.norm_final_attn(x + attend(last, x + start, keys + place, keys))
    first, norm, act, second, _ = decoder.output_upscaling
    pixels = act(upscale(second, act(layer_norm_2d(norm, upscale(first, keys))))).flatten(2, 4)
    weights = torch.stack([mlp(x[:, :, 1 + n]) for n, mlp in enumerate(decoder.output_hypernetworks_mlps)], 2)
    return pixels, weights, decoder.iou_prediction_head(x[:, :, 0])


# ---------------------------------------------------------------- the loss


def overlap(logits: Tensor, target: Tensor) -> Tensor:
    """IoU of logits (..., P, n) > 0 and targets (..., P) > 0.5, (..., n)."""
    predicted, true = logits > 0, (target > 0.5)[..., None]
    both = (predicted & true).sum(-2, dtype=torch.float32)
    total = predicted.sum(-2, dtype=torch.float32) + true.sum(-2, dtype=torch.float32)
    return both / (total - both).clamp(min=1)


def focal_and_dice(logits: Tensor, target: Tensor) -> Tensor:
    """20 focal + dice of logits (..., P, n) and targets (..., P, 1) in 0..1, (..., n)."""
    share = logits.sigmoid()
    entropy = F.softplus(logits) - logits * target
    wrong = share + target - 2 * share * target
    focal = ((0.75 - 0.5 * target) * wrong.square() * entropy).mean(-2)
    dice = 1 - (2 * (share * target).sum(-2) + 1) / (share.sum(-2) + target.sum(-2) + 1)
    return 20 * focal + dice


def loss_of(
    pixels: Tensor, weights: Tensor, told: Tensor, target: Tensor, single: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(loss, the first mask's and the best of the other three's IoU (B, K, 2), the winners (B, K)).

    ``target`` (B, K, 4096) in 0..1; ``single`` (B, K) is the weight of the first mask: a prompt may leave
    no choice.
    """
    with torch.no_grad():
        logits = pixels @ weights.transpose(-1, -2)
        reached = overlap(logits, target)
        share = logits.sigmoid()
        both = (target[..., None, :].to(share.dtype) @ share)[..., 0, :].float()
        close = 2 * both / (share.sum(-2, dtype=torch.float32) + target.sum(-1, dtype=torch.float32)[..., None] + 1)
        best = close[..., 1:].argmax(-1) + 1
    pair = torch.stack([torch.zeros_like(best), best], -1)
    taken = weights.gather(2, pair[..., None].expand(-1, -1, -1, weights.shape[-1]))
    losses = focal_and_dice((pixels @ taken.transpose(-1, -2)).float(), target.float()[..., None])
    mask_loss = (single * losses[..., 0] + losses[..., 1]).mean()
    return mask_loss + (told.float() - reached).square().mean(), reached.gather(2, pair), best


# ---------------------------------------------------------------- the run


def first_weights(seed: int) -> Any:
    """A network that starts nearer to the goal than chance.

    Patches are read by their lowest cosines (brightness, two colour differences); the encoder knows where a patch is;
    branches of the encoder start small; a prompt looks first at its own place in the picture, and that place at it,
    since queries and keys there start as the same rows of the positions.
    """
    torch.manual_seed(seed)
    sam = build(SHAPE)
    encoder, width = sam.image_encoder, SHAPE.width
    steps = (torch.arange(SHAPE.patch) + 0.5) / SHAPE.patch * math.pi
    order = sorted(((a, b) for a in range(8) for b in range(8)), key=lambda pair: (math.hypot(*pair), pair))
    colours = torch.tensor([[0.58, 0.58, 0.58], [0.7, 0.0, -0.7], [0.41, -0.82, 0.41]])
    rows = []
    for row, count in enumerate((width - 2 * (width // 4), width // 4, width // 4)):
        for a, b in order[:count]:
            wave = torch.outer((a * steps).cos(), (b * steps).cos())
            # Fine waves are weak in pictures: their strength falls with the 1.5th power of the frequency.
            strength = 0.05 * (1 + math.hypot(a, b)) ** 1.1 * (1.5 if row else 1.0)
            rows.append(colours[row, :, None, None] * (strength * wave / wave.norm()))
    with torch.no_grad():
        encoder.patch_embed.proj.weight.copy_(torch.stack(rows))
        encoder.patch_embed.proj.bias.zero_()
        where = (torch.arange(CELLS) + 0.5) / CELLS
        waves = torch.cat(
            [f(math.pi * n * where)[:, None] for n in range(1, width // 8 + 1) for f in (torch.sin, torch.cos)], 1
        )
        half = waves.shape[1]
        encoder.pos_embed[..., :half] = 0.3 * waves[None, :, None]
        encoder.pos_embed[..., half : 2 * half] = 0.3 * waves[None, None]
        for block in encoder.blocks:
            block.attn.proj.weight.mul_(0.3)
            block.mlp.lin2.weight.mul_(0.3)
        for layer in sam.mask_decoder.transformer.layers:
            for look in (layer.cross_attn_token_to_image, layer.cross_attn_image_to_token):
                frequencies = SHAPE.channels // 2
                kept = torch.arange(0, frequencies, 2)
                sines = torch.zeros_like(look.q_proj.weight)
                sines[torch.arange(len(kept)) * 2, kept] = 1.5
                sines[torch.arange(len(kept)) * 2 + 1, kept + frequencies] = 1.5
                look.q_proj.weight.copy_(sines)
                look.k_proj.weight.copy_(sines)
    return sam


class Muon:
    """Orthogonalised momentum for matrices (Jordan et al. 2024), all matrices of one shape in one product."""

    def __init__(self, parameters: list[nn.Parameter], momentum: float = 0.95, decay: float = 0.05) -> None:
        self.groups: dict[tuple[int, ...], list[nn.Parameter]] = {}
        for parameter in parameters:
            self.groups.setdefault(tuple(parameter.shape), []).append(parameter)
        self.memory = {shape: torch.zeros(len(group), *shape) for shape, group in self.groups.items()}
        self.momentum, self.decay = momentum, decay

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for shape, group in self.groups.items():
            slope = torch.stack([parameter.grad for parameter in group])
            memory = self.memory[shape].lerp_(slope, 1 - self.momentum)
            x = slope.lerp(memory, self.momentum)
            flat = shape[0] > shape[1]
            x = x.transpose(1, 2) if flat else x
            x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
            for _ in range(5):  # Newton-Schulz: singular values go to about one
                gram = x @ x.transpose(1, 2)
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            x = x.transpose(1, 2) if flat else x
            size = rate * 0.2 * max(shape) ** 0.5  # steps as large as AdamW's usually are
            for parameter, move in zip(group, x, strict=True):
                parameter.mul_(1 - rate * self.decay).add_(move, alpha=-size)


def prompts_of(points: Tensor, boxes: Tensor, many: bool, alone: float = 0.3) -> tuple[Tensor, Tensor, Tensor]:
    """(points (B, 2M, T, 2), labels (B, 2M, T), weight of the first mask (B, 2M)): M of points, then M of boxes.

    ``alone`` is that weight after a single point, which does not say which of several masks is meant.
    """
    corners, place, sort = boxes.unflatten(-1, (2, 2)), points[..., :2], points[..., 2]
    two_three = torch.tensor([2.0, 3.0]).expand(*boxes.shape[:2], -1)
    none = torch.full_like(sort[..., :1], -1)
    nowhere = torch.zeros_like(place[:, :, :1])
    if many:
        where = torch.cat([torch.cat([place, nowhere], 2), torch.cat([place[:, :, 1:], corners], 2)], 1)
        what = torch.cat([torch.cat([sort, none], 2), torch.cat([sort[..., 1:], two_three], 2)], 1)
    else:
        where = torch.cat([torch.cat([place[:, :, :1], nowhere], 2), corners], 1)
        what = torch.cat([torch.cat([sort[..., :1], none], 2), two_three], 1)
    single = torch.ones(what.shape[:2])
    if not many:
        single[:, : boxes.shape[1]] = alone
    return where, what, single


def corrected(where: Tensor, what: Tensor, logits: Tensor, target: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """One more point where the answer is wrong, in the first place: (points, labels) with T + 1 columns."""
    wrong = ((logits > 0) != (target > 0.5)).float().flatten(0, 1) + 1e-6
    at = torch.multinomial(wrong, 1)[:, 0].view(target.shape[:2])
    sort = (target.gather(2, at[..., None]) > 0.5).to(what.dtype)
    return torch.cat([centres[at][:, :, None], where], 2), torch.cat([sort, what], 2)


def losses(
    sam: Any, batch: list[Tensor], dice: float, alone: float, autocast: bool, parts: dict[str, Any]
) -> tuple[Tensor, dict[str, float]]:
    """(the loss of a batch, IoUs reached); ``dice`` in 0..1 chooses one prompt, two, or one and a correction."""
    pixels, targets, points, boxes = batch
    many = 0.6 <= dice < 0.8
    where, what, single = prompts_of(points, boxes, many, alone)
    target = (targets.flatten(2).repeat(1, 2, 1) / 255).to(torch.bfloat16 if autocast else torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        image = parts["encode"](sam.image_encoder, pixels)
        image = image.to(torch.bfloat16) if autocast else image
        found = parts["decode"](sam, image, embed_prompts(sam.prompt_encoder, where, what))
        loss, reached, best = parts["loss_of"](*found, target, single)
        if dice >= 0.8:
            with torch.no_grad():
                row = best * (what[..., 0] < 2)  # a box means the first mask
                weights = found[1].gather(2, row[..., None, None].expand(-1, -1, 1, found[1].shape[-1]))
                logits = (found[0] @ weights.transpose(-1, -2))[..., 0].float()
            where, what = corrected(where, what, logits, target, parts["centres"])
            dense = embed_mask(sam.prompt_encoder, logits.unflatten(-1, (-1, 16)))
            again = parts["decode"](sam, image, embed_prompts(sam.prompt_encoder, where, what), dense)
            more, _, _ = parts["loss_of"](*again, target, torch.ones_like(single))
            loss = loss + more
    point, box = reached.float().mean(0).split(boxes.shape[1])
    return loss, {"loss": float(loss.detach()), "point": float(point[:, 1].mean()), "box": float(box[:, 0].mean())}


@torch.no_grad()
def measure(sam: Any, pictures: int = 96, masks: int = 6) -> dict[str, float]:
    """Held-out pictures at a quarter of their resolution: mean IoU from a point (best of three) and from a box."""
    painter, rng = held_out_painter(5), np.random.default_rng(5)
    rows = []
    while len(rows) < pictures:
        sheet = painter.paint(SIDE)
        found = (
            asked(rng, sheet.leaves, sheet.masks[sheet.grounds :], 0, masks)
            if len(sheet.masks) > sheet.grounds
            else None
        )
        if found is not None:
            rows.append((sheet.picture, *found))
    totals = []
    for start in range(0, pictures, 16):
        pixels, targets, points, boxes = (
            torch.from_numpy(np.stack(part)) for part in zip(*rows[start : start + 16], strict=True)
        )
        where, what, _ = prompts_of(points, boxes, many=False)
        image = encode(sam.image_encoder, pixels)
        features, weights, told = decode(sam, image, embed_prompts(sam.prompt_encoder, where, what))
        reached = overlap(features @ weights.transpose(-1, -2), (targets.flatten(2).repeat(1, 2, 1) / 255))
        totals.append(torch.cat([reached, (told - reached).abs()], -1))
    point, box = torch.cat(totals).split(masks, 1)
    return {
        "point_best": round(float(point[..., 1:4].amax(-1).mean()), 4),
        "box_first": round(float(box[..., 0].mean()), 4),
        "box_best": round(float(box[..., 1:4].amax(-1).mean()), 4),
        "told_off_by": round(float(point[..., 5:].mean()), 4),
    }


def train(args: argparse.Namespace) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    sam = first_weights(args.seed)
    average = copy.deepcopy(sam)
    named = dict(sam.named_parameters())
    hidden = [value for name, value in named.items() if value.ndim == 2 and is_hidden(name)]
    inside = set(map(id, hidden))
    others = [value for value in named.values() if id(value) not in inside]
    adam = torch.optim.AdamW(others, lr=args.lr, betas=(0.9, 0.97), weight_decay=0.0, fused=True)
    muon = Muon(hidden)
    state: dict[str, Any] = {"step": 0, "seen": 0, "minutes": 0.0, "curve": []}
    path = args.out / "checkpoint.pt"
    if args.resume:
        saved = torch.load(path, weights_only=False)
        sam.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        adam.load_state_dict(saved["adam"])
        muon.memory = saved["muon"]
        state = saved["state"]
    torch.manual_seed(args.seed + state["step"])
    rng = np.random.default_rng((args.seed, state["step"]))
    parts: dict[str, Any] = {"encode": encode, "decode": decode, "loss_of": loss_of, "centres": low_centres()}
    if args.compile:
        parts |= {name: torch.compile(parts[name], dynamic=False) for name in ("encode", "decode", "loss_of")}
    loader = iter(
        torch.utils.data.DataLoader(
            Sheets(args.sheets, args.seed + state["step"], args.pictures, args.masks),
            batch_size=None, num_workers=args.workers, prefetch_factor=6 if args.workers else None,
        )
    )  # fmt: skip
    print(
        f"{sum(value.numel() for value in named.values()) / 1e6:.3f} M parameters, {len(hidden)} matrices", flush=True
    )
    now = saved_at = told_at = time.time()
    told_seen, sums = state["seen"], []
    while True:
        now, before = time.time(), now
        state["minutes"] += min(now - before, PAUSE) / 60
        done = min(1.0, state["minutes"] / args.minutes)
        rate = args.lr * min(1.0, (state["step"] + 1) / 100) * min(1.0, (1 - done) / args.fall) + 1e-6
        for group in adam.param_groups:
            group["lr"] = rate
        batch = next(loader)
        loss, told = losses(sam, batch, rng.random(), 0.3 + 0.7 * done, args.bf16, parts)
        sam.zero_grad(set_to_none=False)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(list(named.values()), 1.0)
        if torch.isfinite(norm):
            adam.step()
            muon.step(rate * args.muon)
        state["step"] += 1
        state["seen"] += len(batch[0])
        keep = min(args.keep, (1 + state["step"]) / (10 + state["step"]))
        with torch.no_grad():
            torch._foreach_lerp_(list(average.parameters()), list(sam.parameters()), 1 - keep)
        sums.append(told)
        last = done >= 1 or state["step"] == args.steps
        if state["step"] % args.tell == 0 or last:
            means = {key: round(float(np.mean([row[key] for row in sums])), 4) for key in told}
            speed = (state["seen"] - told_seen) / (time.time() - told_at)
            print(f"{state['minutes']:6.1f} min step {state['step']} {speed:.1f}/s lr {rate:.1e} {means}", flush=True)
            state["curve"].append({"minute": round(state["minutes"], 2), "seen": state["seen"], **means})
            told_at, told_seen, sums = time.time(), state["seen"], []
        if last or now - saved_at > 60 * args.every:
            state["curve"].append({"minute": round(state["minutes"], 2), "heldout": measure(average)})
            print("heldout", state["curve"][-1], flush=True)
            torch.save(
                {
                    "model": sam.state_dict(), "average": average.state_dict(), "adam": adam.state_dict(),
                    "muon": muon.memory, "state": state,
                },
                path.with_suffix(".tmp"),
            )  # fmt: skip
            path.with_suffix(".tmp").replace(path)
            saved_at = time.time()
        if last:
            return


def is_hidden(name: str) -> bool:
    """Whether a matrix maps features to features: embeddings, positions and first or last layers are none of these."""
    return any(
        part in name for part in (".blocks.", ".transformer.", "hypernetworks", "iou_prediction_head.layers.1")
    ) and ("rel_pos" not in name)


@torch.no_grad()
def calibrate(sam: Any, batches: Iterator[list[Tensor]], count: int) -> dict[str, Any]:
    """Make the averaged weights say what they mean, on ``count`` batches of painted pictures; masks stay as they are.

    Averaged weights are better than any that the IoU head has seen, and the focal loss leaves logits near 0. So each
    told IoU becomes a x + c, by least squares against the IoU reached; and logits are multiplied by the k that makes
    their sigmoids the likeliest. Mask prompts are divided by k on their way in: what the network does with them stays.
    """
    told: list[list[Tensor]] = [[], [], [], []]
    true: list[list[Tensor]] = [[], [], [], []]
    chosen, wanted = [], []
    for _ in range(count):
        pixels, targets, points, boxes = next(batches)
        where, what, _ = prompts_of(points, boxes, many=False)
        target = targets.flatten(2).repeat(1, 2, 1) / 255
        image = encode(sam.image_encoder, pixels)
        features, weights, iou = decode(sam, image, embed_prompts(sam.prompt_encoder, where, what))
        logits = features @ weights.transpose(-1, -2)
        reached = overlap(logits, target)
        for n in range(4):
            told[n].append(iou[..., n].flatten())
            true[n].append(reached[..., n].flatten())
        best = reached.argmax(-1)
        chosen.append(logits.gather(-1, best[..., None, None].expand(-1, -1, logits.shape[2], 1)).flatten()[::7])
        wanted.append(target.flatten()[::7])
    head = sam.mask_decoder.iou_prediction_head.layers[-1]
    lines = []
    for n in range(4):
        x, y = torch.cat(told[n]).double(), torch.cat(true[n]).double()
        a = float(((x - x.mean()) * (y - y.mean())).mean() / x.var(correction=0).clamp(min=1e-12))
        if a <= 0:  # it says nothing of the IoU yet: left as it is
            lines.append((1.0, 0.0))
            continue
        c = float(y.mean() - a * x.mean())
        lines.append((round(a, 4), round(c, 4)))
        head.weight[n] *= a
        head.bias[n] = a * head.bias[n] + c
    x, y = torch.cat(chosen), torch.cat(wanted)
    scales = torch.linspace(0.5, 12, 116)
    k = float(min(scales, key=lambda scale: float(F.binary_cross_entropy_with_logits(scale * x, y))))
    for network in sam.mask_decoder.output_hypernetworks_mlps:
        network.layers[-1].weight *= k
        network.layers[-1].bias *= k
    sam.prompt_encoder.mask_downscaling[0].weight /= k
    return {"told_iou": lines, "logits_times": round(k, 3)}


def export(args: argparse.Namespace) -> None:
    """Write the averaged weights of the last checkpoint, calibrated, in half precision, and how they came about."""
    from safetensors.torch import save_file

    saved = torch.load(args.out / "checkpoint.pt", weights_only=False)
    sam = build(SHAPE)
    sam.load_state_dict(saved["average"])
    calibration = calibrate(sam.eval(), iter(Sheets(args.sheets, args.seed + 10**6, 8, 6)), 60)
    print(calibration)
    weights = {name: value.half().contiguous() for name, value in sam.state_dict().items()}
    path = args.export / "sam.safetensors"
    save_file(weights, str(path), metadata={"format": "pt", "kind": "tiny"})
    path.chmod(0o644)
    digest = hashlib.sha256()
    shards = sorted(args.sheets.glob("[0-9][0-9][0-9][0-9].npy"))
    for shard in shards:
        digest.update(np.load(shard.with_suffix(".masks.npy")).tobytes())
    state = saved["state"]
    record = {
        "command": args.command, "seed": args.seed, "pictures_seen": state["seen"], "steps": state["step"],
        "minutes": round(state["minutes"], 1), "calibration": calibration,
        "sheets": len(shards) * SHEETS_IN_SHARD, "masks_sha256": digest.hexdigest(),
        "machine": f"{platform.machine()}, 2 cores, no GPU", "python": platform.python_version(),
        "torch": torch.__version__, "curve": state["curve"],
    }  # fmt: skip
    text = json.dumps(record, separators=(",", ":")).replace('{"minute"', '\n{"minute"')
    (args.export / "sam_training.json").write_text(text + "\n")
    print(f"exported step {state['step']}, {path.stat().st_size / 1e6:.2f} MB")


TASKS = {"compose": compose, "train": train, "export": export}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("--data", type=Path, help="compose: the cache that make_data.py wrote")
    parser.add_argument("--sheets", type=Path, required=True, help="folder of painted sheets")
    parser.add_argument("--shards", type=int, default=140, help=f"compose: how many, of {SHEETS_IN_SHARD} sheets")
    parser.add_argument("--out", type=Path, help="folder of the run: its checkpoint")
    parser.add_argument("--export", type=Path, help="export: the folder to write to")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--steps", type=int, default=0, help="stop after so many steps (0: by the clock alone)")
    parser.add_argument("--every", type=float, default=3, help="minutes between checkpoints")
    parser.add_argument("--tell", type=int, default=50, help="steps between lines")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--muon", type=float, default=3.0, help="the rate of Muon's steps over --lr")
    parser.add_argument("--fall", type=float, default=0.6, help="share of the run over which the rate falls to 0")
    parser.add_argument("--keep", type=float, default=0.998, help="of the averaged weights, at every step")
    parser.add_argument("--pictures", type=int, default=8, help="of a step")
    parser.add_argument("--masks", type=int, default=6, help="of a picture; each is asked for by a point and by a box")
    parser.add_argument("--workers", type=int, default=1, help="processes that vary sheets; 0: none besides this one")
    parser.add_argument("--threads", type=int, default=2, help="1 where others use the cores: barriers spin")
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--command", default="see weights/README.md", help="export: what to record as the command")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(1)
    TASKS[args.task](args)


if __name__ == "__main__":
    sys.exit(main())
