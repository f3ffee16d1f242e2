"""perfkit: which parallel strategy pays for this model on this machine, and why."""

__version__ = "0.1.0"
