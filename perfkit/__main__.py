"""``perfkit X`` and ``python -m perfkit X``: the commands by name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from perfkit.core import cli

COMMANDS = {
    "profile": "run one training under one parallel strategy and say what it costs",
    "train": "train for some epochs, and say what the model is worth and what it took",
    "sweep": "measure configurations beside each other, in rounds of fresh processes",
    "compare": "print runs side by side and draw them",
    "synthesize": "write synthetic fundus photographs as a data set",
    "doctor": "print what this machine can run, and why not the rest",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names."""
    name, *arguments = (list(sys.argv[1:] if argv is None else argv)) or ["--help"]
    if name in {"-h", "--help"}:
        print("usage: perfkit COMMAND [OPTIONS]\n")
        for command, what in COMMANDS.items():
            print(f"  {command:<12}{what}")
        print("\nperfkit COMMAND --help tells the options of one.")
        return 0
    if name not in COMMANDS:
        print(
            f"perfkit: error: no command {name!r}; known are {', '.join(COMMANDS)}", file=sys.stderr
        )
        return cli.EXIT_USER_ERROR
    return cli.run(importlib.import_module(f"perfkit.{name}").main, arguments)


if __name__ == "__main__":
    sys.exit(main())
