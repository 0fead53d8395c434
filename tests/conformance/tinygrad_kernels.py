"""Calls of the hand-written tinygrad kernels, each with what numpy in float64 says.

A `Case` is run on some device by `check`; its slots are written in place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from cdrmix.runtime.tinygrad.products import row_product
from cdrmix.runtime.tinygrad.scans import chunk_scan, coupled_scan, linear_scan, max_plus_scan
from tinygrad import Tensor

Array = np.ndarray
Reads = Sequence[tuple[int, bool]]


@dataclass(frozen=True, slots=True)
class Case:
    """`call(inputs, slots)` gives outputs and the slots after; `want` their values."""

    name: str
    call: Callable[[list[Tensor], list[Tensor]], list[Tensor]]
    inputs: list[Array]
    slots: list[Array]
    want: list[Array]

    def __str__(self) -> str:
        return self.name


def check(case: Case, device: str | None = None, bound: float = 5e-7) -> None:
    """Outputs and slots agree with float64 by relative RMS."""
    inputs = [Tensor(x, device=device).realize() for x in case.inputs]
    slots = [Tensor(s, device=device).contiguous().realize() for s in case.slots]
    found = case.call(inputs, slots)
    Tensor.realize(*found)
    for y, want in zip([*found, *slots], [*case.want, *case.want[len(case.want) - len(slots) :]], strict=True):
        assert tuple(y.shape) == want.shape
        assert distance(y.numpy(), want) < bound


def distance(x: Array, want: Array) -> float:
    """The relative RMS error."""
    size = float(np.sqrt((want.astype(np.float64) ** 2).mean()))
    return float(np.sqrt(((x - want.astype(np.float64)) ** 2).mean())) / (size or 1.0)


# --- products ------------------------------------------------------------------------------------------------------
def stored(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> tuple[Array, Array | None, Array]:
    """A weight as it is stored, its scale, and its values."""
    w = rng.standard_normal(shape).astype(np.float32)
    match kind:
        case "f16":
            half = w.astype(np.float16)
            half[np.abs(half) < 1e-4] = 0  # tinygrad's PYTHON device loses subnormal halves
            return half, None, half.astype(np.float64)
        case "bf16":
            bits = (w.view(np.uint32) >> 16).astype(np.uint16)
            return bits, None, (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
        case "i8":
            q = rng.integers(-127, 128, shape).astype(np.int8)
            scale = rng.random(shape[:-1]).astype(np.float32)
            return q, scale, q.astype(np.float64) * scale[..., None]
    return w, None, w.astype(np.float64)


def product(kind: str, N: int, M: int, K: int, matrices: int = 0, pick: Sequence[int] | None = None) -> Case:
    """y[n, m] = Σ_k W[m, k] x[n, k], for one matrix, a batch of them, or chosen ones."""
    rng = np.random.default_rng(N * 1000 + M + K)
    w, scale, value = stored(rng, (*([matrices] if matrices else []), M, K), kind)
    groups = matrices if pick is None else len(pick)
    x = rng.standard_normal((*([groups] if groups else []), N, K)).astype(np.float32)
    chosen = value if pick is None else value[np.clip(pick, 0, matrices - 1)]
    want = np.einsum("...nk,...mk->...nm", x.astype(np.float64), chosen)
    inputs = [w, x]
    if scale is not None:
        inputs.append(scale)
    if pick is not None:
        inputs.append(np.array(pick, np.int32))
        want[np.array(pick) < 0] = 0

    def call(given: list[Tensor], slots: list[Tensor]) -> list[Tensor]:
        rest = given[2:]
        return [
            row_product(
                given[0],
                given[1],
                rest.pop(0) if scale is not None else None,
                rest.pop(0) if pick is not None else None,
            )
        ]

    return Case(f"{kind}-{N}x{M}x{K}" + ("" if not groups else f"-{groups}of{matrices}"), call, inputs, [], [want])


# --- scans ---------------------------------------------------------------------------------------------------------
def linear(B: int, T: int, S: tuple[int, ...], decay: tuple[int, ...], combine: str = "add") -> Case:
    """s' = decay s + addend, or a max-plus scan."""
    rng = np.random.default_rng(T + B)
    d, b, s = (rng.standard_normal(n).astype(np.float32) for n in (decay, (B, T, *S), (B, *S)))
    d.reshape(-1)[::3], d.reshape(-1)[1::5] = 0, 1e-30
    if combine != "add":
        s.reshape(-1)[0] = -1e30
    all_d, now, after = np.broadcast_to(d.astype(np.float64), (B, T, *S)), s.astype(np.float64), []
    for t in range(T):
        match combine:
            case "add":
                now = all_d[:, t] * now + b[:, t]
            case "max":
                now = np.maximum(now + all_d[:, t], b[:, t])
            case _:
                now = np.logaddexp(now + all_d[:, t], b[:, t])
        after.append(now)

    def call(given: list[Tensor], slots: list[Tensor]) -> list[Tensor]:
        if combine == "add":
            return list(linear_scan(given[0], given[1], slots[0]))
        return list(max_plus_scan(given[0], given[1], slots[0], combine))

    return Case(f"{combine}-{B}x{T}x{S}-{decay}", call, [d, b], [s], [np.stack(after, 1), now])


def coupled(B: int, T: int, S: tuple[int, ...], F: int) -> Case:
    """s_f' = Σ_g d[f, g] s_g + b_f, some d absent."""
    rng = np.random.default_rng(T + F)
    d = rng.standard_normal((F, F, B, T, *S)).astype(np.float32)
    b, s = rng.standard_normal((F, B, T, *S)).astype(np.float32), rng.standard_normal((F, B, *S)).astype(np.float32)
    there = [[(f + g) % 3 > 0 for g in range(F)] for f in range(F)]
    now, after = s.astype(np.float64), []
    for t in range(T):
        now = np.stack(
            [sum((d[f, g, :, t] * now[g] for g in range(F) if there[f][g]), start=b[f, :, t]) for f in range(F)]
        )
        after.append(now)
    every = np.stack(after, 2)

    def call(given: list[Tensor], slots: list[Tensor]) -> list[Tensor]:
        decay = [[given[0][f, g] if there[f][g] else None for g in range(F)] for f in range(F)]
        out, new = coupled_scan(decay, [given[1][f] for f in range(F)], slots)
        return [*out, *new]

    return Case(f"coupled-{B}x{T}x{S}x{F}", call, [d, b], list(s), [*every, *now])


def matrix_state(
    B: int,
    T: int,
    H: int,
    V: int,
    K: int,
    decay: str = "key",
    rank: int = 1,
    outer: int = 1,
    reads: Reads = ((1, True),),
    states: int = 1,
    value_decay: bool = False,
    axes: str = "hvk",
) -> Case:
    """S' = (S (Φ + Σ a bᵀ)) ∘ wv + Σ v kᵀ and what asks it, before and after the token."""
    rng = np.random.default_rng(B * T * H + V + K)

    def some(*shape: int) -> Array:
        return rng.standard_normal(shape).astype(np.float32)

    F = states
    given: dict[str, Array] = {f"q{i}": some(B, T, H, n, F * K) for i, (n, _) in enumerate(reads)}
    shape = {"none": None, "head": (B, T, H, 1), "key": (B, T, H, K), "mix": (B, T, H, F, F, K)}[decay]
    if shape is not None:
        w = rng.uniform(-1, 1, shape).astype(np.float32)
        w.reshape(-1)[::7], w.reshape(-1)[1::11] = 0, 1e-30
        given["w"] = w
    if outer:
        given["k"], given["v"] = some(B, T, H, outer, F * K), some(B, T, H, outer, V)
    if rank:
        given["a"], given["b"] = some(B, T, H, rank, F * K) / np.float32(K), some(B, T, H, rank, F * K)
    if value_decay:
        given["wv"] = rng.uniform(0, 1, (B, T, H, V)).astype(np.float32)
    before = [some(B, H, V, K) for _ in range(F)]
    said, last = token_by_token(
        {n: x.astype(np.float64) for n, x in given.items()}, before, [late for _, late in reads], T
    )
    order = [0, *(1 + "hvk".index(letter) for letter in axes)]
    names = list(given)

    def call(inputs: list[Tensor], slots: list[Tensor]) -> list[Tensor]:
        x = dict(zip(names, inputs, strict=True))
        y, new = chunk_scan(
            [x[f"q{i}"] for i in range(len(reads))],
            [late for _, late in reads],
            *(x.get(n) for n in ("w", "k", "v")),
            slots,
            *(x.get(n) for n in ("a", "b", "wv")),
            axes,
        )
        return [*y, *new]

    name = f"{decay}{rank}{outer}-{B}x{T}x{H}x{V}x{K}-{''.join('yn'[not late] * n for n, late in reads)}-{axes}x{F}"
    slots = [np.ascontiguousarray(s.transpose(order)) for s in before]
    return Case(name, call, list(given.values()), slots, [*said, *(s.transpose(order) for s in last)])


def token_by_token(
    x: dict[str, Array], before: Sequence[Array], after: Sequence[bool], T: int
) -> tuple[list[Array], list[Array]]:
    """The definition: one token after the other."""
    S, F, said = np.concatenate(before, -1).astype(np.float64), len(before), [[] for _ in after]  # type: ignore[var-annotated]
    for t in range(T):
        new = S
        if "w" in x and x["w"].ndim == 6:
            parts = np.split(S, F, -1)
            new = np.concatenate([sum(parts[g] * x["w"][:, t, :, g, f, None] for g in range(F)) for f in range(F)], -1)
        elif "w" in x:
            new = S * x["w"][:, t, :, None]
        if "a" in x:
            new = new + np.einsum("bhvk,bhrk,bhrj->bhvj", S, x["a"][:, t], x["b"][:, t])
        if "wv" in x:
            new = new * x["wv"][:, t, :, :, None]
        if "k" in x:
            new = new + np.einsum("bhmv,bhmk->bhvk", x["v"][:, t], x["k"][:, t])
        for i, late in enumerate(after):
            said[i].append(np.einsum("bhvk,bhnk->bhnv", new if late else S, x[f"q{i}"][:, t]))
        S = new
    return [np.stack(y, 1) for y in said], np.split(S, F, -1)
