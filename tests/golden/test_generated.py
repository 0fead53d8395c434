"""The generated programs of four small models: what a change of the compiler changes in them is read here."""

from __future__ import annotations

from pathlib import Path

import pytest
from cdrmix.codegen.c.program import generated as c_files
from cdrmix.codegen.tinygrad.program import emit_program
from cdrmix.codegen.torch.module import module_text

from cdrmix.check import load
from cdrmix.compiler import backend, lower
from cdrmix.ir.forms import Program

GOLDEN = Path(__file__).parent / "generated"
ROOT = Path(__file__).parents[2]
MODELS = {
    "tiny": "spec/tiny.cdr vocab=64 d_model=32 layers=2 moe.hidden=16 moe.experts=4"
    " mixer=rwkv7(N=16,dw=4,da=4,dv=4,dg=4)",
    "hybrid": "spec/hybrid.cdr vocab=64 d_model=32 layers=1 moe.every=1 moe.hidden=16 moe.experts=4 attn.share=1"
    " attn.heads=4 attn.kv_heads=2 attn.window=16",
    "gated_delta": "tests/golden/gated_delta.cdr",
    "rwkv4": "spec/rwkv4.cdr vocab=64 d_model=32 layers=1",
}
TARGETS = {"torch": "py", "cuda": "py", "cpu": "c", "tenstorrent": "cpp"}


def generated(program: Program, target: str) -> str:
    match target:
        case "torch":
            return module_text(program)
        case "cuda":
            return emit_program(program)["program.py"]
        case "cpu":
            return c_files(program)[0]["model.c"]
    files = backend(target).emit(program, target, {"device": "n150", "cores": 4})
    lines = ("att_2_", "ffn_2_") if any("att_2_" in name for name in files) else ("att_", "ffn_")
    kernels = {name: text for name, text in files.items() if name.startswith(tuple(f"kernels/{n}" for n in lines))}
    return "\n".join(f"// {name}\n{text!s}" for name, text in kernels.items())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", MODELS)
def test_the_program_is_the_one_that_was_read(model: str, target: str, update_expected: bool) -> None:
    spec, *settings = MODELS[model].split()
    text = generated(lower(load(ROOT / spec, dict(s.split("=", 1) for s in settings))).program, target)
    compare(text, f"{model}.{target}.{TARGETS[target]}.txt", update_expected)


def test_a_module_that_computes_in_bf16_is_the_one_that_was_read(update_expected: bool) -> None:
    program = lower(load(ROOT / MODELS["gated_delta"]), work="bf16").program
    compare(generated(program, "torch"), "gated_delta.torch.bf16.py.txt", update_expected)


def compare(text: str, name: str, update_expected: bool) -> None:
    path = GOLDEN / name
    if update_expected:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"no {path.name}: pytest --update-expected writes it"
    assert text == path.read_text(encoding="utf-8"), f"{path.name}: pytest --update-expected, and read the difference"
