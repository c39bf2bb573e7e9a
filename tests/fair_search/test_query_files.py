"""Tables as Parquet, single or in parts; columns of lists are never taken for text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from fair_search.audit_inputs import read_metadata_rows
from fair_search.query_files import read_queries, read_table, take_column
from safe_io.errors import InputError

TABLE = pd.DataFrame({"query": ["a nurse", "a thief", "a boss"], "n": [1, 2, 3]})


def test_a_parquet_table_is_the_feather_table(tmp_path: Path) -> None:
    TABLE.to_parquet(tmp_path / "t.parquet")
    TABLE.to_feather(tmp_path / "t.feather")
    pd.testing.assert_frame_equal(
        *(read_table(tmp_path / f"t.{kind}", "t") for kind in ("parquet", "feather"))
    )
    assert read_queries(tmp_path / "t.parquet", "query") == list(TABLE["query"])


@pytest.mark.parametrize("inner", ["", "metadata"])
def test_parts_of_a_table_are_joined(tmp_path: Path, inner: str) -> None:
    folder = tmp_path / inner
    folder.mkdir(exist_ok=True)
    TABLE[2:].to_parquet(folder / "metadata_10.parquet")
    TABLE[:2].to_parquet(folder / "metadata_9.parquet")
    assert read_metadata_rows(tmp_path, 3)["query"].tolist() == list(TABLE["query"])


def test_nested_columns_are_named_if_they_are_asked_for(tmp_path: Path) -> None:
    table = TABLE.assign(vector=[[1.0], [2.0], [3.0]], info=[{"a": 1}] * 3)
    table.to_parquet(path := tmp_path / "t.parquet")
    read = read_table(path, "metadata")
    assert list(read.columns) == ["query", "n"]
    for column in ("vector", "info"):
        with pytest.raises(InputError, match=f"the column '{column}' holds lists or structures"):
            take_column(read, column, path)


def test_embeddings_of_queries_come_from_a_column_or_pytorch(tmp_path: Path) -> None:
    vectors = [[1.0, 2.0], [3.0, 4.0]]
    pd.DataFrame({"q": ["a", "b"], "vector": vectors}).to_parquet(tmp_path / "t.parquet")
    torch.save(torch.tensor(vectors), tmp_path / "t.pt")
    for name in ("t.parquet:vector", "t.pt"):
        np.testing.assert_array_equal(read_queries(tmp_path / name), np.array(vectors, np.float32))


def test_parts_with_other_columns_or_damage_are_one_line(tmp_path: Path) -> None:
    TABLE.to_parquet(tmp_path / "a_0.parquet")
    TABLE.rename(columns={"n": "m"}).to_parquet(tmp_path / "a_1.parquet")
    with pytest.raises(InputError, match=r"a_1\.parquet and a_0\.parquet differ in the column 'm'"):
        read_table(tmp_path, "metadata")
    (tmp_path / "a_1.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(InputError, match=r"cannot be read as Parquet: .*a_1\.parquet"):
        read_table(tmp_path, "metadata")
