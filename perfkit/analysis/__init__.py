"""Pure functions from Records to numbers."""
