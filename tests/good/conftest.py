"""What tests of several commands work in."""

from __future__ import annotations

from pathlib import Path

import pytest

from cdrmix.cli import main
from tests.good.commands import SMALL
from tests.small import TEXT, write_spec


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a spec, a text, a config, and the artefact of the untrained spec with the byte tokenizer."""
    folder = tmp_path_factory.mktemp("home")
    spec = write_spec(folder, SMALL)
    (folder / "text.txt").write_text(TEXT)
    (folder / "c.yaml").write_text(
        f"spec: {spec}\ndata: {{train: {folder}/text.txt}}\nout: {folder}/run\nsteps: 1\nbatch: 1\nthreads: 1\n"
    )
    out = str(folder / "made")
    assert main(["compile", str(spec), "--target", "cpu", "--tokenizer", "bytes", "-o", out]) == 0
    return folder
