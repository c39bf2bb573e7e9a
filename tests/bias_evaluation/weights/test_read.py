"""Weight files: what is good loads, what is not is one line that names the file, and nothing in it runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bias_evaluation.weights.read import load_prism_map, load_sae, load_zsdebias
from safe_io.errors import InputError
from safe_io.files import load_weights, save_weights, take_matrix

D = 6
MAKE = "python make_weights.py --all"


def _network(part: str, outputs: int) -> dict[str, Tensor]:
    shapes = {"0.weight": (D, D), "0.bias": (D,), "1.weight": (D,), "1.bias": (D,)}
    shapes |= {"4.weight": (outputs, D), "4.bias": (outputs,)}
    return {f"{part}.{name}": torch.randn(shape) for name, shape in shapes.items()}


def _zsdebias() -> dict[str, Any]:
    args = {"normalize_embeddings": False, "hidden_num": 2, "dataset_paths": ["data/LFW"]}
    return {
        "encoder": _network("encoder", 2 * D),
        "decoder": _network("decoder", D),
        "args": args,
        "epoch": 3,
        "val_loss": 1.5,
    }


def _sae() -> dict[str, Tensor]:
    return {
        "bpre": torch.randn(D),
        "encoder.weight": torch.randn(9, D),
        "encoder.bias": torch.randn(9),
        "decoder.weight": torch.randn(D, 9),
    }


@dataclass(frozen=True)
class Kind:
    load: Callable[..., Any]
    make: Callable[[], dict[str, Any]]
    flat: Callable[[dict[str, Any]], dict[str, Tensor]] = dict  # all tensors, by their names


def _flat_zsdebias(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    return {**checkpoint["encoder"], **checkpoint["decoder"]}


KINDS = {
    "sae": Kind(load_sae, _sae),
    "prism": Kind(load_prism_map, lambda: {"transformer.weight": torch.randn(D, D)}),
    "zsdebias": Kind(load_zsdebias, _zsdebias, _flat_zsdebias),
}
NAMES = {name: sorted(kind.flat(kind.make())) for name, kind in KINDS.items()}
every_tensor = pytest.mark.parametrize(
    ("kind", "tensor"), [(k, t) for k, names in NAMES.items() for t in names]
)
every_kind = pytest.mark.parametrize("kind", KINDS)


def _values(loaded: Any) -> list[Tensor]:
    """Collect the tensors of what a loader gave."""
    if isinstance(loaded, Tensor):
        return [loaded]
    children = vars(loaded).values() if is_dataclass(loaded) else ()
    return [tensor for child in children for tensor in _values(child)]


def _error(kind: str, path: Path, dim: int = D) -> str:
    with pytest.raises(InputError) as caught:
        KINDS[kind].load(path, dim=dim, make=MAKE)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def _changed(kind: str, tensor: str, change: Callable[[Tensor], Tensor | None]) -> dict[str, Any]:
    """Good weights of a kind with one tensor changed, or left out."""
    weights = KINDS[kind].make()
    holder = weights[tensor.split(".")[0]] if kind == "zsdebias" else weights
    value = change(holder.pop(tensor))
    if value is not None:
        holder[tensor] = value
    return weights


@every_kind
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_good_weights_load_as_they_were_saved(kind, suffix, tmp_path):
    weights = KINDS[kind].make()
    tensors, path = KINDS[kind].flat(weights), tmp_path / f"weights{suffix}"
    save_weights(path, weights if suffix == ".pth" else tensors)
    values = _values(KINDS[kind].load(path, dim=D))
    assert len(values) == len(tensors)
    for value in values:
        assert value.dtype == torch.float32
        assert any(value.shape == t.shape and torch.equal(value, t) for t in tensors.values())


@every_kind
def test_half_precision_weights_are_upcast(kind, tmp_path):
    tensors = {name: t.half() for name, t in KINDS[kind].flat(KINDS[kind].make()).items()}
    save_weights(tmp_path / "w.pth", tensors)
    assert all(v.dtype == torch.float32 for v in _values(KINDS[kind].load(tmp_path / "w.pth", dim=D)))


def test_zsdebias_has_a_tanh_only_where_it_was_trained_on_normalised_embeddings(tmp_path):
    x = 9 * torch.randn(4, D)
    for normalized in (False, True):
        checkpoint = _zsdebias()
        checkpoint["args"]["normalize_embeddings"] = normalized
        save_weights(tmp_path / "w.pth", checkpoint)
        vae = load_zsdebias(tmp_path / "w.pth", dim=D)
        plain = vae.decoder.output(vae.decoder.hidden(x))
        assert torch.equal(vae.decode(x), torch.tanh(plain) if normalized else plain)


@every_kind
def test_a_missing_file_is_named_with_the_way_to_get_it(kind, tmp_path):
    for path in (tmp_path / "nowhere" / "w.pth", tmp_path):  # a folder is no file either
        assert _error(kind, path) == f"weights not found: {path}; to get them: {MAKE}"


@every_kind
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_named_with_the_way_to_get_it(kind, suffix, share, tmp_path):
    weights, path = KINDS[kind].make(), tmp_path / f"w{suffix}"
    save_weights(path, weights if suffix == ".pth" else KINDS[kind].flat(weights))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert MAKE in _error(kind, path)


@every_kind
@pytest.mark.parametrize(
    "content", [b"<html>404 Not Found</html>", b"version https://git-lfs", b"\x00" * 4096]
)
def test_a_file_that_is_something_else_is_refused(kind, content, tmp_path):
    for name in ("w.pth", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        assert MAKE in _error(kind, tmp_path / name)


@every_kind
def test_weights_for_another_width_state_both_widths(kind, tmp_path):
    save_weights(tmp_path / "w.pth", KINDS[kind].make())
    message = _error(kind, tmp_path / "w.pth", dim=8)
    assert f"{D}" in message
    assert "backbone has width 8" in message


@every_tensor
def test_a_missing_tensor_is_named(kind, tensor, tmp_path):
    save_weights(tmp_path / "w.pth", _changed(kind, tensor, lambda t: None))
    assert f"has no tensor '{tensor}'" in _error(kind, tmp_path / "w.pth")


@every_tensor
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_tensor_that_is_not_finite_is_named(kind, tensor, bad, tmp_path):
    def spoil(t: Tensor) -> Tensor:
        t.view(-1)[-1] = bad
        return t

    save_weights(tmp_path / "w.pth", _changed(kind, tensor, spoil))
    assert f"'{tensor}' holds NaN or infinite values" in _error(kind, tmp_path / "w.pth")


@every_tensor
def test_a_tensor_of_integers_or_of_other_dimensions_is_named(kind, tensor, tmp_path):
    for change in (Tensor.long, lambda t: t[None], lambda t: t.sum()):
        save_weights(tmp_path / "w.pth", _changed(kind, tensor, change))
        assert f"'{tensor}' is " in _error(kind, tmp_path / "w.pth")


@every_tensor
def test_a_tensor_that_does_not_fit_the_others_is_refused(kind, tensor, tmp_path):
    save_weights(tmp_path / "w.pth", _changed(kind, tensor, lambda t: t[:-1]))
    message = _error(kind, tmp_path / "w.pth")
    assert "fit" in message or "needs" in message


def test_zsdebias_with_more_layers_is_refused(tmp_path):
    checkpoint = _zsdebias()
    checkpoint["encoder"]["encoder.8.weight"] = torch.randn(D, D)
    save_weights(tmp_path / "w.pth", checkpoint)
    assert "it also has: encoder.8.weight" in _error("zsdebias", tmp_path / "w.pth")


def test_zsdebias_of_an_odd_width_is_refused(tmp_path):
    tensors = {name: t[: -(-len(t) * 5 // 6)] for name, t in _flat_zsdebias(_zsdebias()).items()}
    tensors = {name: t[:, :5] if t.ndim == 2 else t for name, t in tensors.items()}
    save_weights(tmp_path / "w.pth", tensors)
    assert "must be even" in _error("zsdebias", tmp_path / "w.pth", dim=5)


@every_kind
@pytest.mark.parametrize("content", [[1, 2], torch.ones(3), "text", {}, {"model": {}}, {0: torch.ones(2)}])
def test_a_file_without_named_tensors_is_refused(kind, content, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    _error(kind, tmp_path / "w.pth")


class Touch:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@every_kind
@pytest.mark.parametrize("as_torch_file", [True, False])
def test_code_in_a_file_is_not_executed(kind, as_torch_file, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "w.pth"
    weights = KINDS[kind].make() | {"extra": Touch(marker)}
    if as_torch_file:
        torch.save(weights, path)
    else:
        path.write_bytes(pickle.dumps(weights, protocol=2))
    message = _error(kind, path)
    assert "nothing in it was executed" in message
    assert not marker.exists()
    torch.load(path, weights_only=False) if as_torch_file else pickle.loads(path.read_bytes())
    assert marker.exists()  # the file would have done it


def test_load_weights_gives_plain_values_too(tmp_path):
    save_weights(tmp_path / "w.pth", _zsdebias())
    loaded = load_weights(tmp_path / "w.pth", make=MAKE)
    assert loaded["args"]["dataset_paths"] == ["data/LFW"]
    assert (loaded["epoch"], loaded["val_loss"]) == (3, 1.5)


def test_take_matrix_lists_what_there_is():
    with pytest.raises(InputError, match=r"^w\.pth has no tensor 'c'; it holds: a, b$"):
        take_matrix({"a": torch.ones(1), "b": 3}, "c", ndim=1, path="w.pth")
    with pytest.raises(InputError, match=r"^w\.pth has no tensor 'c'; it holds: nothing$"):
        take_matrix({}, "c", ndim=1, path="w.pth")
