"""The version of perfkit."""

__version__ = "0.1.0"
