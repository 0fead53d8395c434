"""Syntax trees to a checked, expanded model: files and names, settings, ops and axes, the stack.

Input: a `.cdr` file or text, and `--set` overrides.  Output: an `ir.nodes.Model`, or a `CompileError` that carries
every mistake and the texts they stand in (`diagnose.explain` shows it).
"""

from cdrmix.check.session import load, load_sources, load_text
from cdrmix.check.stack.single import load_op

__all__ = ["load", "load_op", "load_sources", "load_text"]
