"""A pretended GPU: tensors whose device is 'cuda' and whose values are computed on the CPU.

Operations on them obey the rules of a real GPU, so what would fail there fails here: an operation on tensors
of both devices (except scalars, and CPU indices into GPU tensors), a CPU generator for draws on the GPU, and
handing a GPU tensor to NumPy. Values are real. Branches that depend on them are therefore taken, and results
can be compared with those of the CPU. It cannot find operations that CUDA lacks, nor faults of its memory and
rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

GPU = torch.device("cuda", 0)
# Their tensors may be on different devices.
_ACROSS = {"aten::copy_", "aten::_to_copy", "aten::set_"}
_INDEXED = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
}


class GpuTensor(Tensor):
    """A tensor on the pretended GPU; `on_cpu` holds its values."""

    on_cpu: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> GpuTensor:
        self = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            layout=values.layout,
            device="meta",  # to C++, which would look for a driver of 'cuda'
            requires_grad=values.requires_grad,
        )
        self.on_cpu = values.detach()
        return self

    @property
    def device(self) -> torch.device:
        return GPU

    @property
    def is_cuda(self) -> bool:
        return True

    @property
    def is_meta(self) -> bool:
        return False

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: GpuTensor) -> None:  # another dtype too, as open_clip converts its weights
        self.on_cpu = other.on_cpu
        torch._C.TensorBase.data.__set__(self, other)

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def tolist(self) -> Any:
        return self.on_cpu.tolist()

    def new_tensor(self, data: Any, **options: Any) -> Tensor:  # C++ would make it on 'meta'
        return torch.tensor(data, **{"dtype": self.dtype, "device": GPU} | options)

    def __repr__(self, **_: Any) -> str:
        return f"GpuTensor({self.on_cpu!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Sees operations without a GPU tensor too: those that make one."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Check devices, compute on the CPU, and wrap what would be on the GPU."""
    leaves, tree = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    on_gpu = any(isinstance(tensor, GpuTensor) for tensor in tensors)
    name = func._schema.name
    if name in ("aten::pin_memory", "aten::_pin_memory"):
        return args[0]
    if on_gpu:
        _check_devices(name, args, tensors)
    if name == "aten::copy_":
        target: torch.device | None = args[0].device
    else:
        asked = kwargs.get("device")
        target = torch.device(asked) if asked is not None else (GPU if on_gpu else None)
    to_gpu = target is not None and target.type in ("cuda", "meta")
    if to_gpu and any(isinstance(leaf, torch.Generator) for leaf in leaves):
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    owners = {id(tensor.on_cpu): tensor for tensor in tensors if isinstance(tensor, GpuTensor)}
    plain = [leaf.on_cpu if isinstance(leaf, GpuTensor) else leaf for leaf in leaves]
    plain_args, plain_kwargs = tree_unflatten(plain, tree)
    if "device" in plain_kwargs and to_gpu:
        plain_kwargs |= {"device": torch.device("cpu")}
    results = func(*plain_args, **{k: v for k, v in plain_kwargs.items() if k != "pin_memory"})

    def wrap(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in owners:  # changed in place
            return owners[id(value)]
        if name == "aten::_to_copy" and to_gpu != on_gpu and any(value is leaf for leaf in plain):
            value = value.clone()
        return GpuTensor(value) if to_gpu else value

    return tree_map(wrap, results)


def _check_devices(name: str, args: Any, tensors: list[Tensor]) -> None:
    if name in _ACROSS:
        return
    if name in _INDEXED:
        if not isinstance(args[0], GpuTensor):
            raise RuntimeError(f"{name}: indices should be on the same device as the indexed tensor (cpu)")
        tensors = [args[0], *(value for value in args[2:3] if isinstance(value, Tensor))]
    left = [tensor for tensor in tensors if not isinstance(tensor, GpuTensor) and tensor.dim() > 0]
    if left:
        raise RuntimeError(
            f"{name}: expected all tensors on cuda:0, found one of shape {tuple(left[0].shape)} on the CPU"
        )


@contextmanager
def pretended_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let 'cuda' mean the pretended GPU."""
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "_lazy_init", lambda: None)
        patch.setattr(torch.cuda, "synchronize", lambda *_: None)
        patch.setattr(torch.cuda, "get_rng_state", lambda *_: torch.empty(0, dtype=torch.uint8))
        patch.setattr(torch.cuda, "set_rng_state", lambda *_: None)
        # Tensors of inference mode cannot be wrapped.
        patch.setattr(torch.inference_mode, "__enter__", torch.no_grad.__enter__)
        patch.setattr(torch.inference_mode, "__exit__", torch.no_grad.__exit__)
        patch.setattr(torch.__future__, "_overwrite_module_params_on_conversion", True)
        torch._C._ensureCUDADeviceGuardSet()
        before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(
            True
        )  # torch.tensor(…, device="cuda"): made on the CPU, then moved
        try:
            with _Factories():
                yield
        finally:
            torch._C._set_only_lift_cpu_tensors(before)
