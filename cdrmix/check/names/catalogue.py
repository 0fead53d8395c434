"""Where the names are that a file does not import.

Input: the files read so far, the folders they stand in and the library.  Output: for a name that stands for nothing,
how to make it known.  Nothing is read before a name is missed.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from cdrmix.diagnose import CompileError, did_you_mean
from cdrmix.syntax import read_source

IN_LIBRARY = "<library>/"
"""The front of the names of files that were found in the library and not beside the one that uses them."""

MAX_FILES = 200
"""Files of a folder that are looked into."""

_DEFINED = re.compile(r"^(?:op|let|model)\s+([A-Za-z_]\w*)", re.MULTILINE)


@dataclass(slots=True)
class Catalogue:
    """`texts` and `paths` are those of the files read so far, by their short names; `library` is None where no file
    may be read.
    """

    texts: Mapping[str, str]
    paths: Mapping[str, str]
    library: Path | None
    _read: dict[str, list[str]] = field(default_factory=dict)
    _folders: dict[Path, dict[str, list[str]]] = field(default_factory=dict)

    def find(self, name: str, importer: str) -> tuple[str, str] | None:
        """The file that defines a name, as `importer` would write it, and the name as it is cased there."""
        return self._first(importer, lambda found: squashed(found) == squashed(name))

    def near(self, name: str, importer: str) -> tuple[str, str] | None:
        """The same for the nearest name of all."""
        close = did_you_mean(name, {found for _, own in self._files(importer) for found in own})
        return self._first(importer, lambda found: f"`{found}`" in close)

    def is_installed(self, file: str) -> bool:
        """Whether a file is one of the library, which its user does not edit."""
        path = self.paths.get(file, "")
        return self.library is not None and Path(path).is_relative_to(self.library)

    def _first(self, importer: str, fits: Callable[[str], bool]) -> tuple[str, str] | None:
        return next(((file, found) for file, own in self._files(importer) for found in own if fits(found)), None)

    def _files(self, importer: str) -> Iterator[tuple[str, list[str]]]:
        """What can be imported: from files that were read, from those beside the importer, from the library."""
        front = posixpath.dirname(importer) or "."
        if not importer.startswith(IN_LIBRARY):
            for file, text in self.texts.items():
                if file not in ("", importer) and not file.startswith(IN_LIBRARY) and not text.startswith(f"{file}="):
                    if file not in self._read:
                        self._read[file] = _DEFINED.findall(text)
                    yield posixpath.relpath(file, front), self._read[file]
            if self.library is not None and importer in self.paths:
                yield from self._folder(Path(self.paths[importer]).parent)
        if self.library is not None:
            yield from self._folder(self.library)

    def _folder(self, folder: Path) -> Iterator[tuple[str, list[str]]]:
        if folder not in self._folders:
            paths = [*islice(folder.glob("lib/*.cdr"), MAX_FILES), *islice(folder.glob("*.cdr"), MAX_FILES)]
            self._folders[folder] = {p.relative_to(folder).as_posix(): _own(p) for p in sorted(paths)}
        yield from self._folders[folder].items()


def _own(path: Path) -> list[str]:
    try:
        return _DEFINED.findall(read_source(path, path.name))
    except (CompileError, OSError, ValueError):
        return []


def squashed(name: str) -> str:
    """`RMSNorm`, `rmsnorm` and `rms_norm` are one."""
    return name.replace("_", "").lower()
