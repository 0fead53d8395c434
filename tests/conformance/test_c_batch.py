"""Several streams in one step, and several threads: each stream's bits are those it has alone, on one thread."""

from __future__ import annotations

import subprocess
from ctypes import POINTER, byref, c_float, c_int, c_int32, c_void_p
from pathlib import Path

import numpy as np
import pytest
from cdrmix.codegen.c.program import BLOCK

from cdrmix.check import load_text
from cdrmix.ir.initial import random_weights

from .c_program import CC, STRICT, Array, Refused, Stream, compile_c, needs_compiler, stream
from .test_c_blocks import AROUND, OPS, WRITES

pytestmark = needs_compiler

RUNTIME = Path(__file__).parents[2] / "runtime" / "c"


# --- threads ---------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def sharing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sharing") / "sharing"
    files = [Path(__file__).with_name("sharing.c"), RUNTIME / "workers.c"]
    compile_c([str(CC), *STRICT, "-O2", "-pthread", f"-I{RUNTIME}", "-o", str(out), *map(str, files)])
    return out


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_every_item_of_a_job_is_made_once(sharing: Path, threads: int) -> None:
    done = subprocess.run([sharing, str(threads)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, f"{threads} threads\n")


WIDE = """
op mix(x: [D]) -> [D] {
  param W: [D, D] ~ normal(0.3)
  param U: [D, D] ~ normal(0.3)
  state h: [D]
  h' = tanh(W @ x + 0.5*h)
  return U @ h'
}
"""


@pytest.mark.parametrize("op", [WIDE, OPS["a matrix state whose heads are by themselves"]], ids=["wide", "heads"])
def test_threads_change_no_bit(op: str, tmp_path: Path) -> None:
    text = AROUND.format(op=op, first="").replace("d_model = 20", "d_model = 300").replace("vocab = 32", "vocab = 700")
    model = load_text(text)
    program = stream(model, random_weights(model, 1), tmp_path)
    ids = np.random.default_rng(2).integers(0, 700, 40).tolist()
    alone = [program.prefill(ids), *(program.step(t) for t in ids[:9])]
    program.lib.cdr_set_threads.argtypes = [c_void_p, c_int]
    for threads in (2, 3, 1):
        program.check(program.lib.cdr_set_threads(program.handle, threads))
        assert program.lib.cdr_threads(program.handle) == threads
        program.reset()
        found = [program.prefill(ids), *(program.step(t) for t in ids[:9])]
        assert [x.tobytes() for x in found] == [x.tobytes() for x in alone], threads
    for threads in (-1, 65):
        with pytest.raises(Refused, match="the number of threads"):
            program.check(program.lib.cdr_set_threads(program.handle, threads))


def test_the_usual_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_text(AROUND.format(op=WIDE, first=""))
    program = stream(model, random_weights(model, 1), tmp_path)
    assert program.lib.cdr_threads(program.handle) == 1
    monkeypatch.setenv("CDRMIX_THREADS", "3")
    program.check(program.lib.cdr_set_threads(program.handle, 0))
    assert program.lib.cdr_threads(program.handle) == 3
    for wrong in ("0", "many", "65", "2x"):
        monkeypatch.setenv("CDRMIX_THREADS", wrong)
        with pytest.raises(Refused, match="CDRMIX_THREADS"):
            program.check(program.lib.cdr_set_threads(program.handle, 0))
        assert program.lib.cdr_threads(program.handle) == 3, "what was stays"


# --- batches ---------------------------------------------------------------------------------------------------------
class Batch:
    """`cdr_batch_*` of a program."""

    def __init__(self, program: Stream, rows: int):
        self.program, self.lib, self.rows, self.batch = program, program.lib, rows, c_void_p()
        self.lib.cdr_batch_open.argtypes = [POINTER(c_void_p), c_void_p, c_int]
        self.lib.cdr_batch_put.argtypes = self.lib.cdr_batch_take.argtypes = [c_void_p, c_int, c_void_p]
        self.lib.cdr_batch_step.argtypes = [c_void_p, POINTER(c_int32), POINTER(c_float)]
        self.lib.cdr_batch_close.argtypes = [c_void_p]
        program.check(self.lib.cdr_batch_open(byref(self.batch), program.handle, rows))

    def put(self, row: int) -> None:
        self.program.check(self.lib.cdr_batch_put(self.batch, row, self.program.state_pointer))

    def take(self, row: int) -> None:
        self.program.check(self.lib.cdr_batch_take(self.batch, row, self.program.state_pointer))

    def step(self, tokens: Array) -> Array:
        ids = np.ascontiguousarray(tokens, np.int32)
        out = np.full((self.rows, self.program.model.vocab), np.nan, np.float32)
        pointers = ids.ctypes.data_as(POINTER(c_int32)), out.ctypes.data_as(POINTER(c_float))
        self.program.check(self.lib.cdr_batch_step(self.batch, *pointers))
        return out


@pytest.mark.parametrize("name", OPS)
def test_a_row_of_a_batch_is_a_stream(name: str, tmp_path: Path) -> None:
    """Rows come from prompts of all lengths, leave, and join again; they are more than a block."""
    carried = "carry" in OPS[name]
    model = load_text(AROUND.format(op=OPS[name] + WRITES * carried, first="first: writes" if carried else ""))
    program, rows, random = stream(model, random_weights(model, 1), tmp_path), BLOCK + 6, np.random.default_rng(5)
    batch, texts = Batch(program, rows), [list[int]() for _ in range(rows)]
    seen: list[tuple[list[int], bytes]] = []

    def join(row: int) -> None:
        texts[row] = random.integers(0, 32, 1 + row % 7).tolist()
        program.reset()
        program.prefill(texts[row])
        batch.put(row)

    for row in range(0, rows, 2):
        join(row)
    empty = set[int]()
    for _ in range(8):
        tokens = random.integers(0, 32, rows)
        leaving = set(random.choice(rows, 4, replace=False).tolist())
        tokens[list(empty | leaving)] = -1
        logits = batch.step(tokens)
        empty |= leaving
        for row in range(rows):
            if row in empty:
                assert not logits[row].any()
            else:
                texts[row].append(int(tokens[row]))
                seen.append((list(texts[row]), logits[row].tobytes()))
        for row in sorted(empty)[::3]:
            join(row)
            empty.discard(row)
    for text, found in seen[:: max(1, len(seen) // 40)]:
        program.reset()
        assert program.prefill(text).tobytes() == found
    for row in sorted(set(range(rows)) - empty)[::5]:
        batch.take(row)
        after, kept = program.state(), program.prefill([])
        program.reset()
        assert program.prefill(texts[row]).tobytes() == kept.tobytes()
        assert all(x.tobytes() == after[path].tobytes() for path, x in program.state().items())
    batch.lib.cdr_batch_close(batch.batch)


def test_what_a_batch_refuses(tmp_path: Path) -> None:
    model = load_text(AROUND.format(op=WIDE, first=""))
    program = stream(model, random_weights(model, 1), tmp_path)
    batch = Batch(program, 2)
    before = batch.step(np.array([1, 2]))
    for tokens in ([1, 32], [-2, 1]):
        with pytest.raises(Refused, match="outside the vocabulary"):
            batch.step(np.array(tokens))
    assert np.isfinite(before).all()
    batch.step(np.array([-1, 5]))
    with pytest.raises(Refused, match="holds no state"):
        batch.step(np.array([1, 1]))
    with pytest.raises(Refused, match="holds no state"):
        batch.take(0)
    for call in (lambda: batch.put(2), lambda: batch.take(-1), lambda: Batch(program, 0)):
        with pytest.raises(Refused, match="no such row"):
            call()
    batch.take(1)
    assert program.prefill([]).any()
    batch.lib.cdr_batch_close(batch.batch)
