"""The one place that imports tinygrad's UOps (a public interface, alpha in 0.14) and says how kernels are written.

A kernel is a function from its size to a `UOp` sink; buffers are flat and named by their place in the call:

    launch(sink, outputs, inputs) -> list[Tensor]    the outputs after the kernel ran; slot i is (outputs + inputs)[i]
    buffer(slot, size, dtype)                        an argument; its dtype may differ from the tensor's (same bytes)
    shared(slot, size) / register(slot, size)        f32 arrays of a block / of a thread (or of another dtype)
    block(size, axis), lane(size, axis), loop(size, axis)    indices: grid, threads of a block, a loop
    finish(name, axes, *stores)                      the sink

On a device without blocks of threads (`has_blocks(device)` False: a CPU) `block` and `lane` are not to
be used; `loop` stands for them.  A read `shared(...).after(*stores)` waits for all threads of the block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

from tinygrad import Device, Tensor, dtypes
from tinygrad.dtype import AddrSpace, DType
from tinygrad.uop.ops import AxisType, GroupOp, KernelInfo, Ops, UOp

__all__ = [
    "DType",
    "GroupOp",
    "Ops",
    "UOp",
    "added",
    "block",
    "buffer",
    "ended",
    "finish",
    "gated",
    "has_blocks",
    "lane",
    "launch",
    "least",
    "loop",
    "real",
    "register",
    "shared",
    "total",
]

OWN = 1000  # tinygrad numbers the arrays it adds itself from 0


def has_blocks(device: str | tuple[str, ...] | None) -> bool:
    """Whether kernels run as blocks of threads with shared memory; constants lie on no device, and run on the usual."""
    name = device[0] if isinstance(device, tuple) else device or Device.DEFAULT
    return bool(Device[name].renderer.has_local)


def launch(sink: UOp, outputs: Sequence[Tensor], inputs: Sequence[Tensor]) -> list[Tensor]:
    """The outputs after the kernel; inputs that are not buffers yet are computed into one first."""
    placed = [t if t.device is not None else t.clone(outputs[0].device) for t in inputs]  # constants lie nowhere
    first, *rest = (_buffer(t) for t in (*outputs, *placed))
    after = first.custom_kernel(*rest, fxn=lambda *_: sink)
    return [t.reshape(o.shape) for t, o in zip(after, outputs, strict=False)]


def _buffer(t: Tensor) -> Tensor:
    """The whole buffer that holds a tensor's values, under any shape.

    tinygrad copies an argument that was reshaped twice, takes a slice for the whole of its buffer, and cannot give a
    kernel what turns out to be a constant.
    """
    u = t.uop
    while u.op is Ops.RESHAPE:
        u = u.src[0]
    return Tensor(u) if u.op in {Ops.BUFFER, Ops.AFTER, Ops.CONTIGUOUS} else Tensor(u).contiguous()


def buffer(slot: int, size: int, dtype: DType = dtypes.float32) -> UOp:
    return UOp.placeholder((size,), dtype, slot)


def shared(slot: int, size: int, dtype: DType = dtypes.float32) -> UOp:
    return UOp.placeholder((size,), dtype, OWN + slot, AddrSpace.LOCAL)


def register(slot: int, size: int, dtype: DType = dtypes.float32) -> UOp:
    return UOp.placeholder((size,), dtype, OWN + slot, AddrSpace.REG)


def block(size: int, axis: int) -> UOp:
    return _index(size, axis, AxisType.GLOBAL)


def lane(size: int, axis: int) -> UOp:
    return _index(size, axis, AxisType.LOCAL)


def loop(size: int, axis: int) -> UOp:
    return _index(size, axis, AxisType.LOOP)


def _index(size: int, axis: int, kind: AxisType) -> UOp:
    return UOp.range(size, axis, kind) if size > 1 else UOp.const(0)


def real(value: float) -> UOp:
    """A f32 constant."""
    return UOp.const(float(value), dtypes.float32)


def total(term: UOp, *axes: UOp) -> UOp:
    """The sum of `term` over loops."""
    real_axes = tuple(a for a in axes if a.op is Ops.RANGE)
    return term.reduce(*real_axes, arg=Ops.ADD) if real_axes else term


def added(terms: Sequence[UOp]) -> UOp:
    """The sum of a few terms, from the left."""
    return reduce(lambda a, b: a + b, terms)


def least(x: UOp, bound: int) -> UOp:
    """An index, at most `bound`."""
    return x.minimum(bound) if x.vmax > bound else x


def gated(at: UOp, *gates: UOp | None) -> UOp:
    """An index that loads 0 and stores nothing where a gate is False."""
    found = [g for g in gates if g is not None]
    return at.valid(reduce(lambda a, b: a & b, found)) if found else at


def ended(store: UOp, *axes: UOp) -> UOp:
    """A store, done for all turns of its loops."""
    return store.end(*(a for a in axes if a.op is Ops.RANGE))


def finish(name: str, axes: Sequence[UOp], *stores: UOp) -> UOp:
    """The kernel: its stores, run for every value of the axes."""
    return ended(UOp.group(*stores), *axes).sink(arg=KernelInfo(name=name, opts_to_apply=())).rtag(name)
