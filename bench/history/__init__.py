"""The cases as asv sees them, which imports everything in this folder."""
