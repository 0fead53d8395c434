"""Options of the test suite."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-expected",
        action="store_true",
        help="write the expected diagnostics of tests/bad anew; read the difference before you keep it",
    )


@pytest.fixture
def update_expected(request: pytest.FixtureRequest) -> bool:
    """Whether expectations are to be written rather than compared with."""
    return bool(request.config.getoption("--update-expected"))
