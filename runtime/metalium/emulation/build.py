"""Kernels and the emulated machine, compiled by the host's C++ compiler.

Input: a kernel's source, its role and what ttnn would compile it with.  Output: a shared object in the cache, named by
the hash of all that went in.  The cache is private (`runtime/cache.py`); several processes may share it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from cdrmix.runtime.cache import library, private_folder
from cdrmix.runtime.compilers import command

HERE = Path(__file__).resolve().parent
READER, WRITER, COMPUTE = 0, 1, 2

FLAGS = ("-std=gnu++17", "-g1", "-fPIC", "-shared", "-fno-omit-frame-pointer", "-fno-optimize-sibling-calls")
"""Frame pointers and no tail calls: errors name the lines of all calls on the way."""

KERNEL_FLAGS = ("-O1", "-fno-exceptions", "-fno-gnu-unique", "-fvisibility=hidden", "-Werror=int-to-pointer-cast")
ROLE_MACROS = ("COMPILE_FOR_NCRISC", "COMPILE_FOR_BRISC", "COMPILE_FOR_TRISC")
SECONDS = 300

Made = TypeVar("Made")


class EmulationError(RuntimeError):
    """A kernel or a program that would not run, or not run right, on the device.  (ttnn's are RuntimeErrors too.)"""


@dataclass(frozen=True, slots=True)
class Build:
    """What a kernel's object depends on.  `source`: a path, or the text itself where `inline`."""

    source: str
    inline: bool
    role: int
    arch: str
    compile_time_args: tuple[int, ...]
    defines: tuple[tuple[str, str], ...]
    include_paths: tuple[str, ...]
    formats: tuple[int, ...]
    page_bytes: tuple[int, ...]
    fp32_dest_acc_en: bool = False

    @property
    def name(self) -> str:
        """What errors call the kernel."""
        return "inline" if self.inline else f"{Path(self.source).parent.name}/{Path(self.source).name}"


def cache_folder() -> Path:
    """Where objects are kept: $CDRMIX_EMULATION_CACHE, or a folder of this user's among the temporary files."""
    chosen = os.environ.get("CDRMIX_EMULATION_CACHE")
    usual = Path(tempfile.gettempdir()).resolve() / f"cdrmix-emulation-{os.geteuid()}"
    return private_folder(Path(chosen) if chosen else usual, "cdrmix-emulation")


def compiler() -> tuple[str, ...]:
    """The C++ compiler: $CXX, g++ or c++."""
    if found := command("CXX", "g++", "c++"):
        return found
    given = os.environ.get("CXX", "").strip()
    raise EmulationError(f"CXX is `{given}`: no such program" if given else "no C++ compiler here: install g++")


@functools.cache
def _version(compiler: tuple[str, ...]) -> bytes:
    return subprocess.run([*compiler, "--version"], capture_output=True, check=False).stdout


@functools.cache
def _own_sources() -> bytes:
    files = sorted(p for p in HERE.rglob("*") if p.suffix in (".h", ".cpp"))
    return b"".join(str(p.relative_to(HERE)).encode() + b"\0" + p.read_bytes() for p in files)


def machine_library() -> Path:
    """The emulated machine, for kernels to be linked against."""
    sources = sorted((HERE / "machine").glob("*.cpp"))
    key = hashlib.sha256(_own_sources() + _version(compiler()) + repr(FLAGS).encode()).hexdigest()[:24]

    def made(folder: Path) -> Path:
        objects = [str(folder / f"{source.stem}.o") for source in sources]
        commands = [
            [*_command("-O3", "-ffp-contract=off", "-fno-math-errno", "-Wall"), "-c", str(source), "-o", to]
            for source, to in zip(sources, objects, strict=True)
        ]
        _together([functools.partial(_run, c, None, s.name) for c, s in zip(commands, sources, strict=True)])
        linked = folder / "machine.so"
        _run([*_command("-O3"), *objects, "-ldl", "-o", str(linked)], None, "the emulated machine")
        return linked

    return library(cache_folder(), f"machine-{key}", made)


def kernels(builds: Iterable[Build]) -> dict[Build, Path]:
    """The kernels' objects; missing ones are compiled, several at a time."""
    wanted, folder = list(dict.fromkeys(builds)), cache_folder()
    tasks = [functools.partial(library, folder, f"kernel-{_key(b)}", functools.partial(_compile, b)) for b in wanted]
    return dict(zip(wanted, _together(tasks), strict=True))


def _together(tasks: Sequence[functools.partial[Made]]) -> list[Made]:
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return [done.result() for done in [pool.submit(task) for task in tasks]]


def _command(*flags: str) -> list[str]:
    return [*compiler(), *FLAGS, *flags, f"-I{HERE}"]


def _run(command: Sequence[str], text: str | None, what: str) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=SECONDS)
    if done.returncode:
        raise EmulationError(f"{what} does not compile:\n{done.stderr.strip()[-4000:]}")


def _compile(build: Build, place: Path) -> Path:
    made = place / "kernel.so"
    folder = "" if build.inline else str(Path(build.source).resolve().parent)
    flags = [f"-I{include}" for include in dict.fromkeys((*build.include_paths, *filter(None, [folder])))]
    flags += [f"-ffile-prefix-map={HERE}=<api>"]  # later options win: kernels may lie anywhere
    flags += [f"-ffile-prefix-map={Path(folder).parent}/="] if folder else []
    asks = [*_command(*KERNEL_FLAGS), *flags, "-x", "c++", "-", "-o", str(made)]
    _run(asks, _wrapper(build), f"kernel {build.name}")
    return made


def _wrapper(build: Build) -> str:
    """The translation unit: what the device's build would define, the kernel, and its entry."""
    compute = build.role == COMPUTE
    macros = {
        "KERNEL_BUILD": "1",
        "ARCH_BLACKHOLE" if build.arch == "blackhole" else "ARCH_WORMHOLE": "1",
        ROLE_MACROS[build.role]: "1",
        "KERNEL_COMPILE_TIME_ARGS": ",".join(f"{arg}u" for arg in build.compile_time_args),
        "NOC_INDEX": "0" if build.role == READER else "1",
        **({"DST_ACCUM_MODE": str(build.fp32_dest_acc_en).lower()} if compute else {}),
        **(dict.fromkeys(("TRISC_UNPACK", "TRISC_MATH", "TRISC_PACK"), "1") if compute else {}),
        **dict(build.defines),
    }
    return "\n".join(
        [
            *(f"#define {name} {value}" for name, value in macros.items()),
            f"constexpr unsigned char EMULATED_CB_FORMATS[] = {{{', '.join(map(str, build.formats))}}};",
            f"constexpr unsigned EMULATED_CB_PAGE_BYTES[] = {{{', '.join(map(str, build.page_bytes))}}};",
            f'#line 1 "inline"\n{build.source}' if build.inline else f'#include "{Path(build.source).resolve()}"',
            'extern "C" __attribute__((visibility("default"))) void emulated_kernel() { kernel_main(); }',
            "",
        ]
    )


def _key(build: Build) -> str:
    """A hash of the sources, the kernel's own headers among them, and of everything else that matters."""
    digest = hashlib.sha256(_own_sources() + _version(compiler()))
    digest.update(repr((FLAGS, KERNEL_FLAGS, build.role, build.arch, build.compile_time_args, build.defines)).encode())
    digest.update(repr((build.formats, build.page_bytes, build.fp32_dest_acc_en, build.name)).encode())
    text = build.source.encode() if build.inline else _read(Path(build.source))
    folders = [Path(p) for p in build.include_paths]
    waiting, seen = [(text, Path(build.source).parent if not build.inline else Path())], set()
    while waiting:
        text, here = waiting.pop()
        digest.update(text + b"\0")
        for name in re.findall(rb'#\s*include\s*"([^"]+)"', text):
            for folder in (here, *folders):
                path = (folder / name.decode()).resolve()
                if path.is_file():
                    if path not in seen:
                        seen.add(path)
                        waiting.append((path.read_bytes(), path.parent))
                    break
    return digest.hexdigest()[:24]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise EmulationError(f"no kernel {path}: {e.strerror}") from e


def with_lines(message: str) -> str:
    """The message with @{object+offset ...} replaced by the kernel's lines, innermost first; none at a kernel's end."""
    return re.sub(r", @\{([^}]*)\}", lambda m: _lines(m[1].split()), message)


def _lines(calls: Sequence[str]) -> str:
    tool = shutil.which("addr2line")
    if tool is None:
        return ", line unknown (install binutils)"
    found: list[str] = []
    for call in calls:
        path, _, offset = call.rpartition("+")
        done = subprocess.run([tool, "-i", "-e", path, offset], capture_output=True, text=True, check=False)
        for line in done.stdout.splitlines():
            at = line.split(" (")[0]
            if "<api>" not in at and "<stdin>" not in at and not at.startswith(("?", ":")):
                folder, _, name = at.rpartition("/")
                found.append(name if name.startswith("inline:") else f"{Path(folder).name}/{name}")
    return ", " + " < ".join(list(dict.fromkeys(found))[:6]) if found else ""
