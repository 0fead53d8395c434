"""`cdrmix quantize`: an artefact in fewer bits, chosen and rounded by a text.

Input: a model's weights, a text, the narrowest encoding and how much the text may cost more.  Output: the artefact, and
what was found: bits per byte before and after, the choice, and every tensor's errors.

The text's first quarter, at most `SAMPLE` tokens, says what vectors the matrices meet and what each choice costs; the
bits per byte are of the rest, which nothing was fitted to.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tokenizers import Tokenizer

from cdrmix.artifact import Quantised, write_artifact
from cdrmix.checkpoints import read_weights
from cdrmix.compiler import backend, lower, options_of
from cdrmix.diagnose import UserError
from cdrmix.ir.nodes import Stored
from cdrmix.packing import stored
from cdrmix.passes.encodings import encodings_asked
from cdrmix.progress import doing, over
from cdrmix.quantize.policy import Choice, Group, free, groups, rules_of, widen
from cdrmix.quantize.products import Collect
from cdrmix.quantize.report import Found
from cdrmix.quantize.rounding import Rounding
from cdrmix.quantize.source import Source
from cdrmix.quantize.trial import Held, Sample, Trial
from cdrmix.runtime.encodings import ENCODINGS
from cdrmix.train.batches import lanes
from cdrmix.train.build import build_module, require_finite
from cdrmix.train.evaluate import evaluate
from cdrmix.train.place import Placement
from cdrmix.train.store import TokenStore, open_store
from cdrmix.train.tokenizer import load_tokenizer, require_fit
from cdrmix.weights import owners

SAMPLE, LEAST = 8192, 256
"""Tokens to round by, at most and at least."""

TRIED = 2048
"""The first of them, by which encodings are chosen: each choice is tried on so many."""

ROWS, LENGTH = 8, 256
"""How a text is read: lanes, and tokens of each at once."""

WIDER: Sequence[Stored] = ("i4", "i8", "i8g32", "f16", "bf16")
"""What a matrix is held in, step by step, where it costs too much narrower; as far as the target reads it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the user wants: the data and how it is read, the target, the encodings, and the part of the bits per byte
    that may be lost."""

    data: Sequence[Path]
    field: str
    tokens: int
    target: str
    matrices: Stored
    rules: Sequence[str]
    most: float
    tokenizer: Path | Literal["bytes"] | None
    threads: int | None = None


def quantise(source: Source, asked: Asked, out: Path) -> Found:
    """Choose, round and write.  Raises `UserError` for a text that is too short, and for what cannot be had."""
    Placement(threads=asked.threads).prepare()
    model = source.model
    ladder = _ladder(asked.target, asked.matrices, asked.rules)
    given = asked.tokenizer or source.tokenizer
    if given is None:
        raise UserError(f"no tokenizer beside {source.weights}", "give --tokenizer FILE, or bytes")
    tokenizer = load_tokenizer(given)
    require_fit(tokenizer, model)
    weights, fixed = free(model, asked.rules)
    if not weights:
        raise UserError(f"{model.name} has no matrix left to hold as {asked.matrices}", "--encode holds them all")
    with tempfile.TemporaryDirectory(prefix="cdrmix-quantize-") as scratch:
        sampled, rest = _texts(Path(scratch), asked, tokenizer, model.vocab)
        values = read_weights(model, source.weights)
        module = build_module(lower(model), Path(scratch) / "module", None)
        module.load_state_dict({path: torch.from_numpy(x) for path, x in values.items()})
    require_finite(module, source.weights)
    module.eval()
    with doing("reading the sample"), Collect(module) as seen:
        evaluate(module, sampled, LENGTH, rows=1)  # lanes of unlike documents would be padded, and that seen too
    rounding = Rounding(values, seen.found)
    trial = Trial(module, rounding, backend(asked.target).rounds)
    sample = Sample(trial, list(lanes(sampled, ROWS, LENGTH, TRIED)), sampled.sizes)
    costs: dict[tuple[Group, str], float] = {}

    def error(path: str) -> float:
        off = rounding.off(path, asked.matrices)
        return off.weights if off.products is None else off.products

    def cost(group: Group, to: str) -> float:
        if (group, to) not in costs:
            costs[group, to] = sample.cost(dict.fromkeys(group.paths, to))
        return costs[group, to]

    def score(held: Held) -> float:
        with doing("scoring the text"), trial.hold(held):
            return evaluate(module, rest, LENGTH, ROWS).bits_per_byte

    every = groups(weights, error)
    for group in over(every, "finding what each costs", len(every), "groups"):
        cost(group, asked.matrices)
    before = score({})
    for choice in _choices(every, ladder, cost, asked.most * before):
        held = fixed | {path: to for group, to in choice.items() for path in group.paths}
        if sample.cost(held) <= asked.most * before or _widest(choice, ladder):
            after = score(held)
            if after <= before * (1 + asked.most):
                break
    else:
        lost = f"{(after / before - 1) * 100:.2g}"
        raise UserError(
            f"--max-loss {asked.most * 100:g}: as {ladder[-1]}, the widest there is, the text costs {lost} % more",
            "give a larger --max-loss, or leave --encode out where it holds a matrix in less than that",
        )
    rules = rules_of(model, asked.matrices, choice, asked.rules)
    lowered = lower(model, weights=asked.matrices, rules=rules)
    stored_as = {w.path: stored(w) for w in owners(lowered.program.model)}
    rounded = {path: to for path, to in stored_as.items() if to != "f32"}
    found = Found(
        bits=(before, after),
        tokens=(len(sampled.tokens), len(rest.tokens)),
        bytes=(_bytes(values, {}), _bytes(values, stored_as)),
        most=asked.most,
        groups=[(group, to, cost(group, to)) for group, to in choice.items()],
        off={path: rounding.off(path, to) for path, to in rounded.items()},
        rules=rules,
        text=sampled.digest,
    )
    done = Quantised({path: rounding.planes(path, to) for path, to in rounded.items()}, found.policy())
    options = options_of(asked.target, {})
    write_artifact(lowered, asked.target, out, source.weights, asked.tokenizer, None, source.overrides, options, done)
    return found


def _bytes(values: Mapping[str, np.ndarray], held: Held) -> int:
    """What the tensors take."""
    return sum(ENCODINGS[held.get(path, "f32")].bytes(x.shape) for path, x in values.items())


def _ladder(target: str, matrices: Stored, rules: Sequence[str]) -> list[Stored]:
    """The encodings from the narrowest on."""
    options_of(target, {}, *encodings_asked(matrices, rules))
    wider = [to for to in WIDER[WIDER.index(matrices) :] if to in backend(target).encodings]
    return [to for to in wider if to != "bf16" or "f16" not in wider]


def _choices(
    every: Sequence[Group], ladder: Sequence[Stored], cost: Callable[[Group, str], float], most: float
) -> Iterator[Choice]:
    """Wider and wider choices: what costs add up to is only a guess at what all cost together."""
    choice: Choice = dict.fromkeys(every, ladder[0])
    share = 1.0
    while True:
        choice = widen(choice, ladder, cost, most * share)
        yield choice
        if _widest(choice, ladder):
            return
        share *= 0.7


def _widest(choice: Choice, ladder: Sequence[Stored]) -> bool:
    return all(to == ladder[-1] for to in choice.values())


def _texts(scratch: Path, asked: Asked, tokenizer: Tokenizer, vocab: int) -> tuple[TokenStore, TokenStore]:
    """The sample, and what is scored."""
    store = open_store(scratch / "tokens", list(asked.data), asked.field, tokenizer, vocab)
    tokens = store.tokens[: asked.tokens]
    at = min(SAMPLE, len(tokens) // 4)
    if at < LEAST:
        raise UserError(
            f"{len(tokens)} tokens of text: too few to choose by, and to score", f"give at least {4 * LEAST}"
        )
    parts = [tokens[:at], tokens[at:]]
    starts = store.starts[store.starts < len(tokens)]
    later = starts[starts > at] - at
    return (
        replace(store, tokens=np.array(parts[0]), starts=starts[starts < at]),
        replace(store, tokens=np.array(parts[1]), starts=np.concatenate([[0], later])),
    )
