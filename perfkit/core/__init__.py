"""The vocabulary: configuration, Record, errors, statistics, annotation."""
