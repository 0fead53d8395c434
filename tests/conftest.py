"""Options of the test suite, and the settings that a test must not take from the machine."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

# tinygrad reads these when it is first imported: kernels run on this CPU, are compiled by the test's own process, and
# none comes from a cache in the user's home
os.environ |= {"DEV": "CPU", "PARALLEL": "0", "CCACHE": "0"}
# and Triton this one: its kernels are interpreted, on tensors of the CPU
os.environ["TRITON_INTERPRET"] = "1"


# Artefacts that the tests build need not be fast; the kernels of instruction sets have tests of their own.
os.environ.setdefault("CFLAGS", "-O1 -DCDR_PLAIN")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-expected",
        action="store_true",
        help="write the expected diagnostics of tests/bad anew; read the difference before you keep it",
    )
    parser.addoption(
        "--allowed-skips",
        type=Path,
        help="a file of lines `COUNT REASON`: the run fails where a test is skipped for another reason, or more are",
    )


@pytest.fixture(scope="module", autouse=True)
def small_heap() -> Iterator[None]:
    """What is still alive after a module, a compiler's caches above all, is not looked through by later collections:
    with millions of objects they would take half of the time."""
    yield
    gc.collect()
    gc.freeze()


@pytest.fixture
def update_expected(request: pytest.FixtureRequest) -> bool:
    """Whether expectations are to be written rather than compared with."""
    return bool(request.config.getoption("--update-expected"))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail where more was skipped than the file allows."""
    if not hasattr(session.config, "workerinput") and not_allowed(session.config):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for line in not_allowed(config):
        terminalreporter.write_line(f"skipped, and not allowed to be: {line}", red=True)


def not_allowed(config: pytest.Config) -> list[str]:
    """What was skipped and is not in the file, in words."""
    file, reporter = config.getoption("--allowed-skips"), config.pluginmanager.getplugin("terminalreporter")
    if file is None or reporter is None:
        return []
    reasons = (str(report.longrepr[2]).removeprefix("Skipped: ") for report in reporter.stats.get("skipped", []))
    return over(Counter(reasons), (config.rootpath / file).read_text())


def over(found: Counter[str], allowed: str) -> list[str]:
    """Reasons that were met more often than a text of lines `COUNT REASON` allows."""
    most = {}
    for line in allowed.splitlines():
        if line and not line.startswith("#"):
            count, _, reason = line.partition(" ")
            most[reason.strip()] = int(count)
    return [f"{n} x {why} ({most.get(why, 0)} allowed)" for why, n in sorted(found.items()) if n > most.get(why, 0)]
