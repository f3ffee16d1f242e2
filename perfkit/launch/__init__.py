"""Starting ranks, or finding out that somebody else did."""
