"""Every primitive over the emulation, at ordinary inputs: see `tests/conformance/test_primitives`."""

from __future__ import annotations

from pathlib import Path

import pytest
from cdrmix.runtime.session import Session

from cdrmix.artifact import write_artifact
from cdrmix.check import load_text
from cdrmix.compiler import lower, options_of
from cdrmix.diagnose import CompileError
from cdrmix.weights import owners, write_weights
from tests.conformance.primitives import weights_of
from tests.conformance.test_primitives import INPUTS, ROWS, cases, compare, model_for, tokens_of

from .agree import needs_compiler


@needs_compiler
@pytest.mark.parametrize(("group", "key"), cases())
def test_tenstorrent(group: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDR_DEVICE", "emulated")
    model, weights, given = model_for(group, key), weights_of(INPUTS[key]()), tmp_path / "given.safetensors"
    write_weights(given, {w.path: w.shape for w in owners(model)}, weights.__getitem__)
    options = options_of("tenstorrent", {"device": "n150", "cores": 1}, "f32")
    write_artifact(lower(model, weights="f32"), "tenstorrent", tmp_path / "made", given, options=options)
    found = []
    with Session.open(tmp_path / "made") as start:
        for row in range(ROWS):
            session = start.fork()
            for token in tokens_of(group, row):
                session.step(token)
            found.append(session.state())
    assert not compare(found, group, key, tolerance=1e-5)


def test_a_large_matrix_that_is_read_element_by_element_too_is_refused(tmp_path: Path) -> None:
    """A small one is held in L1 for both: the sums above read `w` so."""
    text = """use "lib/embed.cdr" { embed, head }
op twice(x: [D]) -> [D] {
  param W: [D, D] ~ orthogonal()
  y[i] = sum[j](W[i,j]*x[j]) / sqrt(1 + sum[j](W[i,j]^2))
  return y
}
model m {
  vocab = 16
  d_model = 160
  stack { emb: embed(vocab, d_model) ⏎ t: twice ⏎ head(vocab) }
}
"""
    model = load_text(text.replace(" ⏎ ", "\n"), "both.cdr")
    options = options_of("tenstorrent", {"device": "n150", "cores": 1}, "f32")
    with pytest.raises(CompileError, match="E0908") as refused:
        write_artifact(lower(model, weights="f32"), "tenstorrent", tmp_path / "made", options=options)
    assert all(d.span.line == 4 and d.help for d in refused.value.diagnostics)
