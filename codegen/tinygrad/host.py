"""The C compiler that makes tinygrad's CPU kernels on this machine.

Input: C as tinygrad writes it, which is clang's dialect.  Output: an object file.  gcc takes the same text once vectors
and halves are written its way, so whatever compiler builds an artefact's runner runs its program too.
"""

from __future__ import annotations

import platform
import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from cdrmix.diagnose import Need, UserError, command, need_compiler

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


def compile_object(text: str) -> bytes:
    """The object file of some kernels, for tinygrad's own loader."""
    with tempfile.TemporaryDirectory(prefix="cdrmix-kernel-") as folder:
        out = Path(folder, "kernel.o")
        done = _run(compiler(), text, out, *ALONE, "-c")
        if done.returncode:
            raise UserError(f"{' '.join(compiler())} does not take a kernel: {done.stderr[-2000:]}", REMEDY)
        return out.read_bytes()


def compile_library(text: str, out: Path) -> None:
    """The same as a shared library at `out`."""
    done = _run(compiler(), text, out, "-shared")
    if done.returncode:
        raise UserError(f"{' '.join(compiler())} does not take the kernels: {done.stderr[-2000:]}", REMEDY)


def _takes(words: tuple[str, ...]) -> bool:
    with tempfile.TemporaryDirectory(prefix="cdrmix-probe-") as folder:
        try:
            return _run(words, PROBE, Path(folder, "probe.o"), *ALONE, "-c").returncode == 0
        except OSError:
            return False


def _run(words: tuple[str, ...], text: str, out: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    options = [*FLAGS, *flags, *_tuned(), "-x", "c", "-", "-o", str(out), *(["-lm"] if "-shared" in flags else [])]
    written = VECTOR.sub(r"typedef \1 \2 __attribute__((\3,vector_size(\4*sizeof(\1))));", text)
    return subprocess.run([*words, *options], input=FOR_GCC + written, capture_output=True, text=True, check=False)


def _tuned() -> list[str]:
    """The option for this very processor."""
    return ["-mcpu=native" if platform.machine().lower() in ("aarch64", "arm64") else "-march=native"]
