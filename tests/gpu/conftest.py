"""What every test of the runner needs, built once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from . import build, handmade
from .build import Mock


@dataclass(frozen=True, slots=True)
class Built:
    """The mock driver, the handmade artefact's kernels, and a folder with the runner's sources and library."""

    driver: Path
    kernels: Path
    runner: Path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("runner")
    # small parts of the weights file at a time, as a large file has
    build.runner_library(build.runner_sources(folder), "-O1", "-DCDR_STAGE=200")
    return Built(build.mock_driver(folder), build.kernels(handmade.source(), folder), folder)


@pytest.fixture(scope="session")
def everything(built: Built) -> Path:
    """A program that calls all of the runner, under sanitizers."""
    main = Path(__file__).parent / "everything.c"
    return build.runner_program(built.runner, "everything", main, "-O1", "-DCDR_STAGE=200", *build.SANITIZED)


@pytest.fixture
def mock(built: Built, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mock]:
    """The driver; every test leaves nothing behind and does nothing wrong."""
    monkeypatch.setenv("CDR_DRIVER", str(built.driver))
    monkeypatch.setenv("MOCK_CODE", str(built.kernels))
    found = Mock(built.driver)
    found.fail(0)
    found.graphs(True)
    before = found.live
    yield found
    found.fail(0)
    if found.live != before:  # rarely, and it takes seconds beside a compiler's many objects
        gc.collect()
    assert found.faults() == ""
    assert found.live == before, "something was not given back"
