"""Join C sources into few files: `model.c` and its header are all that an embedder takes along.

Input: files by name, as they are kept in `runtime/c` and generated.  Output: one text, every header of ours written in
where it is first included; public headers stay files of their own, and what is inside them is not written again.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

_OWN = re.compile(r'^#include "([^"]+)"[ \t]*\n', re.MULTILINE)


def join(names: Sequence[str], texts: Mapping[str, str], public: Mapping[str, Collection[str]] | None = None) -> str:
    """The files `names` after one another.  `public` holds, by public header, the headers inside it."""
    public = public or {}
    seen = {inner for inside in public.values() for inner in inside} - set(public)

    def include(match: re.Match[str]) -> str:
        name = match[1]
        if name in seen:
            return ""
        if name in public:
            seen.add(name)
            return match[0]
        return text(name)

    def text(name: str) -> str:
        seen.add(name)
        return _OWN.sub(include, texts[name])

    return "\n".join(text(name) for name in names if name not in seen)
