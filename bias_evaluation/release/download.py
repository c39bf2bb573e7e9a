"""Downloads that are resumed after a cut, with nothing but the standard library.

While a transfer runs, ``<target>.partial`` holds what has come so far and ``<target>.partial.json`` what the
server said about the file: its ETag or modification date, and its size. A later run asks for the rest only if
that still holds. A file that has changed on the server starts over, so two files are never glued together.
The facts stay beside the complete file, so that fetching it again costs one byte; who needs neither removes
both.

`pooch` does not resume: a cut transfer starts again from its first byte, and a stream without an end fills
the disk.
"""

from __future__ import annotations

import http.client
import re
import time
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from safe_io.errors import InputError
from safe_io.files import errors_named, read_json, write_json

_CHUNK_BYTES = 1 << 18
_CONTENT_RANGE = re.compile(r"bytes (?P<first>\d+)-\d+/(?P<total>\d+|\*)")
_BY_HAND = "check the address, or download the file by hand and give it with --source NAME=FILE"
_CHANGED = "the file has changed on the server"


class _CutError(Exception):
    """A transfer that ended early and may be tried again."""


@dataclass(frozen=True)
class _Facts:
    """What a server says about a file; `validator` identifies its bytes: a strong ETag, else the date."""

    url: str
    validator: str | None
    total: int | None

    @classmethod
    def read(cls, url: str, headers: Message, total: int | None) -> _Facts:
        etag = headers.get("ETag")
        strong = etag if etag and not etag.startswith("W/") else None
        return cls(url, strong or headers.get("Last-Modified"), total)

    def contradicts(self, other: _Facts) -> bool:
        """Whether two answers, as far as they say something, are about different files."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return any(None not in pair and pair[0] != pair[1] for pair in pairs)


def is_address(text: str) -> bool:
    """Whether a text is an ``http://`` or ``https://`` address with a host."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        return False


def fetch(
    url: str,
    target: Path,
    *,
    max_bytes: int,
    timeout: float = 30.0,
    attempts: int = 4,
    pause: float = 1.0,
    progress: bool = True,
) -> None:
    """Download a file, or the rest of one that was cut off.

    Parameters
    ----------
    url : str
        ``http://`` or ``https://`` address.
    target : pathlib.Path
        Final name; it appears when all bytes are there. Its folder must exist. A file that is there already
        is taken for an earlier download.
    max_bytes : int
        Larger files are refused.
    timeout : float
        Seconds to wait for a connection, and for each piece.
    attempts : int
        How often in a row a cut transfer is resumed without any progress.
    pause : float
        Seconds before the second attempt; each further pause is twice as long.
    progress : bool
        Show a progress bar.

    Raises
    ------
    InputError
        The address is wrong, the server refuses, or the file is too large; then nothing is left. Or the
        connection fails; then the part that has come is left beside `target`, for the next run.
    """
    if not is_address(url):
        raise InputError(f"'{url}' is no http:// or https:// address")
    download = _Download(url, target, max_bytes, timeout, progress)
    failures, best = 0, 0
    while True:
        try:
            download.transfer()
            break
        except _CutError as cut:
            failures, best = (1, download.size) if download.size > best else (failures + 1, best)
            if failures >= attempts:
                raise InputError(download.describe(cut)) from None
            time.sleep(pause * 2 ** (failures - 1))
    download.data.replace(target)


class _Download:
    """One file: the part that has come so far, the facts beside it, and requests for the rest."""

    def __init__(self, url: str, target: Path, max_bytes: int, timeout: float, progress: bool) -> None:
        self.data = target.with_name(target.name + ".partial")
        self._facts = target.with_name(target.name + ".partial.json")
        self._url, self._max_bytes, self._timeout = url, max_bytes, timeout
        self._bar = {"desc": target.name, "unit": "B", "unit_scale": True, "disable": not progress}
        if target.is_file():  # complete, it seems; the server is asked whether it still is
            target.replace(self.data)

    @property
    def size(self) -> int:
        """Bytes that have come so far."""
        return self.data.stat().st_size if self.data.is_file() else 0

    def describe(self, cut: _CutError) -> str:
        """Say what is left of a transfer that was cut, and what to do."""
        if self.size:
            return (
                f"{self._url}: the transfer was cut ({cut}) after {self.size} bytes, which are kept; "
                f"run the same command again to continue"
            )
        self._discard()
        return f"{self._url} cannot be fetched ({cut}); {_BY_HAND}"

    def transfer(self) -> None:
        """Make one request and write its body; raises `_CutError` if that ends early."""
        start, known = self._resumable()
        headers = {"Accept-Encoding": "identity", "User-Agent": "sem-debiasing"}
        if start and known:
            headers |= {"Range": f"bytes={start}-", "If-Range": str(known.validator)}
        try:
            response = urlopen(Request(self._url, headers=headers), timeout=self._timeout)
        except HTTPError as error:
            with error:
                self._refused(error, asked_for_rest=start > 0)
        except (http.client.InvalidURL, ValueError) as error:  # spaces, letters beyond ASCII
            raise InputError(f"'{self._url}' is no valid address: {error}") from None
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(self._reason(error)) from None
        with response:
            start, total = self._begin(response, start, known)
            self._write(response, start, total)
        if total is not None and self.size != total:
            raise _CutError(f"the connection closed early, {self.size} of {total} bytes")

    def _resumable(self) -> tuple[int, _Facts | None]:
        """Return where to continue, and the facts of the part; 0 if it has to be fetched from the beginning.

        At least the last byte is always asked for again, so that the server confirms a complete file too.
        """
        try:
            facts = _Facts(**read_json(self._facts, "facts of a partial download"))
            if facts.url == self._url and facts.validator and self.size <= facts.total:
                return max(min(self.size, facts.total - 1), 0), facts
        except (InputError, TypeError, AttributeError):
            pass  # no facts, or damaged ones
        return 0, None

    def _discard(self) -> None:
        self.data.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)

    def _reason(self, error: Exception) -> str:
        """Say in a few words what went wrong with a connection."""
        if isinstance(error, URLError) and isinstance(error.reason, Exception):
            error = error.reason
        if isinstance(error, TimeoutError):
            return f"no answer for {self._timeout:g} s"
        return str(error) or type(error).__name__

    def _refused(self, error: HTTPError, *, asked_for_rest: bool) -> None:
        """Raise for an answer that is no file."""
        answer = f"the server answers {error.code} {error.reason}"
        if error.code >= 500 or error.code == http.client.TOO_MANY_REQUESTS:
            raise _CutError(answer) from None
        self._discard()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and asked_for_rest:
            raise _CutError(_CHANGED) from None
        raise InputError(f"{self._url}: {answer}; {_BY_HAND}") from None

    def _begin(
        self, response: http.client.HTTPResponse, start: int, known: _Facts | None
    ) -> tuple[int, int | None]:
        """Prepare the part for a body; returns the body's place in the file, and the size of the file."""
        if response.status == http.client.PARTIAL_CONTENT:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            total = None if match is None or match["total"] == "*" else int(match["total"])
            facts = _Facts.read(self._url, response.headers, total)
            if match is None or known is None or int(match["first"]) != start or facts.contradicts(known):
                self._discard()
                raise _CutError(_CHANGED)
            facts = known
        else:  # the whole file: no part was asked for, or it has changed
            start, facts = 0, _Facts.read(self._url, response.headers, response.length)
        if facts.total is not None and facts.total > self._max_bytes:
            self._discard()
            raise InputError(f"{self._url} has {facts.total} bytes; at most {self._max_bytes} are allowed")
        if start:
            with self.data.open("rb+") as file:
                file.truncate(start)
        else:
            self._discard()
            write_json(self._facts, asdict(facts))
            self.data.touch()
        return start, facts.total

    def _write(self, response: http.client.HTTPResponse, start: int, total: int | None) -> None:
        """Append the body to the part; what has come before an error stays."""
        size = start
        with (
            errors_named(self.data),
            self.data.open("ab") as file,
            tqdm(total=total, initial=start, **self._bar) as bar,
        ):
            while size <= self._max_bytes and (chunk := self._read(response)):
                size += len(chunk)
                file.write(chunk)
                bar.update(len(chunk))
        if size > self._max_bytes:  # of a file whose length the server did not say
            self._discard()
            raise InputError(f"{response.url} sends more than the {self._max_bytes} bytes that are allowed")

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """Read what has come; errors of the connection, unlike those of the disk, may be tried again."""
        try:
            return response.read1(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise _CutError(self._reason(error)) from None
