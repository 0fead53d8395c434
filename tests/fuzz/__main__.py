"""Fuzz what reads an artefact's files: `python -m tests.fuzz [--seconds N] [--only TARGET] [--corpus FOLDER]`.

Each target is a C file here, built by clang with libFuzzer and the address and undefined-behaviour sanitizers around an
artefact that is compiled for it, and begins with that artefact's own files.  `--seconds` are of all targets together.
Exits with 0 when nothing was found, or where there is no clang, which it says; with 1 and the input's name otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from cdrmix.runtime.session import Session

from cdrmix.artifact import write_artifact, write_manifest
from cdrmix.check import load
from cdrmix.compiler import lower, options_of
from cdrmix.train.tokenizer import byte_tokenizer, train_tokenizer
from tests.conformance.c_program import CLANG, STRICT, compile_c
from tests.fuzz import ENCODED, SPEC
from tests.gpu import build, handmade
from tests.small import TEXT

HERE = Path(__file__).parent
RUNTIME = HERE.parents[1] / "runtime" / "c"
FLAGS = ("-O2", "-g", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all", "-DCDR_PLAIN")
UNMAPPED = "-DCDR_NO_MMAP"
"""A file in memory of its own size: what reads past its end is found."""
SEEDS = {
    "weights": ("weights.safetensors",),
    "manifest": ("listed/manifest.json",),
    "tokenizer": ("bytes.json", "trained.json"),
    "saved": ("empty.state", "full.state"),
    "gpu_manifest": ("gpu/manifest.json",),
}
"""The files a target begins with, of the folder that `prepare` fills."""


def prepare(folder: Path) -> Path:
    """An artefact, saved states of it, tokenizers, and the GPU runner with a manifest of its own."""
    lowered = lower(load(SPEC), weights="i4", rules=ENCODED)
    write_artifact(lowered, "cpu", folder, options=options_of("cpu", {}, "i4"))
    with Session.open(folder) as session:
        session.save(folder / "empty.state")
        session.prefill([1, 15, 3, 0, 7])
        session.save(folder / "full.state")
    (folder / "listed").mkdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    write_manifest(folder / "listed", {key: manifest[key] for key in ("format", "model", "hash", "files")})
    byte_tokenizer().save(str(folder / "bytes.json"))
    (folder / "text.txt").write_text(TEXT)
    train_tokenizer([folder / "text.txt"], 280).save(str(folder / "trained.json"))
    build.runner_sources(folder / "gpu")
    handmade.write(folder / "gpu", {"sm_90": "cuda"})
    return folder


def built(name: str, folder: Path) -> Path:
    """A target's program."""
    out, files = folder / f"fuzz-{name}", [folder / "model.c", folder / "tokenizer.c"]
    if name == "gpu_manifest":
        runner = folder / "gpu" / "runner"
        files = sorted(f for f in runner.glob("*.c") if f.name != "main.c")
    compile_c(
        [
            str(CLANG),
            *STRICT,
            *FLAGS,
            UNMAPPED,
            f"-I{files[0].parent}",
            f"-I{RUNTIME}",
            "-o",
            str(out),
            str(HERE / f"{name}.c"),
        ]
        + [*map(str, files), "-lm", "-ldl", "-pthread"]
    )
    return out


def begin(name: str, folder: Path, corpus: Path) -> None:
    """The seeds of a target; of a manifest, what its checksum is of, too."""
    corpus.mkdir(parents=True, exist_ok=True)
    for file in SEEDS[name]:
        content = (folder / file).read_bytes()
        (corpus / f"seed-{Path(file).name}").write_bytes(content)
        if file.endswith("manifest.json"):
            (corpus / "seed-unsealed").write_bytes(content.rpartition(b'\n "checksum": ')[0])


def fuzz(name: str, folder: Path, corpus: Path, seconds: int) -> bool:
    """Run a target; whether it found nothing."""
    begin(name, folder, corpus)
    place = folder / f"{name}.files"
    place.mkdir()
    (place / "weights.safetensors").write_bytes((folder / "weights.safetensors").read_bytes())
    limits = [f"-max_total_time={seconds}", "-timeout=20", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=1"]
    command = [str(built(name, folder)), *limits, f"-artifact_prefix={corpus.parent}/{name}-", str(corpus)]
    return subprocess.run(command, env={**os.environ, "FUZZ_FOLDER": str(place)}, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60, help="of all targets together (60)")
    parser.add_argument("--only", choices=SEEDS, help="this target alone")
    parser.add_argument("--corpus", type=Path, help="keep what reaches more code, and what was found, in this folder")
    given = parser.parse_args()
    if CLANG is None:
        print("not fuzzed: there is no clang here (apt-get install clang libclang-rt-dev)", file=sys.stderr)
        return 0
    names = [given.only] if given.only else list(SEEDS)
    with tempfile.TemporaryDirectory() as made:
        folder = prepare(Path(made) / "artefact")
        kept = (given.corpus or Path(made)).absolute()
        found = [n for n in names if not fuzz(n, folder, kept / n, max(given.seconds // len(names), 1))]
    for name in found:
        print(f"found something in {name}; `--corpus` keeps it", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
