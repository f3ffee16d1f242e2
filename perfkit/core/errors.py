"""The one error that a user's mistake raises."""


class PerfkitError(Exception):
    """A mistake in what the user asked for or handed in.

    The message is one line: what was wrong, where, and what to do. Commands print it and exit
    with code 2; every other exception is a bug in perfkit and keeps its traceback.
    """
