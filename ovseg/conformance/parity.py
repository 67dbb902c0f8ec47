"""What the authors' programs computed on stored inputs, against what is computed here: every method, every input.

The stored data (a folder with `manifest.json`, a seeded random tower, inputs, one file of outputs a program) is no part
of an installation: `folder` finds it where it is. `programs.PROGRAMS` says how each stored tensor is computed here. A
program, or a tensor of one, that nothing here computes is "not covered", by name.
"""

import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ovseg.conformance.programs import PROGRAMS, Golden
from ovseg.conformance.results import Result, number
from ovseg.errors import BadUsage

VARIABLE = "OVSEG_GOLDEN"
TOWER = "stored tower"
TOLERANCE = 1e-4  # where the manifest is silent

# stored beside the outputs for whoever recomputes them: inputs of the program, not answers
GIVEN = ("head.", "sam_", ".keys", ".features", ".regions")


def folder(given: str | Path | None = None) -> Path | None:
    """The stored data's folder: the one given, or `$OVSEG_GOLDEN`, or the one beside a checkout; None without any.

    A folder that was named and holds no manifest is an error; it is never passed over.
    """
    named = given or os.environ.get(VARIABLE)
    if named:
        place = Path(named).expanduser()
        if not (place / "manifest.json").is_file():
            raise BadUsage(f"parity data is a folder with a manifest.json: {place} has none")
        return place
    beside = Path(__file__).resolve().parents[3] / "shared" / "golden" / "dense"
    return beside if (beside / "manifest.json").is_file() else None


def parity(
    golden: str | Path, *, progress: Callable[[str, int, int], None] | None = None, programs: tuple[str, ...] = ()
) -> list[Result]:
    """One result for every stored answer: the largest absolute difference against the manifest's tolerance.

    `golden` is the folder (see `folder`); `check` is the tensor's stored name ("native", "wide", "tall", or with an
    extra's name after a dot). Whole numbers have to be equal.
    """
    opened, out = Golden(Path(golden)), []
    names = programs or tuple(opened.programs)
    for done, name in enumerate(names):
        if progress:
            progress(name, done, len(names))
        out += _compared(opened, name)
    if progress:
        progress("", len(names), len(names))
    return out


def _compared(golden: Golden, name: str) -> list[Result]:
    manifest, stored = golden.programs[name], golden.stored(name)
    answers = [key for key in stored if not any(mark in key for mark in GIVEN)]
    computed = PROGRAMS.get(name)
    if computed is None:
        why = f"{manifest['repo']} is stored, and nothing here computes it"
        return [Result(TOWER, name, key, "not covered", sentence=why) for key in answers]
    got: dict[str, Tensor] = {}
    with torch.no_grad():
        for shape in dict.fromkeys(key.partition(".")[0] for key in answers):
            found = computed(golden, shape, stored)
            got |= {f"{shape}.{extra}" if extra else shape: tensor for extra, tensor in found.items()}
    out = []
    for key in answers:
        tensor = manifest["tensors"].get(key, {})
        limit = float(tensor.get("tolerance", manifest.get("tolerance", TOLERANCE)))
        if key not in got:
            why = f"{manifest['repo']} stores it, and nothing here computes it"
            out.append(Result(TOWER, name, key, "not covered", limit=limit, sentence=why))
            continue
        apart = _largest(got[key], stored[key])
        fine, said = apart <= limit, f"{manifest['repo']} at {manifest['commit'][:7]}"
        sentence = said if fine else f"{said} differs by {number(apart)}, and {number(limit)} is allowed"
        out.append(Result(TOWER, name, key, "ok" if fine else "failed", apart, limit, sentence))
    return out


def _largest(got: Tensor, wanted: Tensor) -> float:
    if got.shape != wanted.shape:
        return float("inf")
    return float((got.double() - wanted.double()).abs().max())


__all__ = ["TOLERANCE", "TOWER", "VARIABLE", "folder", "parity"]
