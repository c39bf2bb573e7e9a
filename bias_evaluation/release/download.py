"""Downloads that go on where they were cut, with nothing but the standard library.

While a transfer runs, ``<target>.partial`` holds what has come so far and ``<target>.partial.json`` what the
server said of the file: its ETag or modification date, and its size. A later run asks for the rest only where
that still holds; a file that has changed on the server starts over, so two files are never glued together.
The facts stay beside the complete file, so that fetching it again costs one byte; who needs neither removes
both.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Mapping
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


class _CutError(Exception):
    """A transfer that ended early and may be tried again."""


@dataclass(frozen=True)
class _Facts:
    """What a server says of a file."""

    url: str
    etag: str | None
    last_modified: str | None
    total: int | None

    @property
    def validator(self) -> str | None:
        """What identifies the bytes: a strong ETag, else the modification date."""
        strong = self.etag if self.etag and not self.etag.startswith("W/") else None
        return strong or self.last_modified

    def contradicts(self, other: _Facts) -> bool:
        """Whether two answers, as far as they say something, are about different files."""
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return any(mine is not None and theirs is not None and mine != theirs for mine, theirs in pairs)


class _Partial:
    """The part of a file that has come so far, and the facts beside it."""

    def __init__(self, target: Path) -> None:
        self.data = target.with_name(target.name + ".partial")
        self._facts = target.with_name(target.name + ".partial.json")
        if target.is_file():  # complete, it seems; the server is asked whether it still is
            target.replace(self.data)

    @property
    def size(self) -> int:
        """Bytes that have come so far."""
        return self.data.stat().st_size if self.data.is_file() else 0

    def begin(self, facts: _Facts) -> None:
        """Start over with an empty file."""
        self.discard()
        write_json(self._facts, asdict(facts))
        self.data.touch()

    def resumable(self, url: str) -> tuple[int, _Facts | None]:
        """Where to go on, and the facts of the part that is there; 0 where it has to be begun anew.

        At least the last byte is always asked for again, so that the server confirms the file even where it
        is all there.
        """
        try:
            facts = _Facts(**read_json(self._facts, "facts of a partial download"))
            if facts.url == url and facts.validator and self.size <= facts.total:
                return max(min(self.size, facts.total - 1), 0), facts
        except (InputError, TypeError, AttributeError):
            pass  # no facts, or damaged ones
        return 0, None

    def truncate(self, size: int) -> None:
        """Drop what comes after `size` bytes."""
        with self.data.open("rb+") as file:
            file.truncate(size)

    def discard(self) -> None:
        """Remove both files."""
        self.data.unlink(missing_ok=True)
        self._facts.unlink(missing_ok=True)


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
    """Download a file, going on with an earlier part of it.

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
        How often in a row a cut transfer is taken up without any progress.
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
    partial = _Partial(target)
    failures, best = 0, 0
    while True:
        try:
            _transfer(url, partial, target.name, max_bytes, timeout, progress)
            break
        except _CutError as cut:
            failures, best = (1, partial.size) if partial.size > best else (failures + 1, best)
            if failures >= attempts:
                raise InputError(_describe_cut(url, partial, cut)) from None
            time.sleep(pause * 2 ** (failures - 1))
    partial.data.replace(target)


def _describe_cut(url: str, partial: _Partial, cut: _CutError) -> str:
    if partial.size:
        return (
            f"{url}: the transfer was cut ({cut}) after {partial.size} bytes, which are kept; "
            f"run the same command again to go on"
        )
    partial.discard()
    return f"{url} cannot be fetched ({cut}); {_BY_HAND}"


def _transfer(url: str, partial: _Partial, name: str, max_bytes: int, timeout: float, progress: bool) -> None:
    """Make one request and write its body; raises `_CutError` where that ends early."""
    start, known = partial.resumable(url)
    headers = {"Accept-Encoding": "identity", "User-Agent": "sem-debiasing"}
    if start and known:
        headers |= {"Range": f"bytes={start}-", "If-Range": str(known.validator)}
    try:
        response = urlopen(Request(url, headers=headers), timeout=timeout)
    except HTTPError as error:
        with error:
            _refused(url, error, partial, asked_for_rest=start > 0)
    except (http.client.InvalidURL, ValueError) as error:  # spaces, letters beyond ASCII
        raise InputError(f"'{url}' is no valid address: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(_reason(error, timeout)) from None
    with response:
        start, facts = _read_answer(url, response, start, known, partial)
        _check_length(url, facts.total, max_bytes, partial)
        if start:
            partial.truncate(start)
        else:
            partial.begin(facts)
        _write_body(response, partial, start, facts.total, name, max_bytes, timeout, progress)
    if facts.total is not None and partial.size != facts.total:
        raise _CutError(f"the connection closed early, {partial.size} of {facts.total} bytes")


def _reason(error: Exception, timeout: float) -> str:
    """Say in a few words what went wrong with a connection."""
    if isinstance(error, URLError) and isinstance(error.reason, Exception):
        error = error.reason
    if isinstance(error, TimeoutError):
        return f"no answer for {timeout:g} s"
    return str(error) or type(error).__name__


def _refused(url: str, error: HTTPError, partial: _Partial, *, asked_for_rest: bool) -> None:
    """Raise for an answer that is no file."""
    if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and asked_for_rest:
        partial.discard()
        raise _CutError("the file has changed on the server") from None
    if error.code >= 500 or error.code == http.client.TOO_MANY_REQUESTS:
        raise _CutError(f"the server answers {error.code} {error.reason}") from None
    partial.discard()
    raise InputError(f"{url}: the server answers {error.code} {error.reason}; {_BY_HAND}") from None


def _read_answer(
    url: str, response: http.client.HTTPResponse, start: int, known: _Facts | None, partial: _Partial
) -> tuple[int, _Facts]:
    """Where the body begins in the file, and the facts; an answer about another file discards the part."""
    if response.status != http.client.PARTIAL_CONTENT:  # the whole file: no part was asked for, or it changed
        return 0, _facts(url, response.headers, response.length)
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    total = None if match is None or match["total"] == "*" else int(match["total"])
    facts = _facts(url, response.headers, total)
    if match is None or known is None or int(match["first"]) != start or facts.contradicts(known):
        partial.discard()
        raise _CutError("the file has changed on the server")
    return start, known


def _facts(url: str, headers: Message | Mapping[str, str], total: int | None) -> _Facts:
    return _Facts(url, headers.get("ETag"), headers.get("Last-Modified"), total)


def _check_length(url: str, total: int | None, max_bytes: int, partial: _Partial) -> None:
    if total is not None and total > max_bytes:
        partial.discard()
        raise InputError(f"{url} has {total} bytes; at most {max_bytes} are allowed")


def _write_body(
    response: http.client.HTTPResponse,
    partial: _Partial,
    start: int,
    total: int | None,
    name: str,
    max_bytes: int,
    timeout: float,
    progress: bool,
) -> None:
    """Append the body to the part that is there; what has come before an error stays."""
    size = start
    with (
        errors_named(partial.data),
        partial.data.open("ab") as file,
        tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, disable=not progress) as bar,
    ):
        while chunk := _read(response, timeout):
            size += len(chunk)
            if size > max_bytes:
                break
            file.write(chunk)
            bar.update(len(chunk))
    if size > max_bytes:  # of a file whose length the server did not say
        partial.discard()
        raise InputError(f"{response.url} sends more than the {max_bytes} bytes that are allowed")


def _read(response: http.client.HTTPResponse, timeout: float) -> bytes:
    """Read what is there; errors of the connection, unlike those of the disk, may be tried again."""
    try:
        return response.read1(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(_reason(error, timeout)) from None
