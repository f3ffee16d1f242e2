"""``--full``, and after the table of times what each case found out."""

from __future__ import annotations

import pytest
from cases import chosen

FINDINGS = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="measure all cases, not a quick subset")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    cases = chosen(full=metafunc.config.getoption("full"))
    metafunc.parametrize("case", cases, ids=[case.name for case in cases])


@pytest.fixture
def findings(request: pytest.FixtureRequest) -> list[str]:
    return request.config.stash.setdefault(FINDINGS, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for finding in config.stash.get(FINDINGS, []):
        terminalreporter.write_line(finding)
