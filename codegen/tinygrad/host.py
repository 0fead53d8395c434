"""The CPU of this machine as tinygrad's device: it runs an artefact's readable program.

Input: the artefact's folder and token ids.  Output: logits, and the states after them.  The kernels are C in clang's
dialect; gcc takes the same text once vectors and halves are written its way, so whatever compiler builds an artefact's
runner runs its program too.
"""

from __future__ import annotations

import importlib
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from cdrmix.codegen.tinygrad import internals, toolchain

from cdrmix.diagnose import Need, UserError, command, need_compiler
from cdrmix.ir.backend import Ran

REMEDY = "set CC to another compiler"
NAMES = ("cc", "gcc", "clang")
"""What is tried where CC names none."""

FLAGS = ("-O2", "-fPIC", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing", "-fno-stack-protector",
         "-fno-asynchronous-unwind-tables", "-w")  # fmt: skip
ALONE = ("-ffreestanding", "-nostdlib")

VECTOR = re.compile(r"typedef (.+?) (\w+) __attribute__\(\((aligned\(\d+\)),ext_vector_type\((\d+)\)\)\);")

FOR_GCC = """#ifndef __clang__
#define __builtin_bit_cast(type, ...) \\
  ({ __auto_type from_ = (__VA_ARGS__); type to_; __builtin_memcpy(&to_, &from_, sizeof to_); to_; })
#ifdef __x86_64__
#define __fp16 _Float16
#endif
#endif
"""

PROBE = """
typedef float float4 __attribute__((aligned(16),ext_vector_type(4)));
void probe(float* restrict to, __fp16* restrict from) {
  float4 x = (float4){(float)from[0],(float)from[1],(float)from[2],(float)from[3]};
  *((float4*)to) = x*x;
}
"""


@cache
def compiler() -> tuple[str, ...]:
    """The command of the first compiler that takes such kernels, halves among them; empty for none."""
    commands = [command("CC", name) for name in NAMES]  # all the same where CC is set
    return next((c for c in dict.fromkeys(commands) if c and _takes(c)), ())


def missing() -> list[Need]:
    """What the CPU needs to run a GPU's program."""
    why = "it runs the program on this CPU, for `cdrmix verify`"
    if needs := need_compiler("CC", NAMES, "a C compiler", why, "gcc"):
        return needs
    if compiler():
        return []
    tried = f"{why}; {' '.join(command('CC', *NAMES))} knows no half floats or is for another machine"
    return [Need("gcc 12 or newer, or clang", tried, "apt-get install clang, and set CC=clang")]


def execute(folder: Path, ids: Sequence[int]) -> Ran:
    """Run the readable program token by token, and as a prompt.

    tinygrad's device is a setting of a whole process: the work is a child's.  Raises `UserError` where there is no such
    device.
    """
    internals.check_version()
    if needs := missing():
        raise UserError(f"tinygrad's CPU device needs {needs[0].what}: {needs[0].why}", f"run {needs[0].command}")
    return "executed on CPU through tinygrad", toolchain.in_child("CPU", _run_program, folder.resolve(), list(ids))


def _run_program(folder: Path, ids: Sequence[int]) -> dict[str, Any]:
    """In the child: both runs."""
    internals.compile_for_cpu(compile_object)
    sys.path.insert(0, str(folder / "source"))
    program, stream, encodings = (
        importlib.import_module(name) for name in ("program", "cdrmix_tinygrad.stream", "cdrmix_tinygrad.encodings")
    )
    weights, _ = encodings.read_file(folder / "weights.safetensors")
    tokens = np.array(ids)
    one = stream.Stream(program, weights)
    stepped = [one.step(tokens[n : n + 1])[0] for n in range(len(tokens))]
    found = {f"step:{path}": value for path, value in one.state().items()}
    one.start()
    prompted = one.prefill(tokens[None])[0]
    found |= {f"prefill:{path}": value for path, value in one.state().items()}
    return {"stepped": np.stack(stepped), "prompted": prompted, **found}


# --- the compiler of its kernels -----------------------------------------------------------------------------------
def compile_object(text: str) -> bytes:
    """The object file of some kernels, for tinygrad's own loader."""
    with tempfile.TemporaryDirectory(prefix="cdrmix-kernel-") as folder:
        out = Path(folder, "kernel.o")
        compile_kernels(text, out, *ALONE, "-c")
        return out.read_bytes()


def compile_kernels(text: str, out: Path, *flags: str) -> None:
    """What the flags ask for of some kernels, at `out`."""
    done = _run(compiler(), text, out, *flags)
    if done.returncode:
        raise UserError(f"{' '.join(compiler())} does not take a kernel: {done.stderr[-2000:]}", REMEDY)


def _takes(words: tuple[str, ...]) -> bool:
    with tempfile.TemporaryDirectory(prefix="cdrmix-probe-") as folder:
        try:
            return _run(words, PROBE, Path(folder, "probe.o"), *ALONE, "-c").returncode == 0
        except OSError:
            return False


def _run(words: tuple[str, ...], text: str, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    own = "-mcpu=native" if platform.machine().lower() in ("aarch64", "arm64") else "-march=native"
    written = VECTOR.sub(r"typedef \1 \2 __attribute__((\3,vector_size(\4*sizeof(\1))));", text)
    command = [*words, *FLAGS, own, "-x", "c", "-", "-o", str(out), *flags]
    return subprocess.run(command, input=FOR_GCC + written, capture_output=True, text=True, check=False)
