"""What the tests of weights share: a web server of one's own with its troubles, and a row of the manifest for it."""

import hashlib
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ovseg import weights

BODY = bytes(range(256)) * 1200 + b"the odd end"  # 307,211 bytes: not a whole number of blocks
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass
class Host:
    """A web server of one's own: what it offers, how it misbehaves, and what it was asked."""

    url: str
    files: dict[str, Path | bytes] = field(default_factory=dict)
    drop_after: list[int] = field(default_factory=list)  # bytes before each next answer breaks off
    statuses: list[int] = field(default_factory=list)  # each next answer is this error
    ranges: bool = True
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, Range
    served: int = 0


def handler_for(host: Host) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(with_body=False)

        def do_GET(self) -> None:
            self.answer(with_body=True)

        def answer(self, with_body: bool) -> None:
            wanted = self.headers.get("Range", "")
            host.asked.append((self.command, self.path, wanted))
            if with_body and host.statuses:
                self.refuse(host.statuses.pop(0))
                return
            if self.path not in host.files:
                self.refuse(404)
                return
            offered = host.files[self.path]
            data = offered.read_bytes() if isinstance(offered, Path) else offered
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and host.ranges else 0
            if start >= len(data) > 0:
                self.refuse(416)
                return
            self.send_response(206 if wanted and host.ranges else 200)
            if wanted and host.ranges:
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - start))
            self.send_header("ETag", f'"{digest(data)}"')  # what the hub's own headers are
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            if with_body:
                rest = data[start:]
                if host.drop_after:
                    rest = rest[: host.drop_after.pop(0)]
                host.served += len(rest)
                self.wfile.write(rest)

        def refuse(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()

    return Handler


def add_row(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> weights.WeightFile:
    row = weights.WeightFile(
        **{
            "name": "stand-in",
            "source": "https",
            "location": "https://weights.example/models",
            "file": "stand_in.pth",
            "licence": "Apache-2.0",
            "what": "a stand-in",
            "bytes": len(BODY),
            "sha256": digest(BODY),
            "pickle": True,
        }
        | fields
    )
    monkeypatch.setitem(weights.MANIFEST, row.name, row)
    return row
