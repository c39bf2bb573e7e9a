"""A server on the loopback interface that can misbehave in every way we know of; a published checkout."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.release_files import FILES, OTHERS, put

from bias_evaluation.release import download as release_download

_sleep = time.sleep  # the fixture replaces the one that downloads use
BODY = bytes(range(256)) * 2000  # 512,000 bytes


@dataclass
class Served:
    """A file on the server, and how the server treats it."""

    body: bytes
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True  # honours Range
    if_range: bool = True  # honours If-Range
    length: int | None = -1  # declared length of a full answer; -1: the true one, None: none is declared
    cuts: list[int] = field(default_factory=list)  # bytes after which the coming connections are closed
    statuses: list[int] = field(default_factory=list)  # of the coming answers
    location: str = ""
    stall: float = 0.0  # seconds before the body
    slow: bool = False  # sends pieces, with pauses


class Server:
    """An HTTP server in a thread; `files` may be changed between requests."""

    def __init__(self) -> None:
        self.files: dict[str, Served] = {}
        self.requests: list[dict[str, str]] = []
        self.sent = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def serve(self, path: str = "/file.zip", body: bytes = BODY, **options: Any) -> Served:
        """Put a file onto the server, in place of one that is there."""
        self.files[path] = Served(body, **options)
        return self.files[path]

    def url(self, path: str = "/file.zip") -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}{path}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                server.requests.append(dict(self.headers))
                served = server.files.get(self.path)
                status = 404 if served is None else served.statuses.pop(0) if served.statuses else 200
                if served is None or status != 200:
                    self.send_response(status)
                    if served is not None and served.location:
                        self.send_header("Location", served.location)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.answer(served)

            def answer(self, served: Served) -> None:
                start, total = self.start(served), len(served.body)
                if start >= total > 0:
                    self.send_response(416)
                    self.send_header("Content-Range", f"bytes */{total}")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                for name, value in (("ETag", served.etag), ("Last-Modified", served.last_modified)):
                    if value:
                        self.send_header(name, value)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
                    self.send_header("Content-Length", str(total - start))
                elif served.length is not None:
                    self.send_header("Content-Length", str(total if served.length == -1 else served.length))
                self.end_headers()
                self.close_connection = True
                part = served.body[start:]
                part = part[: served.cuts.pop(0)] if served.cuts else part
                _sleep(served.stall)
                server.sent += len(part)
                for position in range(0, len(part), 4096) if served.slow else ():
                    self.wfile.write(part[position : position + 4096])
                    _sleep(0.02)
                if not served.slow:
                    self.wfile.write(part)

            def start(self, served: Served) -> int:
                wanted = self.headers.get("Range")
                if not wanted or not served.ranges:
                    return 0
                known = self.headers.get("If-Range")
                if served.if_range and known not in (None, served.etag, served.last_modified):
                    return 0
                return int(wanted.removeprefix("bytes=").removesuffix("-"))

        return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve `/file.zip`, 512,000 bytes; pauses between attempts are left out."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(release_download.time, "sleep", lambda _: None)
    server = Server()
    server.serve()
    yield server
    server.close()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Folder of the files that the release has."""
    for name, (content, _) in FILES.items():
        put(tmp_path / "checkout" / name, content)
    for name, text in OTHERS.items():
        put(tmp_path / "checkout" / name, text)
    return tmp_path / "checkout"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return an empty project."""
    (tmp_path / "project").mkdir()
    return tmp_path / "project"
