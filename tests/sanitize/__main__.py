"""Run every spec's C program under sanitizers and valgrind: `python -m tests.sanitize [--tool T] [SPEC …]`.

The specs are the library's ops, the models, and those of `conformance/unseen`; the encodings take turns among them, and
the kernels are the plain ones.  One more, in every encoding, runs with the kernels of each instruction set that the
processor and the tool know.  A tool that is not here is said and left out.  Exits with 1 where one finds something.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle
from pathlib import Path

from cdrmix.runtime.encodings import ENCODINGS

from cdrmix.artifact import write_artifact
from cdrmix.check import load
from cdrmix.compiler import lower, options_of
from cdrmix.ir.nodes import Model
from tests.conformance.c_program import CC, STRICT
from tests.conformance.test_c import HYBRID, OPS, model_of
from tests.conformance.test_c import SPEC as MODELS
from tests.fuzz import SPEC as FUZZED

HERE = Path(__file__).parent
UNSEEN = HERE.parent / "conformance" / "unseen"
KERNELS = ("avx512_bf16", "avx512", "avx2_vnni", "avx2", "plain")
QUIET = ("-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
FLAGS = {
    "address": ("-fsanitize=address,undefined,float-cast-overflow", *QUIET),
    "thread": ("-fsanitize=thread", *QUIET),
    "valgrind": (),
}
THREADS = {"address": "2", "thread": "3", "valgrind": "2"}
VALGRIND = ("valgrind", "-q", "--error-exitcode=9", "--leak-check=full", "--show-leak-kinds=all")


def specs() -> dict[str, Callable[[], Model]]:
    """What makes each model, by its name."""
    made: dict[str, Callable[[], Model]] = {name: lambda n=name: model_of(n) for name in OPS}  # type: ignore[misc]
    files: dict[str, tuple[Path, Mapping[str, str]]] = {p.stem: (p, {}) for p in sorted(UNSEEN.glob("*.cdr"))}
    files |= {"tiny": (MODELS / "tiny.cdr", {"vocab": "300"}), "hybrid": (MODELS / "hybrid.cdr", HYBRID)}
    return made | {name: lambda f=file: load(*f) for name, file in files.items()}  # type: ignore[misc]


def artefacts(names: list[str], home: Path) -> Iterator[tuple[Path, bool]]:
    """An artefact of each, one after the other: the compiler is one thread's.  And whether all kernels are to run."""
    encodings = ["f32", *(e for e in ENCODINGS if e != "f32")]
    every = [(name, make, quant, False) for (name, make), quant in zip(specs().items(), cycle(encodings), strict=False)]
    every += [("kernels", lambda: load(FUZZED), quant, True) for quant in encodings]
    for name, make, quant, kernels in every:
        if not names or name in names:
            folder = home / f"{name}.{quant}"
            write_artifact(lower(make(), weights=quant), "cpu", folder, options=options_of("cpu", {}, quant))
            yield folder, kernels


def findings(folder: Path, kernels: bool, tools: list[str]) -> str:
    """What the tools say of an artefact's program; nothing where all is right."""
    for tool in tools:
        program, plain = folder / tool, [] if kernels else ["-DCDR_PLAIN"]
        sources = (str(folder / "model.c"), str(HERE / "every.c"))
        build = [
            str(CC),
            *STRICT,
            *plain,
            "-O0",
            "-g",
            *FLAGS[tool],
            f"-I{folder}",
            "-o",
            str(program),
            *sources,
            "-lm",
        ]
        run = [*(VALGRIND if tool == "valgrind" else ()), str(program), str(folder), THREADS[tool]]
        for command, chosen in [(build, ""), *((run, name) for name in (KERNELS if kernels else ("plain",)))]:
            env = {**os.environ, "ASAN_OPTIONS": "detect_leaks=1", "CDRMIX_KERNELS": chosen}
            done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
            if done.returncode or done.stderr:
                return f"{' '.join(command)}\n{done.stderr[:4000]}"
    return ""


def there(tool: str) -> bool:
    """Whether a tool is on this machine; says so where it is not."""
    if tool == "valgrind":
        found = shutil.which("valgrind") is not None
    else:
        probe = [str(CC), "-x", "c", *FLAGS[tool], "-o", os.devnull, "-"]
        found = (
            CC is not None
            and not subprocess.run(
                probe, input=b"int main(void) { return 0; }", capture_output=True, check=False
            ).returncode
        )
    if not found:
        print(f"not run: there is no {tool} here", file=sys.stderr)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sanitize", description=__doc__.splitlines()[0])
    parser.add_argument("--tool", choices=FLAGS, action="append", help="this tool alone; may be given several times")
    parser.add_argument("specs", nargs="*", metavar="SPEC", help="these specs alone")
    given = parser.parse_args()
    tools, found = [tool for tool in given.tool or FLAGS if there(tool)], 0
    with tempfile.TemporaryDirectory() as home, ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [(f.name, pool.submit(findings, f, every, tools)) for f, every in artefacts(given.specs, Path(home))]
        for name, future in running:
            said = future.result()
            found += bool(said)
            print(f"{name}: {said or 'nothing found by ' + ' and '.join(tools or ['anything'])}", flush=True)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
