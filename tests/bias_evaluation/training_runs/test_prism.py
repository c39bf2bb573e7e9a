"""PRISM training: the published maps come out; loss, sampling and files are what their definitions say."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.prism_world import GENDER, train
from torch import Tensor

from bias_evaluation.prompts.prism_texts import load_text_sets
from bias_evaluation.training_runs import prism as prism_run
from bias_evaluation.training_runs.prism import (
    Output,
    PrismSetting,
    run_training,
)
from bias_evaluation.training_runs.run import report_path
from bias_evaluation.weights.find import prism_weight_name
from bias_evaluation.weights.read import load_prism_map
from debiasing_methods import prism_training
from debiasing_methods.linalg import unit
from debiasing_methods.training.hyperparameters import PrismHyperparameters
from debiasing_methods.training.prism import train_maps
from debiasing_methods.training.prism_sampling import (
    TextSetSizes,
    published_sampling,
)
from safe_io.checkout import ROOT
from safe_io.errors import InputError

GOLDEN = [
    ("retrieval", "celeba_black_hair_gender"),
    ("retrieval", "celeba_blond_hair_gender"),
    ("retrieval", "celeba_brown_hair_gender"),
    ("retrieval", "celeba_gray_hair_gender"),
    ("zs_classification", "celeba_blond_hair_gender"),
    ("zs_classification", "waterbirds"),
]


# the published maps


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, oracle_dir: Path) -> Path:
    """Config folder whose official text sets are the published ones."""
    config = tmp_path_factory.mktemp("project") / "config"
    (config / "prism").mkdir(parents=True)
    for name in ("backbones.yml", "prism_training.yml"):
        (config / name).write_bytes((ROOT / "config" / name).read_bytes())
    (config / "prism" / "official").symlink_to(oracle_dir / "official" / "prism_data")
    return config


@pytest.mark.parametrize(("task", "setting"), GOLDEN)
def test_published_maps_come_out(
    task: str, setting: str, project: Path, oracle_dir: Path, tmp_path: Path
) -> None:
    world = oracle_dir / "golden" / "world"
    arguments = ["--backbone", "ViT-B/16", "--task", task, "--setting", setting, "--seed", "0"]
    arguments += ["--prompts", "official", "--backbones-file", str(project / "backbones.yml")]
    arguments += ["--text-embeddings", str(world / "text_embeddings.npz"), "--output-dir", str(tmp_path)]
    assert prism_training.main(arguments) == 0
    [ours] = tmp_path.glob("*.pth")
    theirs = world / "debiasing_methods" / "prism_weights" / ours.name  # the very name, too
    differences = (load_prism_map(ours, dim=512) - load_prism_map(theirs, dim=512)).abs()
    assert (differences < 1e-4).double().mean() >= 0.999


# the files


@dataclass
class Case:
    """A small run: two settings of one shape and one of another, with embeddings for every sentence."""

    folder: Path
    settings: list[PrismSetting]
    embeddings: dict[str, Tensor]

    def embed(self, sentences: Sequence[str]) -> Tensor:
        return torch.stack([self.embeddings[sentence] for sentence in sentences])

    def run(self, seeds: Sequence[int] = (0, 1), sampling: str = "published", **output: Any) -> list[dict]:
        target = Output(self.folder, "tiny", **output)
        return run_training(self.settings, self.embed, target, seeds=seeds, sampling=sampling)

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folder.iterdir())}

    def path(self, k: int, seed: int) -> Path:
        one = self.settings[k]
        return self.folder / prism_weight_name("tiny", one.task, one.setting, one.training, seed)


def make_setting(name: str, sizes: TextSetSizes, **training: Any) -> PrismSetting:
    numbers = itertools.product(range(sizes.scenes), range(sum(sizes.targets)), range(sum(sizes.biases)))
    sentences = tuple(f"{name} {numbers}" for numbers in numbers)
    return PrismSetting(
        "retrieval",
        name,
        sizes,
        sentences,
        PrismHyperparameters(**{"num_samples": 20, "lr": 0.01} | training),
    )


@pytest.fixture
def case(tmp_path: Path) -> Case:
    settings = [
        make_setting("thief", GENDER, batch_size=8),
        make_setting("thug", GENDER, batch_size=8),
        make_setting("landscape", TextSetSizes(1, (2, 2), (2, 2)), lr=0.1),
    ]
    sentences = [sentence for one in settings for sentence in one.sentences]
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(len(sentences), 12, generator=generator) + 1
    return Case(tmp_path / "maps", settings, dict(zip(sentences, vectors, strict=True)))


def test_a_run_writes_maps_reports_and_losses(case: Case) -> None:
    reports = case.run()
    names = [(one.setting, seed) for one in case.settings for seed in (0, 1)]
    assert [(report["setting"], report["seed"]) for report in reports] == names
    paths = [case.path(k, seed) for k in range(3) for seed in (0, 1)]
    expected = {p.name for path in paths for p in (path, report_path(path))} | {"losses.csv"}
    assert set(case.files()) == expected
    with (case.folder / "losses.csv").open(encoding="utf-8", newline="") as file:
        lines = {(line["setting"], int(line["seed"])): line for line in csv.DictReader(file)}
    assert set(lines) == set(names)
    for report, path in zip(reports, paths, strict=True):
        assert json.loads(report_path(path).read_text()) == report
        # readable by the published code: one linear layer named transformer
        module = torch.nn.ModuleDict({"transformer": torch.nn.Linear(12, 12, bias=False)})
        module.load_state_dict(torch.load(path, weights_only=True))
        assert path.stat().st_size < 4 * 12 * 12 + 4096  # the map alone, not its batch
        line = lines[report["setting"], report["seed"]]
        assert float(line["total_after"]) == report["loss_after"]["total"]
        assert len(report["batch_losses"]) == math.ceil(20 / report["batch_size"])


def test_the_map_of_a_file_is_the_one_of_its_setting_and_seed(case: Case) -> None:
    case.run(seeds=(3,))
    one = case.settings[1]
    embeddings = unit(case.embed(one.sentences))
    [w], _ = train([published_sampling(one.sizes, 20, 3)], embeddings, lr=0.01, batch_size=8)
    assert (load_prism_map(case.path(1, 3), dim=12) - w).abs().max() <= 1e-6


def test_a_setting_alone_gives_the_files_that_all_settings_give(case: Case) -> None:
    case.run(seeds=(0, 1))
    alone = replace(case, folder=case.folder.with_name("alone"), settings=case.settings[1:2])
    alone.run(seeds=(1,))
    paths = alone.path(0, 1), case.path(1, 1)
    first, second = (load_prism_map(path, dim=12) for path in paths)
    assert (first - second).abs().max() <= 1e-6
    first, second = (json.loads(report_path(path).read_text()) for path in paths)
    assert first["digest"] == second["digest"]


def test_seeds_differ_and_a_seed_repeats_bit_for_bit(case: Case) -> None:
    case.run()
    again = replace(case, folder=case.folder.with_name("again"))
    again.run()
    assert again.files() == case.files()
    first, second = (load_prism_map(case.path(0, seed), dim=12) for seed in (0, 1))
    assert (first - second).abs().max() > 0.1


def test_threads_train_the_same_maps(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    case.run()
    threaded = replace(case, folder=case.folder.with_name("threaded"))
    monkeypatch.setattr(prism_run, "_BATCH_BYTES", 1)  # one map a batch
    torch.set_num_threads(3)
    try:
        reports = threaded.run()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(1)
    assert threaded.files() == case.files()
    names = [(one.setting, seed) for one in case.settings for seed in (0, 1)]
    assert [(report["setting"], report["seed"]) for report in reports] == names


def test_what_is_done_is_kept_and_not_trained_again(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    reports, files = case.run(), case.files()
    monkeypatch.setattr(prism_run, "train_maps", lambda *_, **__: pytest.fail("trained again"))
    assert case.run() == reports
    assert case.files() == files


def test_a_run_that_was_cut_off_goes_on_to_the_same_files(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = replace(case, folder=case.folder.with_name("undisturbed"))
    undisturbed.run()
    monkeypatch.setattr(prism_run, "_BATCH_BYTES", 1)  # one map a batch
    calls: list[Any] = []

    def third_is_cut_off(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return train_maps(*args, **options)

    monkeypatch.setattr(prism_run, "train_maps", third_is_cut_off)
    with pytest.raises(KeyboardInterrupt):
        case.run()
    kept = case.files()
    assert len(kept) == 4  # two maps and their reports; what was under way is lost
    calls[:] = [None] * 3
    case.run()
    assert len(calls) == 3 + 4
    assert case.files() == undisturbed.files()
    assert kept.items() <= case.files().items()


@pytest.mark.parametrize("cut_off", ["before the weights", "while they were replaced"])
def test_a_kill_between_report_and_weights_does_not_block(case: Case, cut_off: str) -> None:
    case.run()
    files, path = case.files(), case.path(1, 0)
    if cut_off == "before the weights":
        path.unlink()
    else:
        path.write_bytes(case.path(0, 1).read_bytes())
    case.run()
    assert case.files() == files


def test_files_of_another_run_are_replaced_only_where_asked(case: Case) -> None:
    case.folder.mkdir()
    path = case.path(2, 1)
    path.write_bytes(b"mine")
    with pytest.raises(InputError, match=r"landscape.*seed=1.*--overwrite"):
        case.run()
    assert list(case.files().values()) == [b"mine"]  # refused before any training
    case.run(overwrite=True)
    assert load_prism_map(path, dim=12).shape == (12, 12)


@pytest.mark.parametrize("other", ["embeddings", "sentences", "sampling"])
def test_a_map_made_from_other_inputs_is_not_taken_for_this_one(case: Case, other: str) -> None:
    case.run()
    files = case.files()
    sampling = "published"
    if other == "embeddings":
        case.embeddings = {sentence: -vector for sentence, vector in case.embeddings.items()}
    elif other == "sampling":
        sampling = "independent"
    else:
        first = case.settings[0]
        case.settings[0] = replace(
            first, sentences=tuple(s.replace("thief", "thug") for s in first.sentences)
        )
    with pytest.raises(InputError, match="was not made from these"):
        case.run(sampling=sampling)
    assert case.files() == files


def test_safetensors_hold_the_same_map(case: Case) -> None:
    case.run(seeds=(0,))
    case.run(seeds=(0,), file_format="safetensors")
    for k in range(3):
        path = case.path(k, 0)
        assert torch.equal(
            load_prism_map(path, dim=12), load_prism_map(path.with_suffix(".safetensors"), dim=12)
        )


def test_a_diverging_training_is_one_line(case: Case) -> None:
    case.settings = [make_setting("thief", GENDER, lr=3e38, batch_size=4)]
    with pytest.raises(InputError, match=r"diverged with lr 3e\+38 \(thief\)"):
        case.run()
    assert not case.folder.exists()


def test_names_are_the_release_s() -> None:
    name = prism_weight_name(
        "ViT-L-14@336px",
        "retrieval",
        "stereotype_dangerous-person_utkrace",
        PrismHyperparameters(200, 0.01),
        2,
    )
    assert name == (
        "prism_clip=ViT-L-14@336px_task=retrieval_setting=stereotype_dangerous-person_utkrace_epochs=1_num_bases=0"
        "_num_samples=200_seed=2_lr=0.01_batch_size=64_wd=0.0_init_weight=random.pth"
    )


@pytest.mark.parametrize(
    "values",
    [
        {"num_samples": 0},
        {"lr": 0.0},
        {"lr": math.nan},
        {"lr": math.inf},
        {"epochs": 0},
        {"batch_size": 0},
        {"wd": -1.0},
    ],
)
def test_hyperparameters_out_of_range_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        PrismHyperparameters(**{"num_samples": 1, "lr": 0.1} | values)


# the command


@dataclass
class Command:
    """A project folder with text sets for two settings, and the command's `main` on it."""

    root: Path

    def __call__(self, *arguments: str) -> int:
        return prism_training.main(
            [*arguments, "--backbones-file", str(self.root / "config" / "backbones.yml")]
        )

    def single(self, *arguments: str) -> int:
        return self(
            "--backbone", "tiny", "--task", "retrieval", "--setting", "digit_one_color",
            "--text-embeddings", str(self.root / "text.npz"), *arguments,
        )  # fmt: skip

    def maps(self, folder: str = "debiasing_methods/prism_weights/default") -> list[str]:
        return sorted(path.name for path in (self.root / folder).glob("*.pth"))


TEXT_SET = {
    "scene descriptions": ["A <digit> on <color>.", "Here is a <digit> and <color>."],
    "target classes": ["one", "other"],
    "bias classes": ["red", "blue"],
    "target class descriptions": {"one": ["one", "1"], "other": ["two", "ten"]},
    "bias class descriptions": {"red": ["red"], "blue": ["blue", "a  ocean"]},
    "target placeholder": "<digit>",
    "bias placeholder": "<color>",
}
BACKBONE = "tiny: {open_clip: RN50, pretrained: openai, dim: 5, quick_gelu: true}\n"


@pytest.fixture
def command(tmp_path: Path) -> Command:
    config = tmp_path / "config"
    (config / "prism" / "default" / "retrieval").mkdir(parents=True)
    (config / "backbones.yml").write_text(BACKBONE)
    (config / "prism_training.yml").write_text('"*": {num_samples: 30, lr: 0.01}\n')
    for name in ("one", "two"):
        path = config / "prism" / "default" / "retrieval" / f"digit_{name}_color.json"
        path.write_text(json.dumps(TEXT_SET))
    sets = load_text_sets(config / "prism" / "default")
    sentences = sets["retrieval", "digit_one_color"].sentences()
    embeddings = np.random.default_rng(0).normal(size=(len(sentences), 5)).astype(np.float32)
    np.savez(tmp_path / "text.npz", prompts=np.array(sentences), embeddings=embeddings)
    return Command(tmp_path)


def test_the_command_trains_one_setting(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.single("--seeds", "0", "4", "--num-samples", "12", "--lr", "1e-3") == 0
    assert command.maps() == [
        prism_weight_name("tiny", "retrieval", "digit_one_color", PrismHyperparameters(12, 1e-3), seed)
        for seed in (0, 4)
    ]
    out = capsys.readouterr().out
    assert "digit_one_color seed 4: loss" in out
    assert "losses.csv" in out


def test_both_spellings_and_published_options_are_taken(command: Command) -> None:
    published = ["--epochs", "1", "--num_bases", "0", "--num_samples", "30", "--seed", "0", "--lr", "0.01"]
    published += ["--batch_size", "64", "--wd", "0", "--init_weight", "random"]
    assert command.single(*published, "--output-dir", str(command.root / "one")) == 0
    hyphens = [word.replace("_", "-") for word in published]
    assert command.single(*hyphens, "--output-dir", str(command.root / "two")) == 0
    assert len(command.maps("one")) == 1
    first, second = ((command.root / name) for name in ("one", "two"))
    assert [p.read_bytes() for p in sorted(first.iterdir())] == [
        p.read_bytes() for p in sorted(second.iterdir())
    ]


def test_only_new_sentences_are_encoded_and_in_parts(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bias_evaluation.embedding import text_store

    asked: list[list[str]] = []

    class Fake:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def encode_text(self, prompts: Sequence[str], **_: Any) -> Tensor:
            asked.append(list(prompts))
            return torch.tensor([[1.0 + len(p), p.count("e"), p.count("n"), len(asked), 1] for p in prompts])

    monkeypatch.setattr(text_store, "Encoder", Fake)
    monkeypatch.setattr(prism_training, "_ENCODED_TOGETHER", 10)
    arguments = ["--backbone", "tiny", "--task", "retrieval", "--data-root", str(command.root / "data")]
    assert command(*arguments, "--setting", "digit_one_color", "--seed", "0", "1", "2") == 0
    assert {len(part) for part in asked[:-1]} == {10}
    assert len(asked) > 1
    flat = [prompt for part in asked for prompt in part]
    assert len(set(flat)) == len(flat)
    assert {"an ocean" in prompt for prompt in flat} == {True, False}
    assert not [prompt for prompt in flat if "a  ocean" in prompt]
    asked.clear()
    assert command(*arguments, "--setting", "digit_two_color", "--seed", "0") == 0
    assert asked == []  # the same sentences


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--num-bases", "4"], "--num-bases 4: only 0"),
        (["--init-weight", "identity"], "only 'random'"),
        (
            ["--setting", "digit_ten_color"],
            "unknown retrieval setting 'digit_ten_color'; choose",
        ),
        (["--task", "zs_classification"], "unknown zs_classification setting"),
        (["--backbone", "huge"], "unknown backbone 'huge'"),
        (["--prompts", "mine"], "unknown PRISM text sets 'mine'; choose from: default"),
        (["--lr", "0"], "lr must be above 0"),
        (["--num-samples", "0"], "num_samples must be at least 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--text-embeddings", "nowhere.npz"], "not found: nowhere.npz"),
        (["--config", "config/celeba.yml"], "give either --setting"),
    ],
)
def test_bad_options_are_one_line(command: Command, arguments: list[str], line: str) -> None:
    with pytest.raises(InputError, match=line):
        command.single(*arguments)
    assert command.maps() == []


def test_what_goes_with_what_is_checked(command: Command) -> None:
    with pytest.raises(InputError, match="give either --setting"):
        command()
    with pytest.raises(InputError, match="--setting needs --task and --backbone"):
        command("--setting", "digit_one_color", "--task", "retrieval")
    with pytest.raises(InputError, match="--task goes with --setting"):
        command("--config", "x.yml", "--task", "retrieval")


def test_missing_sentences_and_other_widths_are_one_line(command: Command) -> None:
    with np.load(command.root / "text.npz") as arrays:
        prompts, embeddings = arrays["prompts"], arrays["embeddings"]
    np.savez(command.root / "text.npz", prompts=prompts[:4], embeddings=embeddings[:4])
    with pytest.raises(InputError, match=r"have no embedding in .*text\.npz"):
        command.single()
    np.savez(command.root / "text.npz", prompts=prompts, embeddings=embeddings[:, :3])
    with pytest.raises(InputError, match=r"a float matrix \(rows, 5\) is needed"):
        command.single()


PROMPTS = """
bias: {color: {classes: [red, blue], templates: ["A {bias} page."]}}
settings:
  digit_color: {bias: color, queries: [one, two], query: "A photo of the digit {query}."}
"""
CONFIG = """
dataset: portraits
folder: Digits
backbones: [tiny, {other}]
settings:
  digit_color: {{task: retrieval, query_type: digit, bias: {{attribute: color, values: [red, blue]}}}}
"""


@pytest.fixture
def write_config(command: Command) -> Callable[..., str]:
    """Write a dataset config that needs both text sets: ``write_config(other="tiny", methods=…)``."""

    def write(other: str = "tiny", methods: str = "prism: {seeds: [0, 7]}\n") -> str:
        config = command.root / "config"
        (config / "digits.yml").write_text(CONFIG.format(other=other))
        (config / "methods.yml").write_text("vanilla: {}\n" + methods)
        (config / "backbones.yml").write_text(BACKBONE + BACKBONE.replace("tiny", "small"))
        (config / "prompts" / "default").mkdir(parents=True)
        (config / "prompts" / "default" / "portraits.yml").write_text(PROMPTS)
        return str(config / "digits.yml")

    return write


def test_a_config_trains_what_its_evaluation_looks_for(
    command: Command, write_config: Callable[..., str]
) -> None:
    from bias_evaluation.grid.configs import load_dataset_config
    from bias_evaluation.grid.plan import RunOptions, Selection, plan
    from bias_evaluation.suite.workspace import Workspace

    path = write_config()
    assert command("--config", path, "--text-embeddings", str(command.root / "text.npz")) == 0
    config = load_dataset_config(path)
    keys = plan(config, Selection(methods=["prism"]))
    assert [key.seed for key in keys] == [0, 7]
    options = RunOptions(command.root, command.root, "default", 1)
    workspace = Workspace(config, keys[0].backbone, options)
    files = [file.path for key in keys for file in workspace.methods.files(key)]
    assert sorted(path.name for path in files) == command.maps()
    assert all(path.is_file() for path in files)
    assert list(workspace.methods.get(keys[1]).maps) == ["one", "two"]


def test_config_errors_are_one_line(command: Command, write_config: Callable[..., str]) -> None:
    path = write_config(other="small", methods="")
    with pytest.raises(InputError, match="embeddings of one backbone, but 2 are"):
        command("--config", path, "--text-embeddings", str(command.root / "text.npz"))
    with pytest.raises(InputError, match=r"methods.yml has no entry 'prism' with seeds; give --seeds"):
        command("--config", path, "--backbone", "tiny", "--text-embeddings", str(command.root / "text.npz"))
