"""Chunks cover all rows, in order."""

from __future__ import annotations

from debiasing_methods.chunks import ROWS, chunks


def test_chunks_are_all_rows_in_order() -> None:
    assert [(c.start, c.stop) for c in chunks(16, 7)] == [(0, 7), (7, 14), (14, 16)]
    assert [(c.start, c.stop) for c in chunks(ROWS + 1)] == [(0, ROWS), (ROWS, ROWS + 1)]
    assert list(chunks(0)) == []
