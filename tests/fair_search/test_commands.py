"""Commands of a report: they parse to the options that they were made from, and name no absolute path."""

import shlex
from pathlib import Path

import pytest

import debias_queries
from fair_search.audit_options import build_parser, default_options
from fair_search.commands import AGAIN, audit_command, debias_command, plain_path

GIVEN = [
    *("--embeddings", "data/i.npy", "--metadata", "m.csv", "--attribute", "gender", "--queries", "q.csv"),
    *("--query-column", "the query", "--backbone", "ViT-B-16", "--bias", "gender", "--k", "5", "10"),
    *("--show", "it's a 'query'", "--drop-unlabelled", "--methods", "vanilla", "sem-bi", "--seed", "3"),
    *("--weights", "sem-bi=sae.pth", "--title=-dash", "--output-dir", "out"),
]


def test_audit_command_parses_to_the_same_options():
    args = build_parser().parse_args(GIVEN)
    words = shlex.split(audit_command(args, default_options()))
    assert words[:2] == ["python", "audit_bias.py"]
    again = build_parser().parse_args(words[2:])
    assert again.output_dir == Path(AGAIN)
    assert vars(again) | {"output_dir": args.output_dir} == vars(args)
    assert "--draws" not in words  # defaults are not written


def test_debias_command_parses():
    options = ["--option", "bendsem-bi.num_neighbors=7", "orth-cali.lam=3"]
    args = build_parser().parse_args([*GIVEN, *options])
    words = shlex.split(debias_command(args, "bendsem-bi", Path("sae.pth"), reference=True))
    parsed = debias_queries.build_parser().parse_args(words[2:])
    assert parsed.method == "bendsem-bi"
    assert parsed.option == ["num_neighbors=7"]
    assert (parsed.queries, parsed.column, parsed.bias) == (Path("q.csv"), "the query", "gender")
    assert (parsed.weights, parsed.seed, parsed.reference_column) == (Path("sae.pth"), 3, "gender")
    assert (parsed.reference_embeddings, parsed.reference_metadata) == (Path("data/i.npy"), Path("m.csv"))


def test_no_absolute_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plain_path(tmp_path / "a" / "b.npy") == "a/b.npy"
    assert plain_path(Path("/elsewhere/b.npy")) == "b.npy"
    args = build_parser().parse_args(
        [
            *GIVEN,
            "--images",
            "/elsewhere/images",
            "--weights",
            f"sem-bi={tmp_path}/w.pth",
            "--bias",
            "/b/x.yml",
        ]
    )
    command = audit_command(args, default_options())
    assert not [word for word in shlex.split(command) if "/elsewhere" in word or str(tmp_path) in word]
    assert "--weights sem-bi=w.pth" in command
    assert "--bias x.yml" in command


@pytest.mark.parametrize("given", ["soon", "9" * 30])
def test_date_of_a_reproducible_build(monkeypatch, given):
    from fair_search.audit_provenance import today
    from safe_io.errors import InputError

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert today() == "1970-01-02"
    monkeypatch.setenv("SOURCE_DATE_EPOCH", given)
    with pytest.raises(InputError, match="SOURCE_DATE_EPOCH must be a number of seconds"):
        today()
