"""Data on disk, one module a layout, and synthetic data."""

SPLITS = ("train", "val", "test")
