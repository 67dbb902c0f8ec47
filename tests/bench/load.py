"""What waiting costs: the same eleven blocks under every thread and wait setting, quiet and beside busy neighbours.

    PYTHONPATH=. python tests/bench/load.py [--busy 2] [--nice 0]

libgomp, which torch's wheels for Linux bring, reads its settings when it is loaded: `OMP_WAIT_POLICY`, `GOMP_SPINCOUNT`
and `OMP_NUM_THREADS` must stand in the environment before torch is imported. So each setting has a process of its own;
they sleep on a pipe and take turns, one window of a ViT-B/16 (197 tokens, float32, random weights) at a time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

SETTINGS: dict[str, dict[str, str]] = {
    "torch, as it comes": {},
    "torch, OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
    "torch, GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "torch, GOMP_SPINCOUNT=20000": {"GOMP_SPINCOUNT": "20000"},
    "torch, one thread": {"OMP_NUM_THREADS": "1"},
    "open_clip's modules, as they come": {"OVSEG_BENCH": "eager"},
    "open_clip's modules, passive": {"OVSEG_BENCH": "eager", "OMP_WAIT_POLICY": "passive"},
    "openvino": {"OVSEG_BENCH": "openvino"},
}


def work() -> None:
    """Answers every line on stdin with the seconds of one run."""
    import open_clip
    import torch

    from ovseg import runtime
    from ovseg.clip.walk import Prefix, Vit

    torch.manual_seed(0)
    model = open_clip.create_model("ViT-B-16-quickgelu", pretrained=None).eval().requires_grad_(False)
    module, tokens = Prefix(Vit(model.visual), (12,), (14, 14)), torch.randn(1, 197, 768)
    kind = os.environ.get("OVSEG_BENCH", "torch")
    run = module if kind == "eager" else runtime.prepare(module, (tokens,), runtime=kind, free=(0, 1))
    with torch.inference_mode():
        for _ in sys.stdin:
            start = time.perf_counter()
            run(tokens)
            print(time.perf_counter() - start, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--busy", type=int, default=0)
    parser.add_argument("--nice", type=int, default=0)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.work:
        return work()
    base = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    workers = {
        name: subprocess.Popen(
            [sys.executable, __file__, "--work"],
            env=base | settings,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )
        for name, settings in SETTINGS.items()
    }
    spin = ["nice", "-n", str(asked.nice), sys.executable, "-c", "while True: pass"]
    seconds: dict[str, list[float]] = {name: [] for name in SETTINGS}
    busy: list[subprocess.Popen[bytes]] = []
    try:
        for turn in range(asked.rounds + 2):
            if turn == 1:  # all are loaded and warm
                busy = [subprocess.Popen(spin) for _ in range(asked.busy)]
            for name, worker in workers.items():
                assert worker.stdin and worker.stdout
                worker.stdin.write("\n")
                took = float(worker.stdout.readline())
                if turn > 1:
                    seconds[name].append(took)
        load = Path("/proc/loadavg").read_text().split()[0] if Path("/proc/loadavg").exists() else "?"
    finally:
        for process in (*busy, *workers.values()):
            process.kill()
            process.wait()
    print(f"load {load} at the end, {asked.busy} busy neighbours (nice {asked.nice}), {asked.rounds} rounds\n")
    print("| setting | median s | best s | worst s |\n|---|---|---|---|")
    for name, took in seconds.items():
        print(f"| {name} | {statistics.median(took):.3f} | {min(took):.3f} | {max(took):.3f} |")


if __name__ == "__main__":
    main()
