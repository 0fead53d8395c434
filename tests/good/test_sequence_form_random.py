"""Cells drawn at random: whatever class the algebra finds, the sequence form is the text."""

from __future__ import annotations

import random

import pytest

from .cells import Known, model_of
from .test_sequence_form import agree


def draw(seed: int) -> str:
    """The equations of one to three matrix states that decay, contract, add, gate and read each other."""
    r = random.Random(seed)
    states = ["S", "P", "U"][: r.choice([1, 1, 2, 2, 3])]

    def key(j: str = "j") -> str:
        return r.choice(["k[h,{0}]", "r[h,{0}]", "sigmoid(g[h,{0}])", "tanh(f[{0}])"]).format(j)

    def row() -> str:
        return r.choice(["v[h,i]", "sigmoid(w[h,i])", "tanh(v[h,i])"])

    def scale() -> str:
        return r.choice(["0.5", "sigmoid(b[h])", "a[h]/(1 + a[h]^2)", "-0.3"])

    def state(known: list[str], j: str = "j") -> str:
        return f"{r.choice(known)}[h,i,{j}]"

    def term(known: list[str]) -> str:
        kind = r.choices(range(5), [6, 6, 5, 2, 1])[0]
        return [
            lambda: f"{state(known)}*{scale()}*{r.choice(['1', key()])}",
            lambda: f"sum[m]({state(known, 'm')}*{key('m')})*{key()}*{scale()}",
            lambda: f"{row()}*{key()}",
            lambda: f"({state(known)} - {row()}*{key()})*{scale()}",
            lambda: f"({state(known)} if b[h] > 0 else {row()}*{key()})",
        ][kind]()

    def read(known: list[str]) -> str:
        kind = r.choices(range(4), [15, 2, 2, 1])[0]
        return [
            lambda: f"sum[j]({state(known)}*{key()}*z[h,j])*{scale()}",
            lambda: f"mean[j]({state(known)}*{key()} + {row()})",
            lambda: f"tanh(sum[j]({state(known)}*{key()}))",
            lambda: f"sum[j](tanh({state(known)}))",
        ][kind]()

    def added(what, known: list[str], most: int) -> str:
        return " + ".join(what(known) for _ in range(r.randint(1, most)))

    lines = [f"state {s}: [H, I, J]" for s in states]
    known = list(states)
    if r.random() < 0.5:
        lines.append(f"T[h,i,j] = {added(term, known, 2)}")
        known.append("T")
    if r.random() < 0.4:
        lines += [f"q[h,i] = sum[j]({state(known)}*{key()})", "z[h,j] = r[h,j]*mean[i](q[h,i])"]
    else:
        lines.append("z[h,j] = r[h,j]")
    for s in r.sample(states, len(states)):
        lines.append(f"{s}'[h,i,j] = {added(term, known, 3)}")
        known.append(f"{s}'")
    all_read = " + ".join(f"0.1*sum[j]({name}[h,i,j]*z[h,j])" for name in known if name not in states)
    return "\n".join([*lines, f"y[h,i] = {added(read, known, 3)} + {all_read}"])  # nothing is left unread


@pytest.mark.parametrize("seed", range(16))
def test_random_cells(seed, tmp_path):
    model = model_of(Known(draw(seed), ""), tmp_path)
    assert agree(model, 9) < 1e-9
    assert agree(model, 9, work="bf16") < 1e-9
