"""The folder with a train.csv: what is read, how it is split, what is refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from perfkit.core.errors import PerfkitError
from perfkit.data import SPLITS
from perfkit.data.csv_folder import CsvFolder, read_table, split_rows

SIZE = 16
HEADER = ",file_name,label"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Forty photos, every other one generated and bright."""
    folder = tmp_path / "photos"
    (folder / "train_data").mkdir(parents=True)
    lines = [HEADER]
    for index in range(40):
        name = f"train_data/{index:02d}.png"
        Image.new("RGB", (24, 20), (200 * (index % 2), index, 0)).save(folder / name)
        lines.append(f"{index},{name},{index % 2}")
    write(folder, lines)
    return folder


def write(root: Path, lines: list[str], encoding: str = "utf-8") -> None:
    (root / "train.csv").write_text("\n".join(lines) + "\n", encoding=encoding)


def lines_of(root: Path) -> list[str]:
    return (root / "train.csv").read_text().splitlines()


def shown(root: Path, split: str, seed: int = 0) -> list[int]:
    """Return which photos a split reads, as their green channel tells."""
    data = CsvFolder(root, split, size=SIZE, seed=seed)
    return [int(data.read(index)[1, 0, 0]) for index in range(len(data))]


def test_every_photo_is_in_one_split_with_its_label(root: Path) -> None:
    found: list[int] = []
    for split, count in zip(SPLITS, (32, 4, 4), strict=True):
        data = CsvFolder(root, split, size=SIZE, seed=0)
        assert data.name == f"photos/{split}"
        assert data.split == "stratified 80/10/10 by seed 0"
        assert data.skipped == ()
        assert data.labels.dtype == torch.int64
        assert torch.bincount(data.labels).tolist() == [count // 2, count // 2]
        for index, label in enumerate(data.labels.tolist()):
            image = data.read(index)
            assert (image.shape, image.dtype) == ((3, SIZE, SIZE), torch.uint8)
            red, green, _ = image[:, 0, 0].tolist()
            assert red == 200 * label
            found.append(green)
    assert sorted(found) == list(range(40))


def test_the_split_follows_from_the_seed_and_not_from_the_order_of_the_rows(root: Path) -> None:
    before = {split: shown(root, split) for split in SPLITS}
    assert shown(root, "test", seed=1) != before["test"]
    header, *rows = lines_of(root)
    random.Random(0).shuffle(rows)
    write(root, [header, *rows])
    assert {split: shown(root, split) for split in SPLITS} == before


def test_rows_that_are_added_move_few_others() -> None:
    rows = [(f"{index}.jpg", index % 2) for index in range(1000)]
    before = split_rows(rows, 3)
    after = split_rows([*rows, *((f"new{index}.jpg", 0) for index in range(20))], 3)
    for split in SPLITS:
        stayed = set(before[split]) & set(after[split])
        assert len(stayed) >= len(before[split]) - 8


@pytest.mark.parametrize("counts", [(3, 3), (5, 40), (100, 11), (994, 7)])
def test_a_split_is_stratified_and_whole_for_any_counts(counts: tuple[int, int]) -> None:
    rows = [(f"{label}/{i}", label) for label, count in enumerate(counts) for i in range(count)]
    parts = split_rows(rows, 0)
    assert sorted(row for part in parts.values() for row in part) == sorted(rows)
    for label, count in enumerate(counts):
        found = [sum(row[1] == label for row in parts[split]) for split in SPLITS]
        assert min(found) >= 1
        assert found[1] == found[2]
        assert abs(found[1] - count / 10) <= max(0.5, 1 - count / 10)


def test_other_columns_their_order_and_a_byte_order_mark_are_of_no_account(root: Path) -> None:
    before = shown(root, "train")
    rows = [line.split(",") for line in lines_of(root)[1:]]
    new = ["label,source,file_name", *(f'{label},"a, b",{name}' for _, name, label in rows)]
    write(root, new, encoding="utf-8-sig")
    (root / "test.csv").write_text("id\ntest_data_v2/a.jpg\n")
    assert shown(root, "train") == before


def test_damaged_files_are_skipped_and_named_and_move_no_other(root: Path) -> None:
    before = shown(root, "train")
    victim = before[5]
    (root / f"train_data/{victim:02d}.png").write_bytes(b"no photo")
    data = CsvFolder(root, "train", size=SIZE, seed=0)
    assert data.skipped == (f"train_data/{victim:02d}.png: not an image",)
    assert shown(root, "train") == [photo for photo in before if photo != victim]


def test_more_than_five_per_cent_of_damaged_files_is_an_error(root: Path) -> None:
    for photo in shown(root, "train")[:2]:
        (root / f"train_data/{photo:02d}.png").write_bytes(b"no photo")
    assert "2 of 32 files in train are not whole images (at most 5%" in refusal(root)


def test_a_link_that_stays_in_the_folder_is_a_file_like_any_other(
    root: Path, tmp_path: Path
) -> None:
    (root / "train_data" / "00.png").rename(root / "elsewhere.png")
    (root / "train_data" / "00.png").symlink_to(root / "elsewhere.png")
    assert len(read_table(root)) == 40
    (tmp_path / "link").symlink_to(root)
    assert len(read_table(tmp_path / "link")) == 40


def refusal(root: Path) -> str:
    with pytest.raises(PerfkitError) as error:
        CsvFolder(root, "train", size=SIZE, seed=0)
    message = str(error.value)
    assert message.startswith(f"--data {root}")
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("40,train_data/00.png,1", "line 42: 'train_data/00.png' is there for the second time"),
        ("40,train_data/./00.png,0", "'train_data/./00.png' is there for the second time"),
        ("40,train_data//00.png,0", "is there for the second time"),
        ("40,new.png,2", "line 42: label '2' of 'new.png' is neither 0 (real) nor 1"),
        ("40,new.png,real", "label 'real' of 'new.png' is neither"),
        ("40,new.png,", "label '' of 'new.png' is neither"),
        ("40,new.png", "label '' of 'new.png' is neither"),
        ("40,new.png,0.5", "label '0.5' of 'new.png' is neither"),
        ("40,/etc/passwd,0", "line 42: '/etc/passwd' leaves the data folder"),
        ("40,../photos/new.png,0", "line 42: '../photos/new.png' leaves the data folder"),
        ("40,train_data/../../new.png,0", "leaves the data folder"),
        ("40,gone.png,0", "missing, 1 of 41, first 'gone.png' in line 42"),
        ("40,gone\0.png,0", "missing, 1 of 41, first 'gone\\x00.png' in line 42"),
        ("40," + "long" * 99 + ".png,0", "missing, 1 of 41"),
        ("40,train_data,0", "missing, 1 of 41, first 'train_data' in line 42"),
        ("40,,0", "missing, 1 of 41, first '' in line 42"),
        ('40,"two\nlines.png",0', "missing, 1 of 41, first 'two\\nlines.png' in line 43"),
        ("40,linked.png,0", "line 42: 'linked.png' is a link that leaves the data folder"),
        ("40,linked/secret.png,0", "line 42: 'linked/secret.png' is a link that leaves"),
        ("40,dangling.png,0", "missing, 1 of 41, first 'dangling.png' in line 42"),
    ],
)
def test_a_wrong_row_is_refused_in_one_line_that_names_it(
    row: str, words: str, root: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    for path in (outside / "secret.png", root / "new.png"):
        Image.new("RGB", (4, 4)).save(path)
    (root / "linked.png").symlink_to(outside / "secret.png")
    (root / "linked").symlink_to(outside)
    (root / "dangling.png").symlink_to(outside / "gone.png")
    write(root, [*lines_of(root), row])
    assert words in refusal(root)


def test_all_missing_files_are_counted_and_the_first_is_named(root: Path) -> None:
    for path in (root / "train_data").glob("1?.png"):
        path.unlink()
    assert "missing, 10 of 40, first 'train_data/10.png' in line 12" in refusal(root)


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        pytest.param(lambda table: table.unlink(), "has no train.csv; expected one", id="none"),
        pytest.param(
            lambda table: (table.unlink(), table.mkdir()), "cannot be read", id="a folder"
        ),
        pytest.param(
            lambda table: table.write_text(",file,label\n0,a.png,0\n"),
            "train.csv has no column 'file_name' among ['', 'file', 'label']; expected",
            id="no name",
        ),
        pytest.param(
            lambda table: table.write_text(",file_name\n0,a.png\n"),
            "train.csv has no column 'label' among ['', 'file_name']",
            id="no label",
        ),
        pytest.param(
            lambda table: table.write_text(""), "train.csv has no column 'file_name'", id="empty"
        ),
        pytest.param(lambda table: table.write_text(HEADER), "has 0 rows of label 0", id="no rows"),
        pytest.param(
            lambda table: table.write_bytes(b"\xff\xfe\x00\x01"), "not a table in UTF-8", id="bytes"
        ),
        pytest.param(
            lambda table: table.write_text(f'{HEADER}\n0,"{"a" * 200_000}'),
            "not a table in UTF-8 (field larger than field limit",
            id="one long field",
        ),
        pytest.param(
            lambda table: table.write_text("\n".join(table.read_text().splitlines()[:6])),
            "has 2 rows of label 1; training, validation and test need one each",
            id="too few",
        ),
    ],
)
def test_a_table_that_cannot_be_used_is_refused_in_one_line(
    prepare: Callable[[Path], object], words: str, root: Path
) -> None:
    prepare(root / "train.csv")
    assert words in refusal(root)


@pytest.mark.real_data
def test_real_and_generated_photographs_are_all_read(data_dir: Path) -> None:
    seen = 0
    for split, count in zip(SPLITS, (80, 10, 10), strict=True):
        data = CsvFolder(data_dir / "ai-vs-human", split, size=64, seed=0)
        assert torch.bincount(data.labels).tolist() == [count // 2, count // 2]
        assert data.skipped == ()
        pictures = [data.read(index).float() for index in range(len(data))]
        assert all(picture.std() > 5 for picture in pictures)
        seen += len(pictures)
    assert seen == 100
