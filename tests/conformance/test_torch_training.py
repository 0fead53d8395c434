"""What training asks of the generated module: its groups, its initial weights, its batches, its keys."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cdrmix.codegen.torch import module as backend
from jinja2 import Environment, meta
from torch import Tensor, nn

from cdrmix.check import load, load_op, load_text
from cdrmix.compiler import lower
from cdrmix.diagnose import CompileError
from cdrmix.ir import layout
from cdrmix.ir.initial import initial_weights
from cdrmix.ir.nodes import Model
from tests.conformance.torch_agree import Pair, module_of

ROOT = Path(__file__).parents[2]
OPS = Path(__file__).with_name("torch_ops.cdr")
HYBRID = {
    "d_model": "32",
    "layers": "4",
    "vocab": "64",
    "mixer": "rwkv7(N=16, dw=4, da=4, dv=4, dg=4)",
    "moe.hidden": "16",
    "moe.experts": "4",
    "attn.window": "8",
}

torch.set_num_threads(1)


@cache
def hybrid() -> Model:
    return load(ROOT / "spec" / "hybrid.cdr", HYBRID)


# --- the optimiser's groups and the initial weights -----------------------------------------------------------------
def test_groups_follow_the_spec() -> None:
    module = module_of(hybrid())
    groups = module.param_groups(1e-3, 0.1)  # type: ignore[operator]
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert len(found) == sum(len(g["params"]) for g in groups) == len(list(module.parameters()))
    wanted = {w.path: w for w in layout.weights(hybrid()) if w.kind == "param" and w.owner == w.path}
    named = dict(module.named_parameters(remove_duplicate=False))
    for path, w in wanted.items():
        decay = w.decl.decay if w.decl.decay is not None else float(len(w.decl.indices) > 1)  # type: ignore[union-attr]
        want = (1e-3 * w.decl.lr, 0.1 * decay)  # type: ignore[union-attr]
        assert found[id(named[path])] == pytest.approx(want), path


def test_initial_weights_follow_the_rules() -> None:
    model = hybrid()
    one, two = (module_of(model).state_dict() for _ in range(2))
    for path, value in one.items():
        assert torch.equal(value, two[path]), path
    want = initial_weights(model, 0)
    for w in layout.weights(model):
        if w.owner != w.path:
            continue
        got = one[w.path].numpy()
        rule = w.decl.init.rule if w.kind == "param" else "value"  # type: ignore[union-attr]
        match rule:
            case "value":
                np.testing.assert_allclose(got, want[w.path], rtol=1e-6, atol=1e-7, err_msg=w.path)
            case "orthogonal":
                matrices = (x.reshape(-1, *got.shape[-2:]) for x in (got, want[w.path]))
                for a, b in zip(*matrices, strict=True):
                    small = (lambda m: m @ m.T) if a.shape[0] <= a.shape[1] else (lambda m: m.T @ m)
                    np.testing.assert_allclose(small(a), small(b), atol=1e-5, err_msg=w.path)
            case _:
                assert np.isclose(got.std(), want[w.path].std(), rtol=0.2) and abs(got.mean()) < got.std() / 2, w.path
    assert not torch.equal(one["layer.1.ffn.F.Wk"][0], one["layer.1.ffn.F.Wk"][1])


# --- keys, ties, batches --------------------------------------------------------------------------------------------
def test_state_dict_has_the_owners_paths() -> None:
    model = hybrid()
    module = module_of(model)
    owners = {w.path: w.shape for w in layout.weights(model) if w.owner == w.path}
    assert {path: tuple(x.shape) for path, x in module.state_dict().items()} == owners
    assert model.ties and not set(model.ties) & set(module.state_dict())
    other = module_of(model)
    with torch.no_grad():
        for p in other.parameters():
            p.normal_()
    module.load_state_dict(other.state_dict())
    tokens = torch.arange(12)[None] % model.vocab
    torch.testing.assert_close(module(tokens)[0], other(tokens)[0])
    assert module.head.W is module.emb.E  # type: ignore[union-attr]


def test_names_that_python_has_taken_keep_their_paths() -> None:
    model = load_op(OPS, "hostile", {"D": 4})
    paths = {w.path for w in layout.weights(model)}
    assert set(module_of(model).state_dict()) == paths and "hostile.forward" in paths


@pytest.mark.parametrize("op", ["rwkv7", "attention", "bank_of_state", "bank_of_history", "every_of_state", "tanh_rnn"])
def test_rows_of_a_batch_do_not_meet(op: str) -> None:
    args = {
        "rwkv7": {"N": "3", "dw": "2", "da": "2", "dv": "2", "dg": "3"},
        "attention": {"heads": "3", "window": "4"},
    }.get(op, {})
    module = Pair(load_op(OPS, op, {"D": 6}, args)).module
    x = torch.randn(3, 21, 6)
    reset = torch.rand(3, 21) < 0.2
    with torch.no_grad():
        y, state = module(x, None, reset)
        for b in range(3):
            one, after = module(x[b : b + 1], None, reset[b : b + 1])
            torch.testing.assert_close(y[b : b + 1], one, rtol=1e-4, atol=1e-5)
            for path in state:
                torch.testing.assert_close(state[path][b : b + 1], after[path], rtol=1e-4, atol=1e-5)
        steps = module.init_state(3)  # type: ignore[operator]
        whole, end = module(x, None, None)
        for t in range(21):
            out, steps = module.step(x[:, t], steps)  # type: ignore[operator]
            torch.testing.assert_close(out, whole[:, t], rtol=1e-4, atol=1e-5)
        for path in end:
            torch.testing.assert_close(steps[path], end[path], rtol=1e-4, atol=1e-5)


def test_a_forward_can_be_run_again_for_checkpointing() -> None:
    model = hybrid()
    module = module_of(model)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn_like(p))
    tokens = torch.randint(0, model.vocab, (2, 9))

    def gradients(wrap: bool) -> list[Tensor]:
        module.zero_grad()
        if wrap:
            for block in module.layer:  # type: ignore[union-attr]
                block.forward = _checkpointed(type(block).forward, block)
        module(tokens, None, None)[0].square().mean().backward()
        return [p.grad.clone() for p in module.parameters() if p.grad is not None]

    for a, b in zip(gradients(False), gradients(True), strict=True):
        torch.testing.assert_close(a, b)


def _checkpointed(forward: Any, block: nn.Module) -> Any:
    from torch.utils.checkpoint import checkpoint

    return lambda *args: checkpoint(forward, block, *args, use_reentrant=False)


# --- the generated text ---------------------------------------------------------------------------------------------
def test_the_template_uses_exactly_its_keys() -> None:
    source = (ROOT / "codegen" / "torch" / backend.TEMPLATE).read_text(encoding="utf-8")
    wanted = meta.find_undeclared_variables(Environment().parse(source))
    assert wanted == set(backend.template_keys(lower(hybrid()).program))


def test_the_module_is_the_same_every_time_and_fits_its_lines() -> None:
    program = lower(hybrid()).program
    text = backend.module_text(program)
    assert isinstance(text, str) and text == backend.module_text(program)
    assert all(len(line) <= 120 and line == line.rstrip() for line in text.splitlines())
    assert "# S'[h,i,j] = S[h,i,j]*w[h,j] - sum[m](S[h,i,m]*kk[h,m]) * kk[h,j]*a[h,j] + v[h,i]*k[h,j]" in text


def test_a_training_value_inside_a_bank_is_refused() -> None:
    model = load_op(OPS, "bank_of_moe", {"D": 8})
    with pytest.raises(CompileError) as error:
        backend.module_text(lower(model).program)
    (found,) = error.value.diagnostics
    assert found.code == "E0905" and found.span.line > 0


def test_a_comment_in_a_spec_cannot_leave_it() -> None:
    text = 'use "lib/norm.cdr" { layer_norm }\n' + '# """\n# import os\nop f(x: [D]) -> [D] {\n  return x  # \\\n}\n'
    text += "model m {\n  vocab = 4\n  stack {\n    e: embed(4, 4)\n    f\n    head(4)\n  }\n}\n"
    text = 'use "lib/embed.cdr" { embed, head }\n' + text
    source = backend.module_text(lower(load_text(text)).program)
    assert isinstance(source, str)
    compile(source, "model.py", "exec")
    assert not any(line.strip() == "import os" and not _in_doc(source, n) for n, line in enumerate(source.splitlines()))


def _in_doc(source: str, line: int) -> bool:
    import ast

    docs = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    return any(d.lineno <= line + 1 <= (d.end_lineno or 0) for d in docs)
