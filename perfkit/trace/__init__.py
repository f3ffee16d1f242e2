"""Capturing, merging and validating torch.profiler traces."""
