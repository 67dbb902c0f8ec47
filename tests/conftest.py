"""What every test can ask for: the parity data where it is, and the small networks of tests/tiny.py."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: spinning threads stall a shared machine

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden"


@pytest.fixture(scope="session")
def golden_dense() -> Path:
    """Folder of what the published dense programs compute; a user's checkout has none, and the test says so."""
    folder = GOLDEN / "dense"
    if not folder.is_dir():
        pytest.skip("parity data is not beside this checkout (../shared/golden/dense)")
    return folder


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees switches of the person who runs it, nor those that importing the demo's page sets."""
    for variable in ("OVSEG_WEIGHTS", "OVSEG_MIRROR", "OVSEG_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
