"""Each test of weights has a home of its own, and a host to fetch from where it asks for one."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ovseg.weights import fetch, search
from tests.weights.standins import Host, handler_for


@pytest.fixture
def host() -> Iterator[Host]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    here = Host(f"http://127.0.0.1:{server.server_address[1]}")
    server.RequestHandlerClass = handler_for(here)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield here
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees the user's files, the checkout's, or any cache; none waits."""
    for variable in ("OVSEG_WEIGHTS", "OVSEG_MIRROR", "OVSEG_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(search, "_checkout", lambda: None)
    monkeypatch.setattr(fetch, "BACKOFF_SECONDS", (0.0, 0.0))
    return tmp_path
