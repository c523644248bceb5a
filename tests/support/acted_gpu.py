"""A GPU that is acted on the CPU: which lines of a block would wait for the device, and which would mix devices.

Tensors have their true values in the CPU's memory. Those that a GPU would hold are told apart by their storage: a block
puts tensors on `DEVICE` as it would on a GPU (`.to(device)`, `device=`), and whatever is computed from them is there too, in
the backward as well. They say that their device is `DEVICE`, so code asks and branches as on a GPU.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytorch_lightning as pl
import torch
from pytorch_lightning.accelerators import CPUAccelerator
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("cuda", 0)
HOST = torch.device("cpu")

aten = torch.ops.aten
# operators whose result's size, or the result itself, the host must know (CUDA's kernels: c10::cuda::warn_or_error_on_sync)
READS = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.bincount, aten.unique_dim, aten._unique,
    aten._unique2, aten.unique_consecutive, aten.is_nonzero,
}  # fmt: skip
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_, aten._unsafe_index}
TO_HOST = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.__array__: "numpy"}
WHERE: Any = (Tensor.device.__get__, Tensor.is_cuda.__get__, Tensor.is_cpu.__get__)  # pyright: ignore
MOVES = (Tensor.to, Tensor.cpu, Tensor.cuda)


@dataclass(frozen=True)
class Read:
    """A wait for the device: the operation, and the line of kdlab (else of another package) that asked for it."""

    operation: str
    line: str

    def __str__(self) -> str:
        return f"{self.operation} at {self.line}"


class ActedGPU(TorchDispatchMode):
    """The block's device, and its `reads`. RuntimeError where tensors of both devices meet in an operation."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[Read] = []
        self._held: dict[
            int, StorageWeakRef
        ] = {}  # storages on the device, by address; the reference keeps it from reuse
        self._functions = _Functions(self)
        self._quiet = 0

    def __enter__(self) -> ActedGPU:
        super().__enter__()
        self._functions.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._functions.__exit__(*error)
        super().__exit__(*error)

    def holds(self, tensor: Tensor) -> bool:
        """True if the tensor is on the device."""
        return tensor.untyped_storage()._cdata in self._held

    def hold(self, tensor: Tensor) -> Tensor:
        """Put the storage of a tensor on the device; returns the tensor."""
        reference = StorageWeakRef(tensor.untyped_storage())
        self._held.setdefault(reference.cdata, reference)
        return tensor

    def note(self, operation: str) -> None:
        """Record a wait, with the innermost line of kdlab on the stack."""
        self.reads.append(Read(operation, _line()))

    def copied(self, tensor: Tensor, to_device: bool) -> Tensor:
        """A copy on the other side; gradients pass through it."""
        self._quiet += 1
        try:
            copy = tensor.clone()
        finally:
            self._quiet -= 1
        return self.hold(copy) if to_device else copy

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._quiet:
            return func(*args, **kwargs)
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        there = [x for x in tensors if self.holds(x)]
        here = [x for x in tensors if x.ndim and not self.holds(x)]
        if there:
            self._check(func, args, kwargs, there, here)
        out = func(*args, **kwargs)
        if there and not (func.overloadpacket is aten.copy_ and not self.holds(args[0])):
            tree_map_only(Tensor, self.hold, out)
        return out

    def _check(self, func: Any, args: Any, kwargs: Any, there: list[Tensor], here: list[Tensor]) -> None:
        packet = func.overloadpacket
        if packet in READS or (packet is aten.repeat_interleave and kwargs.get("output_size") is None):
            self.note(packet.__name__)
        elif packet in INDEXING:
            indices = [x for x in args[1] if isinstance(x, Tensor)]
            values = args[2] if len(args) > 2 else None
            fills = values is not None and values.numel() == 1  # masked_fill, which needs no size
            if any(x.dtype in (torch.bool, torch.uint8) for x in indices) and not fills:
                self.note("index with a mask")
            if any(not self.holds(x) for x in indices):
                self.note("index of the host")
        elif packet is aten.copy_:
            waits = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            if waits and self.holds(args[0]) != self.holds(args[1]) and (args[1].ndim or not self.holds(args[0])):
                self.note("copy to the device" if self.holds(args[0]) else "copy to the host")
        elif here:
            raise RuntimeError(
                f"{func}: a tensor of the host {tuple(here[0].shape)} meets one of the device, at {_line()}"
            )


class _Functions(TorchFunctionMode):
    """What Python code says about devices: their names, moves between them, and tensors made on one of them."""

    def __init__(self, gpu: ActedGPU) -> None:
        super().__init__()
        self.gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self.gpu, dict(kwargs or {})
        own = args[0] if args and isinstance(args[0], Tensor) else None
        if own is not None and func in WHERE:
            there = gpu.holds(own)
            return (DEVICE if there else func(*args)) if func == WHERE[0] else there == (func == WHERE[1])
        if own is not None and func in MOVES:
            return self._move(func, own, args[1:], kwargs)
        if own is not None and func in TO_HOST and gpu.holds(own):
            if func is not Tensor.tolist:
                raise TypeError("can't convert a tensor of the device to numpy: copy it to the host first")
            gpu.note("tolist")
        if func in (Tensor.pin_memory, Tensor.is_pinned):
            return own if func is Tensor.pin_memory else False
        kwargs.pop("pin_memory", None)
        device = kwargs.get("device")
        if device is None:
            return func(*args, **kwargs)
        kwargs["device"] = HOST
        out = func(*args, **kwargs)
        if torch.device(device).type != DEVICE.type:
            return out
        made = func in (torch.tensor, torch.as_tensor, Tensor.new_tensor) and (own is None or not gpu.holds(own))
        if made:
            gpu.note("copy to the device")
        return gpu.hold(out)

    def _move(self, func: Any, tensor: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        gpu, target, dtype = self.gpu, kwargs.get("device"), kwargs.get("dtype")
        flags = [value for value in args if isinstance(value, bool)]
        for value in args:
            if isinstance(value, Tensor):
                target, dtype = DEVICE if gpu.holds(value) else HOST, value.dtype
            elif isinstance(value, torch.dtype):
                dtype = value
            elif isinstance(value, torch.device | str):
                target = value
        if func is not Tensor.to:
            target = HOST if func is Tensor.cpu else DEVICE
        waits = not (kwargs.get("non_blocking") or flags[:1] == [True])
        if target is not None and (to_device := torch.device(target).type == DEVICE.type) != gpu.holds(tensor):
            if waits:
                gpu.note("copy to the device" if to_device else "copy to the host")
            tensor = gpu.copied(tensor, to_device)
        return tensor if dtype is None else Tensor.to(tensor, dtype)


def _line() -> str:
    frame, last = sys._getframe(1), ""
    while frame is not None:
        file = frame.f_code.co_filename
        if "/kdlab/" in file:
            return f"kdlab/{file.rpartition('/kdlab/')[2]}:{frame.f_lineno} {frame.f_code.co_qualname}"
        if not last and file != __file__ and "/torch/" not in file:
            last = f"{file.rpartition('site-packages/')[2]}:{frame.f_lineno} {frame.f_code.co_qualname}"
        frame = frame.f_back
    return last


class _Groups:
    """torch's groups of tensors by device and type, for lists of optimizers: under the devices that tensors say they have."""

    def __init__(self, gpu: ActedGPU) -> None:
        self.gpu, self.made = gpu, torch._C._group_tensors_by_device_and_dtype

    def __call__(self, lists: list[list[Tensor | None]], with_indices: bool = False) -> Any:
        there = any(x is not None and self.gpu.holds(x) for some in lists for x in some)
        groups = self.made(lists, with_indices)
        return {(DEVICE if there else device, dtype): group for (device, dtype), group in groups.items()}


class _Accelerator(CPUAccelerator):
    def setup_device(self, device: torch.device) -> None:
        pass


class _Event:
    """A CUDA event of work that is done at once."""

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass


def act(trainer: Callable[..., pl.Trainer], gpu: ActedGPU, steps: list[list[Read]]) -> Callable[..., pl.Trainer]:
    """A maker of trainers like `trainer` that train on `gpu`; `steps` gets the reads of each micro-batch, its transfer
    and its hooks included."""

    def made(**options: Any) -> pl.Trainer:
        for name in ("accelerator", "strategy"):
            options.pop(name, None)
        made = trainer(strategy=SingleDeviceStrategy(DEVICE, accelerator=_Accelerator()), **options)
        loop, fit = made.fit_loop.epoch_loop, made.fit
        advance = loop.advance

        def one(*args: Any) -> None:
            before = len(gpu.reads)
            advance(*args)
            steps.append(gpu.reads[before:])
            assert all(map(gpu.holds, made.lightning_module.parameters()))

        def acted(*args: Any, **named: Any) -> None:
            patched = mock.patch.object
            groups = patched(torch._C, "_group_tensors_by_device_and_dtype", _Groups(gpu))
            try:
                with gpu, groups, patched(torch.cuda, "Event", _Event):
                    fit(*args, **named)
            finally:
                made.strategy._root_device = HOST  # pyright: ignore[reportAttributeAccessIssue]

        loop.advance, made.fit = one, acted  # pyright: ignore[reportAttributeAccessIssue]
        return made

    return made


@dataclass
class ActInRun:
    """Act a GPU in the training of a run (`kdlab.testing.child_process.call`, argument `prepare`); `file` gets the lines of
    `counted` for each micro-batch, in JSON."""

    file: Path

    def __call__(self) -> None:
        from kdlab.runs import single

        steps: list[list[Read]] = []
        train, lightning = single.train, single.pl
        acted = SimpleNamespace(Trainer=act(lightning.Trainer, ActedGPU(), steps), Callback=lightning.Callback)
        single.pl = acted  # pyright: ignore[reportAttributeAccessIssue]

        def noting(*given: Any) -> None:
            train(*given)
            self.file.write_text(json.dumps([counted(reads) for reads in steps]))

        single.train = noting


def counted(reads: list[Read]) -> list[str]:
    """A line for each read that differs, the most frequent first."""
    return [f"{count} x {read}" for read, count in Counter(reads).most_common()]
