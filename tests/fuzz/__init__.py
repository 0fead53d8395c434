"""Fuzzing of what reads an artefact's files; `__main__.py` runs it."""

from pathlib import Path

SPEC = Path(__file__).with_name("spec.cdr")
ENCODED = ("layer.*.att.*=i8", "layer.*.ffn.*=bf16", "emb.*=f16", "head.*=i8g32")
"""Rules by which its matrices are held in every encoding; what is left is i4."""
