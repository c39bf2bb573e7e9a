"""Metadata, groups, ids and queries from files, and one clear line for each way to get them wrong."""

import numpy as np
import pandas as pd
import pytest

from fair_search.audit_inputs import image_groups, query_labels, read_audit_queries, read_metadata_rows
from safe_io.errors import InputError

TABLE = pd.DataFrame(
    {
        "id": ["x", "y", "z", "u"],
        "gender": ["Male", "Female", "Male", "Female"],
        "age": [31.5, 20.25, 44.0, 3.5],
        "job": ["nurse", "doctor", None, "nurse"],
    }
)


@pytest.fixture
def files(tmp_path):
    TABLE.to_csv(tmp_path / "metadata.csv", index=False)
    (tmp_path / "ids.txt").write_text("u\nx\nz\n")
    (tmp_path / "queries.csv").write_text(
        "query,wanted\nA photo of a nurse.,nurse\nA photo of a doctor.,doctor\n"
    )
    return tmp_path


def test_metadata_in_the_order_of_the_embeddings(files):
    assert read_metadata_rows(files / "metadata.csv", 4)["id"].tolist() == ["x", "y", "z", "u"]
    joined = read_metadata_rows(files / "metadata.csv", 3, "id", files / "ids.txt")
    assert joined["id"].tolist() == ["u", "x", "z"]
    assert joined["gender"].tolist() == ["Female", "Male", "Male"]


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("arguments", "ids", "message"),
    [
        ((5,), None, "metadata.csv has 4 rows, but there are 5 embeddings"),
        ((4, "name"), None, "lacks the column 'name'; it has: id, gender, age, job"),
        ((3, None), "u\nx\nz\n", "--ids needs --id-column"),
        ((3, "id"), "u\nx\n", "ids.txt has 2 ids, but there are 3 embeddings"),
        (
            (3, "id"),
            "u\nw\nv\n",
            "2 of 3 ids in .*ids.txt are not in .*metadata.csv, the first: 'w'; ids there",
        ),
        ((3, "id"), "u\nx\nu\n", "1 ids stand there twice, the first: 'u'"),
        ((4, "gender"), None, "2 rows repeat an id of 'gender', the first: 'Male'"),
    ],
)
def test_metadata_that_does_not_match(files, arguments, ids, message):
    path = None if ids is None else write(files / "ids.txt", ids)
    with pytest.raises(InputError, match=message):
        read_metadata_rows(files / "metadata.csv", *arguments, *([path] if path else []))


def test_groups():
    groups = image_groups(TABLE, "gender", "t.csv")
    assert groups.classes == ("Female", "Male")
    assert groups.codes.tolist() == [1, 0, 1, 0]
    assert image_groups(TABLE, "gender", "t.csv", values=["Male", "Female"]).codes.tolist() == [0, 1, 0, 1]
    numbers = pd.DataFrame({"year": [2, 1, 2]})
    assert image_groups(numbers, "year", "t.csv").classes == ("1", "2")
    gaps = pd.DataFrame({"year": [2, None, 1]})  # which makes the whole numbers 2.0 and 1.0
    assert image_groups(gaps, "year", "t.csv", values=["2", "1"], drop_unlabelled=True).codes.tolist() == [
        0, -1, 1,
    ]  # fmt: skip


def test_unlabelled_images_are_left_out_on_request():
    groups = image_groups(TABLE, "job", "t.csv", drop_unlabelled=True)
    assert groups.codes.tolist() == [1, 0, -1, 1]
    three = pd.DataFrame({"race": ["A", "B", "C", " ", None]})
    assert image_groups(three, "race", "t.csv", values=["C", "A"], drop_unlabelled=True).codes.tolist() == [
        1, -1, 0, -1, -1,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("column", "options", "message"),
    [
        ("sex", {}, "t.csv lacks the column 'sex'"),
        ("job", {}, r"t.csv: 1 rows have no 'job' \(of 4\); complete them, or pass --drop-unlabelled"),
        ("gender", {"values": ["male", "Female"]}, "unknown value of 'gender' 'male'.*did you mean 'Male'"),
        ("gender", {"values": ["Male"]}, "'gender' has one group only: Male; an audit compares at least two"),
        ("id", {"values": ["x", "y"]}, "2 have another value, such as 'z'"),
    ],
)
def test_groups_that_cannot_be_compared(column, options, message):
    with pytest.raises(InputError, match=message):
        image_groups(TABLE, column, "t.csv", **options)


def test_too_many_or_no_groups():
    many = pd.DataFrame({"age": np.arange(60) / 7, "empty": [None] * 60})
    with pytest.raises(
        InputError, match=r"'age' has 60 different values .* more than 50 groups; choose some"
    ):
        image_groups(many, "age", "t.csv")
    with pytest.raises(InputError, match="'empty' has no value at all"):
        image_groups(many, "empty", "t.csv")


def test_queries_with_labels(files):
    queries = read_audit_queries(files / "queries.csv", column="query", label_column="wanted")
    assert queries.names == ("A photo of a nurse.", "A photo of a doctor.")
    labels = query_labels(TABLE, "job", queries, "t.csv")
    relevant = labels.images == labels.queries[:, None]
    assert relevant.tolist() == [[True, False, False, True], [False, True, False, False]]


def test_queries_as_embeddings(files):
    np.save(files / "queries.npy", np.eye(3, dtype=np.float32))
    assert read_audit_queries(files / "queries.npy").names == ("query 1", "query 2", "query 3")
    names = write(files / "names.txt", "a\nb\nc\n")
    assert read_audit_queries(files / "queries.npy", names=names).names == ("a", "b", "c")
    with pytest.raises(InputError, match="3 queries need 3 names"):
        read_audit_queries(files / "queries.npy", names=write(files / "names.txt", "a\nb\n"))
    with pytest.raises(InputError, match="labels of queries are a column of a table"):
        read_audit_queries(files / "queries.npy", label_column="wanted")


def test_queries_that_cannot_be_used(files):
    with pytest.raises(InputError, match="1 queries stand there twice, the first: 'a nurse'"):
        read_audit_queries(write(files / "q.txt", "a nurse\na doctor\na nurse\n"))
    with pytest.raises(InputError, match="1 of 2 queries have no 'wanted', the first in row 2"):
        read_audit_queries(
            write(files / "q.csv", "query,wanted\na,nurse\nb,\n"), column="query", label_column="wanted"
        )
    plain = read_audit_queries(write(files / "q.txt", "a nurse\n"))
    with pytest.raises(InputError, match="--label-column needs --query-labels"):
        query_labels(TABLE, "job", plain, "t.csv")
    odd = read_audit_queries(
        write(files / "q.csv", "query,wanted\na,pilot\n"), column="query", label_column="wanted"
    )
    with pytest.raises(InputError, match=r"t\.csv: labels of the queries: unknown 'job' 'pilot'"):
        query_labels(TABLE, "job", odd, "t.csv")


def test_column_without_any_value():
    with pytest.raises(InputError, match=r"t\.csv: 'x' has no value at all; an audit compares"):
        image_groups(pd.DataFrame({"x": [np.nan, np.nan]}), "x", "t.csv")


@pytest.mark.parametrize("rows", ["a,b\n1,2,3\n4,5,6\n", "a,b\n1,2\n4,5,6\n", "a,b\n1,2,3\n4,5\n"])
def test_rows_of_more_fields_than_the_header(tmp_path, rows):
    (tmp_path / "t.csv").write_text(rows)
    with pytest.raises(InputError, match=r"metadata cannot be read as a table: .*t\.csv: "):
        read_metadata_rows(tmp_path / "t.csv", 2)
