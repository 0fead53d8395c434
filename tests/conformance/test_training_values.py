"""Sums over tokens, and what `aux`, `metric` and `after step` make of them: the interpreter's values.

However a step is cut into forwards: each adds to the `Sums` it is given; without, it measures nothing.
"""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cdrmix.runtime.torch.sums import Sums
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from cdrmix.check import load, load_op
from tests.conformance.torch_agree import Pair, module_of, rms

ROOT = Path(__file__).parents[2]
OPS = Path(__file__).with_name("torch_ops.cdr")
EXPERT = {"expert": "relu2(hidden=8)", "experts": "5", "top_k": "2"}
TINY = {"d_model": "32", "layers": "2", "vocab": "64", "mixer": "rwkv7(N=16, dw=4, da=4, dv=4, dg=4)"}
ARGUMENTS = {"moe": EXPERT, "moe_sigmoid": {**EXPERT, "shared": "1"}, "measured": {}}

torch.set_num_threads(1)


@cache
def pair_of(op: str) -> Pair:
    return Pair(load_op(OPS, op, {"D": 8}, ARGUMENTS[op]))


def batch_of(rows: int, length: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(3).normal(size=(rows, length, 8)).astype(np.float32))


@pytest.mark.parametrize("op", ARGUMENTS)
def test_they_are_the_interpreters(op: str) -> None:
    pair = pair_of(op)
    module: Any = pair.module
    x, sums = batch_of(3, 17), Sums()
    y, _ = module(x, sums=sums)
    aux, metrics = module.aux(sums), module.metrics(sums)
    want = pair.interpreter.training_values([pair.interpreter.run(row.numpy(), collect=True) for row in x])
    assert set(aux) == set(want.aux) and set(metrics) == set(want.metrics)
    for path, value in {**want.aux, **want.metrics}.items():
        assert rms({**aux, **metrics}[path].detach().numpy(), value) <= 1e-5, path
    if aux:
        module.zero_grad()
        (sum(aux.values()) + y.square().mean()).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    before = {path: b.clone() for path, b in module.named_buffers()}
    module.after_step(sums)
    for path, value in want.after.items():
        assert rms(module.get_buffer(path).numpy(), value) <= 1e-5
        assert not torch.equal(module.get_buffer(path), before[path])
    module.load_state_dict({**module.state_dict(), **before})


@pytest.mark.parametrize("op", ARGUMENTS)
def test_sums_of_micro_batches_add(op: str) -> None:
    module: Any = pair_of(op).module
    x, whole, total = batch_of(4, 9), Sums(), Sums()
    module(x, sums=whole)
    for part in (x[:1], x[1:2], x[2:]):  # forwards add to the sums they are given, and so do sums
        module(part, sums=total)
    parts = Sums()
    for part in (x[:3], x[3:]):
        own = Sums()
        module(part, sums=own)
        parts += own.detach()
    assert list(total) == list(whole) == list(parts) and int(whole["tokens"]) == 36
    for values in (total, parts):
        for path, value in whole.items():
            torch.testing.assert_close(values[path], value)
        for make in (module.metrics, module.aux):
            for path, value in make(whole).items():
                torch.testing.assert_close(make(values)[path], value)


def test_who_gives_no_sums_measures_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    module: Any = pair_of("measured").module.train()
    x, before = batch_of(1, 4), dict(vars(module))
    measured, _ = module(x, sums=Sums())
    monkeypatch.setattr(Sums, "__setitem__", lambda self, path, x: pytest.fail(f"{path} is kept"))
    unmeasured, _ = module(x)
    assert torch.equal(measured, unmeasured) and vars(module) == before
    module.eval()
    with pytest.raises(KeyError, match="no forward has added it; give these sums to one"):
        module.metrics(Sums())


# --- a step in parts --------------------------------------------------------------------------------------------------
def gradients(module: Any, x: Tensor, sizes: tuple[int, ...], name: str, own_counts: bool = False) -> dict[str, Tensor]:
    """Of one auxiliary loss, with the rows of x in parts of these sizes."""
    module.zero_grad()
    so_far = Sums()
    for part in x.split(sizes):
        own, share = Sums(), len(part) / len(x)
        module(part, sums=own)
        so_far = own.detach() if own_counts else so_far
        so_far += {} if own_counts else own.detach()
        (aux,) = (v for path, v in module.aux(own.of_step(so_far, share)).items() if path.endswith(f".{name}"))
        (aux * share).backward()
    return gradients_kept(module)


def gradients_kept(module: Any) -> dict[str, Tensor]:
    """What the last backward left."""
    return {path: p.grad.clone() for path, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("sizes", [(4, 4), (2, 2, 2, 2), (1, 5, 2)])
@pytest.mark.parametrize("name", ["mean_square", "total_square", "size", "mixed"])
def test_gradients_of_what_is_linear_in_the_sums_are_exact(name: str, sizes: tuple[int, ...]) -> None:
    """Of params alone, too; a factor that is a param has the gradient of the means so far."""
    module: Any = pair_of("measured").module
    x = batch_of(8, 9)
    if name == "mixed":  # d/dW of W[i,i]*mean(y[i]): exact in y, and in the factor W at the last part
        x = x[:1].expand(8, 9, 8)
    whole, parts = (gradients(module, x, s, name) for s in ((8,), sizes))
    assert whole.keys() == parts.keys()
    for path, g in whole.items():
        torch.testing.assert_close(parts[path], g, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("op", ["moe", "measured"])
def test_a_step_in_one_part_is_bitwise_that_of_no_parts(op: str) -> None:
    module: Any = pair_of(op).module
    sums, x = Sums(), batch_of(4, 9)
    module(x, sums=sums)
    one = sums.of_step(sums.detach(), 1.0)
    assert all(torch.equal(one[path], value) for path, value in sums.items())
    want = module.aux(sums)
    for path, value in module.aux(one).items():
        name = path.rpartition(".")[2]
        assert torch.equal(value, want[path])
        module.zero_grad()
        want[path].backward(retain_graph=True)
        grads = gradients_kept(module)
        assert all(torch.equal(g, grads[p]) for p, g in gradients(module, x, (4,), name).items())


def test_a_balance_loss_has_the_counts_of_the_step_so_far() -> None:
    """Its gradient is that of the whole step where the parts are alike; else nearer to it than with a part's counts."""
    module: Any = pair_of("moe").module
    x = batch_of(8, 40)
    same = x.repeat(4, 1, 1)
    whole = gradients(module, same, (32,), "balance_loss")
    for path, g in gradients(module, same, (8, 8, 8, 8), "balance_loss").items():
        torch.testing.assert_close(g, whole[path], rtol=1e-4, atol=1e-8)
    x = batch_of(32, 40) + batch_of(1, 4)[0].repeat_interleave(8, 0)[:, None]  # four sources of text
    whole = gradients(module, x, (32,), "balance_loss")
    so_far, alone = (gradients(module, x, (8, 8, 8, 8), "balance_loss", own) for own in (False, True))
    near, far = (sum(float((g[path] - w).square().sum()) for path, w in whole.items()) for g in (so_far, alone))
    assert near < 0.7 * far, (near, far)
    so_far, loss = Sums(), torch.tensor(0.0)
    for part in x.split(8):  # by hand, for 5 experts of which 2 are chosen
        own = Sums()
        module(part, sums=own)
        so_far += own.detach()
        counts, chances = (next(path for path in own if path.endswith(f"balance_loss.{n}")) for n in range(2))
        loss = loss + 0.01 * 5 * (so_far.mean(counts) / 2 * own[chances] / (32 * 40)).sum()
    module.zero_grad()
    loss.backward()
    parts = gradients_kept(module)
    for path, g in gradients(module, x, (8, 8, 8, 8), "balance_loss").items():
        torch.testing.assert_close(parts[path], g, rtol=1e-4, atol=1e-7)


# --- where a forward is run in other ways -----------------------------------------------------------------------------
def test_a_block_that_is_run_again_counts_once() -> None:
    """Activation checkpointing: the sums and the gradients are those of a forward that keeps everything."""
    model = load(ROOT / "spec" / "tiny.cdr", TINY)
    plain, again = module_of(model), module_of(model)
    runs = 0
    for block in again.layer:  # type: ignore[union-attr]
        inner = block.forward

        def counted(*args: Any, inner: Any = inner) -> Any:
            nonlocal runs
            runs += 1
            return inner(*args)

        block.forward = partial(checkpoint, counted, use_reentrant=False)
    tokens = torch.randint(64, (2, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for module in (plain, again):
        sums = Sums()
        logits, _ = module(tokens, sums=sums)
        before = {path: x.detach().clone() for path, x in sums.items()}
        aux: dict[str, Tensor] = module.aux(sums)  # type: ignore[operator]
        (logits.square().mean() + sum(aux.values())).backward()
        assert aux and before.keys() == sums.keys()
        assert all(torch.equal(sums[path], x) for path, x in before.items())
        found.append((before, {path: p.grad for path, p in module.named_parameters()}))
    assert runs == 4 and int(found[1][0]["tokens"]) == 24
    for one, two in zip(*found, strict=True):
        assert one.keys() == two.keys()
        for path, x in one.items():
            torch.testing.assert_close(two[path], x, rtol=0, atol=0)


def test_sums_of_a_functional_call() -> None:
    """Gradients by `torch.func` are those of `backward`."""
    module = pair_of("moe").module
    x = batch_of(2, 9)

    def loss(params: dict[str, Tensor]) -> Tensor:
        sums = Sums()
        y, _ = torch.func.functional_call(module, params, (x,), {"sums": sums})
        return y.square().mean() + sum(module.aux(sums).values())  # type: ignore[operator]

    params = {path: p.detach() for path, p in module.named_parameters()}
    got = torch.func.grad(loss)(params)
    module.zero_grad()
    loss(dict(module.named_parameters())).backward()
    for path, p in module.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(got[path], p.grad)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_compiled_module_sums_the_same() -> None:
    module: Any = pair_of("moe").module
    x, found = batch_of(2, 9), []
    for forward in (module, torch.compile(module, backend="aot_eager")):
        sums = Sums()
        y, _ = forward(x, sums=sums)
        module.zero_grad()
        (y.square().mean() + sum(module.aux(sums).values())).backward()
        found.append((sums.detach(), gradients_kept(module)))
    for one, two in zip(*found, strict=True):
        assert one.keys() == two.keys()
        for path, value in one.items():
            torch.testing.assert_close(two[path], value)


@pytest.mark.parametrize("op", ["capped", "capped_state"])
def test_capacity_drops_in_training_only_and_is_counted(op: str) -> None:
    pair = Pair(load_op(OPS, op, {"D": 8}))
    x = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(0))
    module: Any = pair.module
    sums = Sums()
    with torch.no_grad():
        whole, _ = module(x, None, None)
        for row, y in zip(x, whole, strict=True):
            assert rms(y.numpy(), pair.interpreted(row.numpy()).logits) <= 1e-5
        module.train()
        some, state = module(x, None, None, sums)
    values = module.metrics(sums)
    (dropped,) = [int(v) for path, v in values.items() if path.endswith("F.dropped")]
    taken = torch.tensor([(row.abs().sum(-1) > 0).sum() for row in some]).sum()
    # one choice a token: 40 tokens, 4 experts, room for half of an even share each: 5
    assert taken <= 20 and dropped == 40 - int(taken) and dropped >= 20
    kept = some.abs().sum(-1) > 0
    if op == "capped":  # a kept token's value does not depend on the dropped ones
        torch.testing.assert_close(some[kept], whole[kept])
    module.eval()


def test_the_loop_of_the_documentation_is_a_step() -> None:
    """The lines of docs/training.md, on parts of one batch: the values are those of the batch at once."""
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    (block,) = (b for b in text.split("```")[1::2] if "Sums" in b)
    module: Any = pair_of("measured").module
    x, whole, logged = batch_of(4, 9), Sums(), []
    module(x, sums=whole)
    before = module.state_dict()["measured.seen"].clone()
    given = {"model": module, "parts": [(part, part, None) for part in x.split(2)], "log": logged.append}
    given |= {"loss": lambda y, target: (y - target).square().mean(), "optimiser": torch.optim.SGD(module.parameters())}
    given["optimiser"].param_groups[0]["lr"] = 0.0
    module.zero_grad()
    exec(compile(block.removeprefix("python"), "docs/training.md", "exec"), given)
    assert all(p.grad is not None for p in module.parameters())
    for path, value in module.metrics(whole).items():
        torch.testing.assert_close(logged[0][path], value)
    (path,) = (path for path in whole if ".seen." in path)
    torch.testing.assert_close(module.get_buffer("measured.seen") - before, whole[path])
    module.get_buffer("measured.seen").copy_(before)
