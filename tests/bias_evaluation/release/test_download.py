"""Downloads against a server on the loopback interface that can misbehave in every way we know of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bias_evaluation.release.download import fetch
from safe_io.errors import InputError

BODY = bytes(range(256)) * 2000  # what the server has at first: 512,000 bytes
MANY = 1 << 30


def get(server: Any, target: Path, **options: object) -> None:
    settings = {"max_bytes": MANY, "timeout": 5.0, "progress": False, "attempts": 1}
    fetch(server.url(), target, **(settings | options))


def failure(server: Any, target: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        get(server, target, **options)
    assert "\n" not in str(caught.value)
    assert not target.exists()
    return str(caught.value)


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


PARTIAL = ["file.zip.partial", "file.zip.partial.json"]


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "file.zip"


# --- going on -----------------------------------------------------------------------------------------------


def test_a_whole_file(server: Any, target: Path) -> None:
    get(server, target)
    assert target.read_bytes() == BODY
    assert left(target.parent) == ["file.zip", "file.zip.partial.json"]
    assert "Range" not in server.requests[0]
    assert server.requests[0]["Accept-Encoding"] == "identity"


def test_a_cut_transfer_is_kept_and_the_next_run_goes_on(server: Any, target: Path) -> None:
    server.files["/file.zip"].cuts = [300_000]
    message = failure(server, target)
    assert "closed early, 300000 of 512000 bytes" in message
    assert "run the same command again to continue" in message
    assert left(target.parent) == PARTIAL
    assert (target.parent / PARTIAL[0]).read_bytes() == BODY[:300_000]
    get(server, target)
    assert target.read_bytes() == BODY
    assert server.requests[1]["Range"] == "bytes=300000-"
    assert server.requests[1]["If-Range"] == '"one"'
    assert server.sent == len(BODY)


def test_one_run_takes_a_cut_transfer_up_again(server: Any, target: Path) -> None:
    server.files["/file.zip"].cuts = [100_000, 1, 0, 200_000]
    get(server, target, attempts=3)
    assert target.read_bytes() == BODY
    ranges = [request.get("Range") for request in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=100001-", "bytes=100001-", "bytes=300001-"]


def test_it_gives_up_where_nothing_more_comes(server: Any, target: Path) -> None:
    server.files["/file.zip"].cuts = [100_000, 0, 0, 0, 0, 0]
    assert "after 100000 bytes, which are kept" in failure(server, target, attempts=3)
    assert len(server.requests) == 3


def test_a_server_that_always_sends_the_same_piece_does_not_hold_us(server: Any, target: Path) -> None:
    server.files["/file.zip"].cuts = [1000, 500] * 50
    server.files["/file.zip"].ranges = False
    failure(server, target, attempts=4)
    assert len(server.requests) <= 5


def test_a_server_that_ignores_ranges_sends_everything_again(server: Any, target: Path) -> None:
    server.files["/file.zip"].cuts = [300_000]
    server.files["/file.zip"].ranges = False
    failure(server, target)
    get(server, target)
    assert server.requests[1]["Range"] == "bytes=300000-"
    assert target.read_bytes() == BODY


@pytest.mark.parametrize("if_range", [True, False])
def test_a_changed_file_is_not_glued_to_the_old_part(server: Any, target: Path, if_range: bool) -> None:
    server.files["/file.zip"].cuts = [300_000]
    failure(server, target)
    changed = BODY[::-1]
    server.serve(body=changed, etag='"two"', if_range=if_range)
    get(server, target, attempts=2)
    assert target.read_bytes() == changed
    assert len(server.requests) == (2 if if_range else 3)


def test_another_size_under_the_same_tag_is_a_changed_file(server: Any, target: Path) -> None:
    server.files["/file.zip"].cuts = [300_000]
    failure(server, target)
    server.files["/file.zip"].body = BODY + b"more"
    get(server, target, attempts=2)
    assert target.read_bytes() == BODY + b"more"
    assert "Range" not in server.requests[2]


def test_a_file_that_has_become_shorter_than_the_part(server: Any, target: Path) -> None:
    server.files["/file.zip"].cuts = [300_000]
    failure(server, target)
    server.files["/file.zip"].body = b"short"
    get(server, target, attempts=2)
    assert target.read_bytes() == b"short"


@pytest.mark.parametrize(
    ("etag", "last_modified", "validator"),
    [
        (None, None, None),
        ('W/"weak"', None, None),
        ('W/"weak"', "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"),
        (None, "Wed, 21 Oct 2015 07:28:00 GMT", "Wed, 21 Oct 2015 07:28:00 GMT"),
        ('"strong"', "Wed, 21 Oct 2015 07:28:00 GMT", '"strong"'),
    ],
)
def test_it_goes_on_only_with_something_that_identifies_the_file(
    server: Any, target: Path, etag: str | None, last_modified: str | None, validator: str | None
) -> None:
    server.serve(etag=etag, last_modified=last_modified, cuts=[300_000])
    failure(server, target)
    get(server, target)
    assert target.read_bytes() == BODY
    assert server.requests[1].get("If-Range") == validator
    assert ("Range" in server.requests[1]) == (validator is not None)


def test_a_complete_file_costs_one_byte(server: Any, target: Path) -> None:
    get(server, target)
    get(server, target)
    assert target.read_bytes() == BODY
    assert server.requests[1]["Range"] == f"bytes={len(BODY) - 1}-"
    assert server.sent == len(BODY) + 1


@pytest.mark.parametrize(
    "facts", ["", "{", "[]", '{"url": 1}', '{"url": "x", "etag": null, "last_modified": null, "total": null}']
)
def test_a_part_without_proper_facts_is_begun_anew(server: Any, target: Path, facts: str) -> None:
    (target.parent / PARTIAL[0]).write_bytes(b"of something else")
    (target.parent / PARTIAL[1]).write_text(facts)
    get(server, target)
    assert target.read_bytes() == BODY
    assert "Range" not in server.requests[0]


def test_a_part_of_another_address_is_begun_anew(server: Any, target: Path) -> None:
    server.files["/file.zip"].cuts = [300_000]
    failure(server, target)
    server.serve("/other.zip", b"other content")
    fetch(server.url("/other.zip"), target, max_bytes=MANY, progress=False)
    assert target.read_bytes() == b"other content"


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server: Any, target: Path) -> None:
    server.files["/file.zip"].cuts = [300_000]
    failure(server, target)
    (target.parent / PARTIAL[0]).write_bytes(bytes(len(BODY) + 1))
    get(server, target)
    assert target.read_bytes() == BODY


def test_a_file_without_a_stated_length(server: Any, target: Path) -> None:
    server.files["/file.zip"].length = None
    get(server, target)
    assert target.read_bytes() == BODY


def test_an_empty_file(server: Any, target: Path) -> None:
    server.files["/file.zip"].body = b""
    get(server, target)
    get(server, target)
    assert target.read_bytes() == b""


def test_a_redirect(server: Any, target: Path) -> None:
    server.serve(statuses=[302], location="/elsewhere.zip")
    server.serve("/elsewhere.zip", b"there")
    get(server, target)
    assert target.read_bytes() == b"there"


# --- giving up ----------------------------------------------------------------------------------------------


def test_a_length_that_is_too_large_is_a_cut(server: Any, target: Path) -> None:
    server.files["/file.zip"].length = len(BODY) + 10
    assert f"closed early, {len(BODY)} of {len(BODY) + 10} bytes" in failure(server, target)
    assert left(target.parent) == PARTIAL


def test_a_missing_file_leaves_nothing(server: Any, target: Path) -> None:
    del server.files["/file.zip"]
    message = failure(server, target, attempts=3)
    assert "the server answers 404 Not Found" in message
    assert "--source" in message
    assert left(target.parent) == []
    assert len(server.requests) == 1


def test_a_missing_file_removes_the_part_that_is_of_no_use_any_more(server: Any, target: Path) -> None:
    server.files["/file.zip"].cuts = [300_000]
    failure(server, target)
    del server.files["/file.zip"]
    failure(server, target)
    assert left(target.parent) == []


@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_busy_server_is_asked_again(server: Any, target: Path, status: int) -> None:
    server.files["/file.zip"].statuses = [status]
    get(server, target, attempts=2)
    assert target.read_bytes() == BODY
    server.files["/file.zip"].statuses = [status] * 9
    target.unlink()
    assert f"the server answers {status}" in failure(server, target, attempts=2)


def test_nobody_listens(server: Any, target: Path) -> None:
    server.close()
    assert "cannot be fetched ([Errno" in failure(server, target, attempts=2)
    assert left(target.parent) == []


def test_a_silent_server(server: Any, target: Path) -> None:
    server.files["/file.zip"].stall = 0.6
    assert "no answer for 0.2 s" in failure(server, target, timeout=0.2)


def test_a_file_that_is_too_large(server: Any, target: Path) -> None:
    message = failure(server, target, max_bytes=len(BODY) - 1)
    assert f"has {len(BODY)} bytes; at most {len(BODY) - 1} are allowed" in message
    assert left(target.parent) == []


def test_a_stream_that_does_not_end(server: Any, target: Path) -> None:
    server.files["/file.zip"].length = None
    assert f"sends more than the {len(BODY) - 1} bytes" in failure(server, target, max_bytes=len(BODY) - 1)
    assert left(target.parent) == []


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1/x", "file:///etc/passwd", "http://", "http://127.0.0.1/a b", "x.zip", "http://[::1/x"],
)
def test_bad_addresses(target: Path, url: str) -> None:
    with pytest.raises(InputError, match="is no"):
        fetch(url, target, max_bytes=MANY, attempts=1, progress=False)
    assert left(target.parent) == []
