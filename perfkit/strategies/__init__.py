"""One module a parallel strategy."""
