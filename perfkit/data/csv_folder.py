"""The layout of Kaggle's "detect AI vs. human-generated images": ``train.csv`` beside the photos.

Its columns ``file_name`` (below the folder) and ``label`` (0 real, 1 AI-generated) are read, others
are ignored, and so is the unlabelled ``test.csv``: all three splits are cut from ``train.csv``. In
the original every real photo has a generated twin, and which belongs to which cannot be told from
the table. Twins may lie in different splits: leakage cannot be ruled out.
"""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path, PurePosixPath

from perfkit.core.errors import PerfkitError
from perfkit.data import SPLITS
from perfkit.data.images import CLASSES, ImageFiles

TABLE = "train.csv"
NAME, LABEL = "file_name", "label"
HELD_OUT = 0.1  # share of each class in val, and as much again in test

Row = tuple[str, int]  # file name below the folder, label


class CsvFolder(ImageFiles):
    """One split of the table in ``root``; label 0 is real, 1 AI-generated.

    The images come class by class in the order of their names. Raises PerfkitError for a table
    that cannot be read, a row that is wrong (naming its line), missing files and a class too rare
    to split, and as ImageFiles does.
    """

    def __init__(self, root: Path, split: str, *, size: int, seed: int) -> None:
        rows = read_table(root)
        for label in CLASSES:
            count = sum(found == label for _, found in rows)
            if count < len(SPLITS):
                raise PerfkitError(
                    f"--data {root}: {TABLE} has {count} rows of label {label}; training, "
                    "validation and test need one each at the least"
                )
        files = [(root / name, label) for name, label in split_rows(rows, seed)[split]]
        super().__init__(root, split, files, size=size, how=f"stratified 80/10/10 by seed {seed}")


def split_rows(rows: Sequence[Row], seed: int) -> dict[str, list[Row]]:
    """Return the rows of each split, stratified by label: 80 % train, 10 % val, 10 % test.

    Within a class the rows are ranked by a hash of the seed and the file name, and the ranking is
    cut. So their order in the table is of no account, and rows that are added move few others.
    """
    parts: dict[str, list[Row]] = {part: [] for part in SPLITS}
    for label in CLASSES:
        ranked = sorted((row for row in rows if row[1] == label), key=_rank(seed))
        held_out = max(round(HELD_OUT * len(ranked)), 1)
        parts["test"] += sorted(ranked[:held_out])
        parts["val"] += sorted(ranked[held_out : 2 * held_out])
        parts["train"] += sorted(ranked[2 * held_out :])
    return parts


def _rank(seed: int) -> Callable[[Row], bytes]:
    return lambda row: hashlib.blake2b(f"{seed} {row[0]}".encode(), digest_size=8).digest()


def read_table(root: Path) -> list[Row]:
    """Return the rows of ``root/train.csv``; PerfkitError for the first that is wrong."""
    where = f"--data {root}: {TABLE}"
    rows: dict[str, int] = {}
    missing: list[str] = []
    leaves = _leaving(root)
    for line, name, label in _lines(root):
        path = PurePosixPath(name)  # which "a/./b" and "a//b" are the same for
        if path.is_absolute() or ".." in path.parts:
            raise PerfkitError(f"{where} line {line}: {name!r} leaves the data folder")
        if label not in ("0", "1"):
            raise PerfkitError(
                f"{where} line {line}: label {label!r} of {name!r} is neither 0 (real) nor 1 "
                "(AI-generated)"
            )
        if str(path) in rows:
            raise PerfkitError(
                f"{where} line {line}: {name!r} is there for the second time; leave one row of it"
            )
        rows[str(path)] = int(label)
        if not os.path.isfile(root / path):
            missing.append(f"{name!r} in line {line}")
        elif leaves(root / path):
            raise PerfkitError(
                f"{where} line {line}: {name!r} is a link that leaves the data folder; put the "
                "file itself there"
            )
    if missing:
        raise PerfkitError(
            f"{where} names files that are missing, {len(missing)} of {len(rows)}, first "
            f"{missing[0]}; unpack the whole data set or take their rows out"
        )
    return list(rows.items())


def _lines(root: Path) -> Iterator[tuple[int, str, str]]:
    """Yield the number, file name and label of every line of the table."""
    where = f"--data {root}: {TABLE}"
    try:
        with (root / TABLE).open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, restval="")
            found = reader.fieldnames or []
            for column in (NAME, LABEL):
                if column not in found:
                    raise PerfkitError(
                        f"{where} has no column {column!r} among {list(found)}; expected file_name "
                        "and label (0 real, 1 AI-generated)"
                    )
            for row in reader:
                yield reader.line_num, row[NAME], row[LABEL].strip()
    except FileNotFoundError:
        raise PerfkitError(
            f"--data {root}: has no {TABLE}; expected one with the columns file_name and label (0 "
            "real, 1 AI-generated)"
        ) from None
    except OSError as error:
        raise PerfkitError(f"{where} cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise PerfkitError(f"{where} is not a table in UTF-8 ({error})") from None


def _leaving(root: Path) -> Callable[[Path], bool]:
    """Return what tells whether a path leads out of ``root`` through symbolic links."""
    inside = root.resolve()

    @cache  # a folder holds thousands of files
    def folder_leaves(folder: Path) -> bool:
        return not folder.resolve().is_relative_to(inside)

    def leaves(path: Path) -> bool:
        if path.is_symlink():
            return not path.resolve().is_relative_to(inside)
        return folder_leaves(path.parent)

    return leaves
