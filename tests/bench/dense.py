"""Dense encode of one picture by every runtime against a plain loop over open_clip, same windows, same outputs.

    PYTHONPATH=. python tests/bench/dense.py             # as the machine is
    PYTHONPATH=. python tests/bench/dense.py --busy 2    # beside two processes that never rest

A 640x480 picture, short side 336, windows of 224 px every 112 (six), ViT-B/16 with QuickGELU and random weights,
SCLIP's last block. The loop does what released programs do: one forward a window, attention of the last block written
out. What they do next, one up-sampled canvas of scores a window, is timed apart. Candidates take turns in every round;
the ratio is the median of the rounds' ratios, since a shared machine changes from one round to the next. "Same argmax"
is the share of cells whose best of 150 random rows is the loop's. Nothing is asserted.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg import runtime
from ovseg.clip import dense
from ovseg.clip.load import wrap
from ovseg.clip.walk import resampled

CROP, STRIDE, ROWS = 224, 112, 150
PAIRS = [(name, precision) for name in runtime.RUNTIMES for precision in runtime.PRECISIONS]
READING = {
    pair: dense.Reading("sclip", "paper", 336, CROP, STRIDE, runtime=pair[0], precision=pair[1]) for pair in PAIRS
}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.add_(0.01 * torch.randn_like(parameter))
    return model


@torch.no_grad()
def loop(tower: torch.nn.Module, canvas: Tensor, places: list[tuple[int, int]]) -> Tensor:
    """Unit cells of each window (n, dim, rows, cols), the plain way."""
    out = []
    for top, left in places:
        pixels = canvas[None, :, top : top + CROP, left : left + CROP]
        patches = tower.conv1(pixels)
        rows, cols = patches.shape[2:]
        patches = patches.flatten(2).mT
        tokens = torch.cat([tower.class_embedding.expand(1, 1, -1), patches], dim=1)
        tokens = tower.ln_pre(tokens + resampled(tower.positional_embedding, 1, (14, 14), (rows, cols), "scale01"))
        for block in tower.transformer.resblocks[:-1]:
            tokens = block(tokens)
        last = tower.transformer.resblocks[-1]
        attention = last.attn
        qkv = F.linear(last.ln_1(tokens), attention.in_proj_weight, attention.in_proj_bias)
        q, k, v = (side.view(-1, 12, 64).transpose(0, 1) for side in qkv[0].chunk(3, dim=-1))
        weights = (q @ q.mT * 64**-0.5).softmax(-1) + (k @ k.mT * 64**-0.5).softmax(-1)
        mixed = (weights @ v).transpose(0, 1).reshape(1, -1, 768)
        tokens = tokens + attention.out_proj(mixed)
        tokens = tokens + last.mlp(last.ln_2(tokens))
        cells = F.normalize(tower.ln_post(tokens)[0, 1:] @ tower.proj, dim=-1)
        out.append(cells.mT.reshape(-1, rows, cols))
    return torch.stack(out)


@torch.no_grad()
def canvases(cells: Tensor, texts: Tensor, size: tuple[int, int], places: list[tuple[int, int]]) -> Tensor:
    """Scores of each window up-sampled to its pixels, padded to the canvas and averaged."""
    height, width = size
    total, count = torch.zeros(1, len(texts), height, width), torch.zeros(1, 1, height, width)
    for window, (top, left) in zip(cells, places, strict=True):
        scores = torch.einsum("kd,dhw->khw", texts, window)[None]
        up = F.interpolate(scores, size=(CROP, CROP), mode="bilinear")
        total += F.pad(up, (left, width - left - CROP, top, height - top - CROP))
        count[:, :, top : top + CROP, left : left + CROP] += 1
    return total / count


def peaks() -> dict[str, Callable[[], object]]:
    tokens, weight = torch.randn(788, 768), torch.randn(3072, 768)
    halves = tokens.bfloat16(), weight.bfloat16()
    return {
        "float32, torch's default": lambda: F.linear(tokens, weight),
        "float32, oneDNN": lambda: runtime.onednn_linear(tokens, weight),
        "bfloat16": lambda: F.linear(*halves),
    }


def flops(windows: int, tokens: int = 197, width: int = 768, blocks: int = 12) -> float:
    return windows * (blocks * (24 * tokens * width**2 + 4 * tokens**2 * width) + 2 * 196 * width * width)


def timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--busy", type=int, default=0, help="processes that never rest, started beside the measurement")
    parser.add_argument("--nice", type=int, default=0, help="niceness of those")
    parser.add_argument("--threads", type=int, default=0)
    asked = parser.parse_args()
    if asked.threads:
        torch.set_num_threads(asked.threads)
    model = network()
    picture = np.random.default_rng(0).integers(0, 256, (480, 640, 3)).astype(np.uint8)
    clip = wrap(model, None)
    folder = os.environ.get("OVSEG_BENCH_CACHE")
    cache = Path(folder) if folder else None
    candidates: dict[str, Callable[[], object]] = {}
    started = {}
    for pair in PAIRS:
        start = time.perf_counter()
        dense.encode(clip, [picture], READING[pair], cache=cache)
        started[pair] = time.perf_counter() - start
    kept = {pair: dense.encode(clip, [picture], READING[pair])[0].windows for pair in PAIRS}
    first = kept[PAIRS[0]]
    assert first is not None
    places = list(zip(first.tops.tolist(), first.lefts.tolist(), strict=True))
    canvas = dense.normalised(clip, dense.images.resize(picture, *first.canvas, kind="bilinear"))
    texts = F.normalize(torch.randn(ROWS, 512), dim=-1)
    wanted = loop(model.visual, canvas, places)

    busy = [subprocess.Popen(["nice", "-n", str(asked.nice), sys.executable, "-c", "while True: pass"])
            for _ in range(asked.busy)]  # fmt: skip
    try:
        candidates["loop over open_clip"] = lambda: loop(model.visual, canvas, places)
        for pair in PAIRS:
            candidates[", ".join(pair)] = lambda pair=pair: dense.encode(clip, [picture], READING[pair])
        candidates["(its canvases, 150 rows)"] = lambda: canvases(wanted, texts, first.canvas, places)
        gemms = peaks()
        seconds: dict[str, list[float]] = {name: [] for name in (*candidates, *gemms)}
        before = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "?"
        for turn in range(asked.rounds + 1):
            for name, call in (candidates | gemms).items():
                took = min(timed(call) for _ in range(5)) if name in gemms else timed(call)
                if turn:  # the first round warms up
                    seconds[name].append(took)
    finally:
        for process in busy:
            process.kill()
            process.wait()

    rate = {name: 2 * 788 * 768 * 3072 / statistics.median(seconds[name]) / 1e9 for name in gemms}
    policy = os.environ.get("OMP_WAIT_POLICY", "not set")
    print(f"{len(places)} windows, {asked.rounds} rounds, {torch.get_num_threads()} threads, OMP_WAIT_POLICY {policy}, "
          f"load {before}, busy neighbours {asked.busy} (nice {asked.nice})")  # fmt: skip
    print("GEMM peak, GFLOP/s: " + "; ".join(f"{name} {value:.0f}" for name, value in rate.items()))
    columns = "encode, median s, best s, ratio, GFLOP/s, of its peak, max diff, min cosine, same argmax, start s"
    print(f"\n| {columns.replace(', ', ' | ')} |\n{'|---' * 10}|")
    base = seconds["loop over open_clip"]
    best = {"float32": max(list(rate.values())[:2]), "bfloat16": rate["bfloat16"]}
    for name in candidates:
        took = statistics.median(seconds[name])
        ratio = statistics.median(one / other for one, other in zip(base, seconds[name], strict=True))
        speed, row = flops(len(places)) / took / 1e9, f"| {name} | {took:.3f} | {min(seconds[name]):.3f} |"
        if name.startswith("("):
            print(f"{row} | | | | | | |")
            continue
        pair = tuple(name.split(", "))
        share = speed / best.get(pair[-1], best["float32"])
        row += f" {ratio:.2f} | {speed:.0f} | {share:.0%} |"
        if pair in kept:
            windows = kept[pair]
            assert windows is not None
            found = torch.from_numpy(windows.vectors)
            cosine = (found * wanted).sum(1).min()
            labels = [torch.einsum("kd,ndhw->nkhw", texts, cells).argmax(1) for cells in (found, wanted)]
            same = (labels[0] == labels[1]).float().mean()
            row += f" {(found - wanted).abs().max():.1e} | {cosine:.6f} | {same:.2%} | {started[pair]:.1f} |"
        else:
            row += " | | | |"
        print(row)


if __name__ == "__main__":
    main()
