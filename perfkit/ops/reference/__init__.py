"""Pure-torch references of the native operators: what their results are held to, byte for byte."""
