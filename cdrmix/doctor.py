"""`cdrmix doctor`: what each target still needs on this machine, and the command that installs it.

Input: target names.  Output: a `Finding` each.  A backend says what it needs by `needs(target)`; one that exports
none needs nothing but this package.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cdrmix.compiler import backend
from cdrmix.diagnose import Need


@dataclass(frozen=True, slots=True)
class Finding:
    """A target, what is missing to compile for it, and the device it would run on here (None: the host itself)."""

    target: str
    missing: tuple[Need, ...]
    device: str | None


def examine(targets: Iterable[str]) -> list[Finding]:
    """Look at each target.  Raises `UserError` for an unknown one."""
    found = []
    for target in targets:
        module = backend(target)
        missing = tuple(module.needs(target)) if hasattr(module, "needs") else ()
        found.append(Finding(target, missing, module.device(target) if hasattr(module, "device") else None))
    return found


def tell(findings: Iterable[Finding]) -> str:
    """The findings as text."""
    lines = []
    for f in findings:
        state = "ready to compile" if not f.missing else f"cannot compile: {len(f.missing)} missing"
        lines.append(f"{f.target:6} {state}" + (f"; {f.device}" if f.device else ""))
        lines += [f"         {need.what}: {need.why}" for need in f.missing]
        lines += [f"         run: {command}" for command in dict.fromkeys(need.command for need in f.missing)]
    return "\n".join(lines)
