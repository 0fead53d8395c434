"""`cdrmix doctor`: what each target still needs on this machine, and the command that installs it.

Input: target names.  Output: a `Finding` each, by the word of its backend.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from cdrmix.compiler import backend
from cdrmix.diagnose import Need


@dataclass(frozen=True, slots=True)
class Finding:
    """A target, what is missing here, what it uses if nothing is, and the device it would run on (None: the host)."""

    target: str
    missing: tuple[Need, ...]
    tools: tuple[str, ...]
    device: str | None


def examine(targets: Iterable[str]) -> list[Finding]:
    """Look at each target.  Raises `UserError` for an unknown one."""
    found = []
    for target in targets:
        own = backend(target)
        missing = tuple(own.needs(target))
        tools = () if missing else tuple(own.tools(target))
        found.append(Finding(target, missing, tools, own.device(target)))
    return found


def tell(findings: Iterable[Finding]) -> str:
    """The findings as text."""
    lines = []
    for f in findings:
        state = f"{len(f.missing)} missing" if f.missing else "ready" + (": " + ", ".join(f.tools) if f.tools else "")
        lines.append(f"{f.target:11} {state}" + (f"; {f.device}" if f.device else ""))
        lines += [f"         {need.what}: {need.why}" for need in f.missing]
        lines += [f"         run: {command}" for command in dict.fromkeys(need.command for need in f.missing)]
    return "\n".join(lines)
