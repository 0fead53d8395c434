"""A plan, made and told.

Input: a `TrainConfig`, a card, a mesh.  Output: a `Plan`; its text for people, and the same as data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cdrmix.check import load
from cdrmix.compiler import lower
from cdrmix.diagnose import UserError
from cdrmix.inspect import count
from cdrmix.ir.cost import cost
from cdrmix.plan.cards import EFFICIENCY, Card
from cdrmix.plan.communication import Traffic, traffic
from cdrmix.plan.footprint import footprint
from cdrmix.plan.memory import CONTEXT, SPARE, Memory, memory
from cdrmix.plan.mesh import rows_of
from cdrmix.plan.speed import REACHED, Speed, speed
from cdrmix.train.config import TrainConfig
from cdrmix.train.loop import context_of
from cdrmix.train.shard import Mesh


@dataclass(frozen=True, slots=True)
class Plan:
    """What a config takes on a mesh of cards.  `rows` are the sequences of a rank in a part of a step, `tokens` those
    of a step of all ranks, `steps` and `price` (of a card's hour) what the config and the user say."""

    model: str
    card: Card
    mesh: Mesh
    precision: str
    parameters: int
    active: int
    rows: int
    context: int
    tokens: int
    steps: int
    memory: Memory
    traffic: Traffic
    speed: Speed
    efficiency: float
    compiled: bool
    price: float | None
    remedies: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether a card has the memory."""
        return self.memory.total <= self.card.memory

    @property
    def days(self) -> float:
        """Of all steps."""
        return self.steps * self.speed.seconds / 86_400

    @property
    def cost(self) -> float | None:
        """Of all cards for all days, in what the price is in."""
        return None if self.price is None else self.price * self.mesh.ranks * self.days * 24


def plan(
    config: TrainConfig, card: Card, mesh: Mesh, efficiency: float = EFFICIENCY, price: float | None = None
) -> Plan:
    """The plan of a run.  Raises `UserError` where the config cannot run so."""
    if config.device == "cpu":
        raise UserError("the config trains on a CPU", "plan GPUs with --set device=auto")
    precision = "bf16" if config.precision == "auto" else config.precision
    narrow, compiled = precision == "bf16", config.compile in (True, "auto")
    model = load(config.spec, config.set, options=config.options)
    context = context_of(config, model)
    rows = rows_of(mesh, config.batch, config.accumulate)
    found, again = cost(model), config.recompute == "layers"
    f = footprint(lower(model, work=precision), config, rows, context, mesh.ranks > 1)
    parts, tokens = config.accumulate, config.batch * context
    held = memory(f, mesh, parts)
    sent = traffic(f.layers, f.root, mesh, card, parts)
    took = speed(found, f, sent, card, mesh, parts, tokens, narrow=narrow, compiled=compiled, recomputed=again,
                 efficiency=efficiency)  # fmt: skip
    return Plan(
        model.name, card, mesh, precision, found.total.stored, found.total.active, rows, context, tokens, config.steps,
        held, sent, took, efficiency, compiled, price, tuple(_remedies(config, held, mesh, rows, f.layers)),
    )  # fmt: skip


def _remedies(config: TrainConfig, held: Memory, mesh: Mesh, rows: int, layers: object) -> Iterator[str]:
    """What would make a rank need less, what helps most first."""
    activations, state = held.kept + held.passing, held.parameters + held.gradients + held.optimiser
    spread = "more GPUs to share the weights" if mesh.replicate == 1 else "more shards and fewer copies (--shard)"
    if state > activations:
        yield spread
    if config.recompute == "none" and layers:
        yield "`recompute: layers`"
    if rows > 1:
        yield f"`accumulate: {config.accumulate * rows}`, a sequence at a time"
    if state <= activations:
        yield spread
    yield "a shorter `context`"


def as_data(p: Plan) -> dict[str, Any]:
    """The plan as data."""
    found = asdict(p)
    found["memory"] |= {"torch": p.memory.torch, "total": p.memory.total}
    found["speed"] |= {"bound": p.speed.bound, "tokens_per_second": p.tokens / p.speed.seconds}
    found["assumed"] = {"efficiency": p.efficiency, "bandwidth": REACHED, "spare": SPARE, "context": CONTEXT}
    return found | {"fits": p.fits, "days": p.days, "cost": p.cost}


def describe(p: Plan) -> str:
    """The plan as text."""
    m, s, t = p.memory, p.speed, p.traffic
    ways = [f"{p.mesh.replicate} copies" * (p.mesh.replicate > 1), f"{p.mesh.shard} shards" * (p.mesh.shard > 1)]
    on = f"{p.mesh.ranks} x {p.card.name}" + "".join(f", {way}" for way in ways if way)
    per, peak = p.tokens / s.seconds, p.card.bf16 if p.precision == "bf16" else p.card.f32
    lines = [
        f"{p.model} on {on}, in {p.precision}",
        f"  parameters      {count(p.parameters)}, active for a token {count(p.active)}",
        f"  a step          {count(p.tokens)} tokens; {p.rows} sequences of {p.context} at a time on a GPU",
        "",
        f"memory of a GPU, at its fullest in {m.moment} (predicted)",
        *_row("parameters, f32", m.parameters),
        *_row("gradients", m.gradients),
        *_row("optimiser", m.optimiser),
        *_row("kept for the backward pass", m.kept),
        *_row("layers gathered whole", m.gathered),
        *_row("in passing", m.passing),
        *_row("margin (assumed)", m.total - m.torch),
        f"  {'total':28}{_size(m.total):>12} of {p.card.memory / 1e9:.0f}",
        "",
        "communication of a GPU in a step (predicted)",
        *_row("all-gathered", t.gathered),
        *_row("reduce-scattered", t.scattered),
        *_row("all-reduced", t.reduced),
        *([] if p.mesh.ranks > 1 else ["  none"]),
        "",
        f"a step takes {_seconds(s.seconds)}, bound by {s.bound} (predicted from what is assumed below)",
        f"  products        {_seconds(s.products)}: {count(round(s.flops))} FLOPs of all GPUs, MFU {s.mfu:.1%}",
        f"  memory          {_seconds(s.memory)} between the products and in the optimiser",
        f"  network         {_seconds(s.network)}, beside the rest",
        f"  tokens          {count(round(per))}/s, {count(round(per / p.mesh.ranks))}/s a GPU",
        f"  the run         {count(p.steps * p.tokens)} tokens in {_time(p.days)}"
        + (f", {p.cost:,.0f} at {p.price:g} a GPU-hour" if p.cost is not None else ""),
        "",
        f"assumed: products reach {p.efficiency:g} of {peak / 1e12:g} TFLOP/s (--efficiency), memory and links",
        f"{REACHED:g} of theirs; {SPARE:.0%} of memory and {CONTEXT / 1e9:g} GB are the allocator's and the driver's;",
        "activations are kept as they are where the graph is not compiled",
    ]
    return "\n".join(lines)


def _row(name: str, bytes: int) -> list[str]:
    return [f"  {name:28}{_size(bytes):>12}"] if bytes else []


def _size(bytes: float) -> str:
    return f"{bytes / 1e9:.2f} GB" if bytes >= 1e7 else f"{bytes / 1e6:.3g} MB"


def _time(days: float) -> str:
    return f"{days:.3g} days" if days >= 1 / 24 else _seconds(days * 86_400)


def _seconds(s: float) -> str:
    return f"{s:.3g} s" if s >= 1 else f"{s * 1e3:.3g} ms"
