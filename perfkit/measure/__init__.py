"""Clocks, warm-up, memory, environment, paired timing."""
