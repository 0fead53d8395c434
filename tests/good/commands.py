"""Commands as a user types them: what they say, and a folder to type them in."""

from __future__ import annotations

import pytest

from cdrmix.cli import main
from tests.small import SPEC

SMALL = SPEC.replace("d_model = 32", "d_model = 16").replace("layers = 2", "layers = 1")


def said(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 1) -> str:
    """What a command says on stderr, when it ends with this code."""
    capsys.readouterr()
    assert main([str(a) for a in arguments]) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    return shown
