"""What a machine can run, as text: a line for each thing, and why not."""

from __future__ import annotations

from rich.console import Console

from perfkit.measure.capabilities import Capabilities, Capability
from perfkit.report.console import make_console, print_lines

TITLES = {"gpus": "GPUs", "operators": "native operators", "tracing": "tracing and counting"}
STYLES = {"ok": "green", "but": "yellow", "no": "red"}


def print_capabilities(found: Capabilities, console: Console | None = None) -> None:
    """Print every group under its title: ok, "but" with what is missing, no with the reason."""
    console = console or make_console()
    versions = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    console.print(f"{found.hostname}: {versions}", style="bold", soft_wrap=True)
    groups = {name: value for name, value in found if isinstance(value, list)}
    key_width = max(len(_key(row)) for rows in groups.values() for row in rows)
    for name, rows in groups.items():
        console.print()
        console.print(TITLES.get(name, name), style="bold")
        for row in rows:
            text = "; ".join(part for part in (row.detail, row.reason) if part)
            print_lines([(_key(row), text)], console, key_width=key_width, style=STYLES[mark(row)])


def mark(row: Capability) -> str:
    """Return the word for a capability: ok, but (with a reservation), no."""
    if not row.available:
        return "no"
    return "but" if row.reason else "ok"


def _key(row: Capability) -> str:
    return f"  {mark(row):<4}{row.name}"
