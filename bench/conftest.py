"""After the table of times, what each case found out."""

from __future__ import annotations

import pytest

FINDINGS = pytest.StashKey[list[str]]()


@pytest.fixture
def findings(request: pytest.FixtureRequest) -> list[str]:
    return request.config.stash.setdefault(FINDINGS, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    for finding in config.stash.get(FINDINGS, []):
        terminalreporter.write_line(finding)
