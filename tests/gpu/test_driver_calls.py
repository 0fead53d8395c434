"""The runner declares NVIDIA's calls itself: each has as many arguments, of the same sizes, as in NVIDIA's header."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from . import build
from .build import CXX, RUNTIME, needs_compilers

CHECK = """
#include <cuda.h>
#include <cstddef>
typedef unsigned long long cdr_pointer;
template <class A, class B> struct same { static constexpr bool value = false; };
template <class R, class... A, class S, class... B> struct same<R (*)(A...), S (*)(B...)> {
  static constexpr bool value = [] {
    if constexpr (sizeof...(A) != sizeof...(B)) return false;
    else return sizeof(R) == sizeof(S) && ((sizeof(A) == sizeof(B)) && ... && true);
  }();
};
"""


def header() -> Path | None:
    found = importlib.util.find_spec("nvidia")
    places = [Path(p) for p in found.submodule_search_locations or ()] if found else []
    return next((p.parent for place in places for p in place.glob("*/include/cuda.h")), None)


@needs_compilers
@pytest.mark.skipif(header() is None, reason="nvidia-cuda-runtime is not installed")
def test_every_call_is_as_nvidias_header_has_it(tmp_path: Path) -> None:
    text = (RUNTIME / "gpu" / "driver.h").read_text().replace("\\\n", " ")
    calls = re.findall(r'X\((\w+), "(cu\w+)", (?:"\w+"|NULL), [01],\s*(\(.*?\))\)\s', text)
    assert len(calls) > 30
    lines = []
    for _, name, arguments in calls:
        # cuda.h names the newest version of each call plainly
        plain = re.sub(r"_v\d$", "", name).replace("cuGraphInstantiateWithFlags", "cuGraphInstantiate")
        lines.append(f'static_assert(same<decltype(&{plain}), int (*){arguments}>::value, "{name}");')
    (tmp_path / "check.cpp").write_text(CHECK + "\n".join(lines) + "\n")
    build.run([str(CXX), "-std=c++17", "-fsyntax-only", f"-I{header()}", tmp_path / "check.cpp"])
