"""A private environment in which generated TT-Metalium kernels run on a simulated Wormhole or Blackhole.

`python -m tests.tenstorrent.simulator.environment` builds it under build/tenstorrent/: a Python 3.12 or 3.10 of its own
with ttnn (Tenstorrent's host library) and wolfpine (the simulator), Debian's RISC-V compiler unpacked beside it, and
the stand-in for Tenstorrent's compiler (compiler.py) where ttnn looks for it. Each step is skipped when it was done
before, and an interrupted one is done again. Nothing outside that folder is changed.

Output of the functions: `ready()` whether it is built; `variables(device)` what a script needs in its environment;
`run(arguments, limit)` a script run by the private Python, ended with its simulator after `limit` seconds.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE.parents[2] / "build" / "tenstorrent"
VENV, PACKAGES, USR = FOLDER / "venv", FOLDER / "deb", FOLDER / "toolchain" / "usr"
FORWARD = FOLDER / "forward"
PINS = ("ttnn==0.81.1", "wolfpine==2.2")
VERSIONS = ("3.12", "3.10")
DEBIAN = ("gcc-riscv64-unknown-elf", "binutils-riscv64-unknown-elf", "picolibc-riscv64-unknown-elf")
COMPILER = "riscv-tt-elf-g++"

# The wheel's headers that need the SFPI compiler: each is answered by sfpu/every.h.
NEEDING_SFPI = """abs add_top_row alt_complex_rotate90 binary binary_max_min binary_pow binop_with_unary bitwise comp
    copy_dest_values exp exp2 expm1 heaviside log log1p max_pool_indices negative recip reduce relu rounding_ops rsqrt
    rsub_int32 sigmoid sign signbit silu sqrt square tanh tiled_prod trigonometry unary_comp unary_max_min
    unary_power"""
NEEDING_SFPI_IN_LLK = "binary_bcast comp fill log relu rounding_ops where"


class Unavailable(Exception):
    """The environment cannot be built here; the message says what is missing."""


def python() -> Path:
    return VENV / "bin" / "python"


def site_packages() -> Path:
    found = sorted(VENV.glob("lib/python3.*/site-packages"))
    if not found:
        raise Unavailable("the environment is not built: run python -m tests.tenstorrent.simulator.environment")
    return found[0]


def ready() -> bool:
    return (FOLDER / "placed").exists()


def find_python() -> str:
    """A Python that the ttnn wheels fit: on PATH under its name, or among pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for version in VERSIONS:
        installed = sorted(pyenv.glob(f"{version}.*/bin/python{version}"), reverse=True)
        for candidate in [shutil.which(f"python{version}"), *map(str, installed)]:
            if candidate and _runs_as(candidate, version):
                return candidate
    raise Unavailable(f"ttnn has wheels for Python {' and '.join(VERSIONS)} only, and none of them was found")


def _runs_as(candidate: str, version: str) -> bool:
    """Whether the program starts as this version and can make environments; pyenv's launchers may not."""
    script = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"
    done = subprocess.run([candidate, "-c", script], capture_output=True, text=True)
    return done.returncode == 0 and done.stdout.strip() == version


def once(stamp: str, content: str, step: Callable[[], None]) -> str:
    """Do a step unless its stamp holds this content already."""
    mark = FOLDER / stamp
    if mark.exists() and mark.read_text() == content:
        return f"{stamp}: there"
    start = time.monotonic()
    step()
    mark.write_text(content)
    return f"{stamp}: done in {time.monotonic() - start:.0f} s"


def _call(*command: str, cwd: Path | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    if done.returncode:
        raise Unavailable(f"{' '.join(command)[:200]} failed:\n{(done.stdout + done.stderr)[-2000:]}")
    return done.stdout


def install() -> None:
    shutil.rmtree(VENV, ignore_errors=True)
    _call(find_python(), "-m", "venv", str(VENV))
    _call(str(python()), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINS)


def unpack() -> None:
    """Debian's packages, opened without being installed; where the machine's lists are empty or old, updated once."""
    for tool in ("apt-get", "dpkg"):
        if not shutil.which(tool):
            raise Unavailable(f"no {tool}: the RISC-V compiler comes from Debian's packages")
    shutil.rmtree(PACKAGES, ignore_errors=True)
    shutil.rmtree(USR.parent, ignore_errors=True)
    PACKAGES.mkdir()
    try:
        _call("apt-get", "download", *DEBIAN, cwd=PACKAGES)
    except Unavailable:
        _call("apt-get", "update")
        _call("apt-get", "download", *DEBIAN, cwd=PACKAGES)
    for package in sorted(PACKAGES.glob("*.deb")):
        _call("dpkg", "-x", str(package), str(USR.parent))
    shutil.rmtree(PACKAGES)


def host_headers() -> list[str]:
    """Where the host's g++ keeps libstdc++'s headers: the folders of its C++ search list."""
    if not shutil.which("g++"):
        raise Unavailable("no g++: its C++ library headers serve the kernels too")
    command = ["g++", "-x", "c++", "-E", "-v", "/dev/null"]
    told = subprocess.run(command, capture_output=True, text=True).stderr
    listed = re.findall(r"^ (/\S*/c\+\+/\S+)$", told, re.MULTILINE)
    return [folder for folder in map(os.path.normpath, listed) if not folder.endswith("backward")]


def firmware(precompiled: Path) -> dict[str, str]:
    """The wheel's folder of firmware for "<DRAM banks>,<L1 banks>", from the sizes of the bank tables inside.

    Several folders may serve one layout (they differ in how commands are dispatched, which slow dispatch does not use).
    """
    found: dict[str, str] = {}
    for folder in sorted(precompiled.iterdir(), key=lambda path: path.name):
        table = _call(str(USR / "bin" / "riscv64-unknown-elf-readelf"), "-sW", str(folder / "brisc" / "brisc.elf"))
        sizes = {name: int(size) for size, name in re.findall(r"(\d+) OBJECT .* (\S+)$", table, re.MULTILINE)}
        # 2 bytes for each of the two networks
        key = f"{sizes['dram_bank_to_noc_xy'] // 4},{sizes['l1_bank_to_noc_xy'] // 4}"
        found.setdefault(key, folder.name)
    return found


def place() -> None:
    """The stand-in compiler and its headers, in the places where ttnn looks for the real one."""
    ttnn = site_packages() / "ttnn"
    precompiled = ttnn / "tt_metal" / "pre-compiled"
    shutil.rmtree(FORWARD, ignore_errors=True)
    (FORWARD / "sfpu").mkdir(parents=True)
    replaced = [f"ckernel_sfpu_{name}.h" for name in NEEDING_SFPI.split()]
    for name in [*replaced, *(f"sfpu/ckernel_sfpu_{name}.h" for name in NEEDING_SFPI_IN_LLK.split())]:
        (FORWARD / name).write_text(f'#include "{HERE / "sfpu" / "every.h"}"\n')
    sfpi = ttnn / "runtime" / "sfpi"
    for folder in (sfpi / "include", sfpi / "compiler" / "bin"):
        folder.mkdir(parents=True, exist_ok=True)
    for name in ("lltt.h", "sfpi.h"):
        shutil.copy(HERE / "include" / name, sfpi / "include" / name)
    gcc, picolibc = USR / "bin" / "riscv64-unknown-elf-g++", USR / "lib" / "picolibc" / "riscv64-unknown-elf"
    substitutes = FOLDER / "subst.o"
    system = [str(HERE / "include"), *host_headers(), str(picolibc / "include")]
    _call(
        str(gcc),
        "-march=rv32im",
        "-mabi=ilp32",
        "-O2",
        "-std=gnu++20",
        "-nostdinc++",
        "-fno-exceptions",
        "-fno-tree-loop-distribute-patterns",
        f"-I{ttnn / 'tt_metal' / 'hw' / 'inc'}",
        *(f"-isystem{folder}" for folder in system),
        "-c",
        str(HERE / "subst.cpp"),
        "-o",
        str(substitutes),
    )
    settings = {
        "gcc": str(gcc),
        "substitutes": str(substitutes),
        "ttinsn": str(HERE / "include" / "ttinsn.h"),
        "ahead": [str(FORWARD), str(HERE / "ahead")],
        "system_headers": system,
        "precompiled": str(precompiled),
        "firmware": firmware(precompiled),
    }
    compiler = sfpi / "compiler" / "bin" / COMPILER
    Path(f"{compiler}.json").write_text(json.dumps(settings, indent=1))
    text = (HERE / "compiler.py").read_text().replace("#!/usr/bin/env python3", f"#!{python()}", 1)
    compiler.write_text(text)
    compiler.chmod(0o755)


def build() -> list[str]:
    """Every step in order, a line about each; raises Unavailable."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "placed").unlink(missing_ok=True)  # cheap, and the sources beside this file may have changed
    return [
        once("installed", " ".join(PINS), install),
        once("unpacked", " ".join(DEBIAN), unpack),
        once("placed", "", place),
    ]


def variables(device: str = "wormhole") -> dict[str, str]:
    """What a script that uses ttnn needs in its environment, to see this device ("wormhole" or "blackhole")."""
    simulator = site_packages() / "framework" / "sim" / device
    return {
        "TT_METAL_SIMULATOR": str(simulator),
        "TT_METAL_SLOW_DISPATCH_MODE": "1",
        "WOLFPINE_PYTHON": str(python()),
        "TT_METAL_CACHE": str(FOLDER / "cache"),
        "TT_METAL_LOGS_PATH": str(FOLDER),
        "TT_METAL_INSPECTOR": "0",
        "TT_LOGGER_LEVEL": "error",
        "TT_METAL_DISABLE_BACKTRACE": "1",
        "LOGURU_LEVEL": "ERROR",
    }


def run(
    arguments: Sequence[str], limit: float, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the private Python on `arguments`; after `limit` seconds it is ended (return code 124).

    The simulator is a server that outlives its client when that is killed, and keeps its output open: it is found by
    a tag in its command line, and the output goes to a file.
    """
    tag = f"cdrmix-{uuid.uuid4().hex}"
    environment = {**os.environ, **variables(), "TT_SIM_RUN_TAG": tag, **(extra or {})}
    log = FOLDER / f"{tag}.log"
    try:
        with log.open("w") as output:
            started = subprocess.Popen(
                [str(python()), *arguments],
                cwd=FOLDER,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                code = started.wait(limit)
            except subprocess.TimeoutExpired:
                started.kill()
                started.wait()
                code = 124
            finally:
                _end_servers(tag)
        return subprocess.CompletedProcess(list(arguments), code, log.read_text(errors="replace"), "")
    finally:
        log.unlink(missing_ok=True)


def _end_servers(tag: str) -> None:
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if tag.encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGTERM)
        except (OSError, ProcessLookupError):
            continue


if __name__ == "__main__":
    try:
        print("\n".join(build()))
    except Unavailable as reason:
        sys.exit(f"no simulator of Tenstorrent's devices: {reason}")
