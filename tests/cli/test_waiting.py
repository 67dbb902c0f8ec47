"""The command line's threads wait without spinning, unless the person at the keyboard said otherwise."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def told(**environment: str) -> str:
    """What OpenMP says of its settings when torch is loaded by a command."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(
        [sys.executable, "-m", "ovseg", "check"],
        cwd=ROOT,
        env={**clean, "OMP_DISPLAY_ENV": "true", **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "openvino, float32 or bfloat16" in done.stdout  # who can compute is part of the report
    return done.stderr


def test_threads_wait_without_spinning_unless_told_otherwise() -> None:
    said = told()
    if "OMP_WAIT_POLICY" not in said:
        pytest.skip("this torch's OpenMP does not show its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in told(OMP_WAIT_POLICY="active")
