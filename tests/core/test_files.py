"""A file is there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from perfkit.core.files import replacing


def test_the_file_appears_when_the_block_ends_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "made" / "trace.json.gz"
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["record.json", "rank0.json.gz", "compare.png"])
def test_the_temporary_name_ends_as_the_file_does_and_is_hidden(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as temporary:
        temporary.touch()
        assert temporary.suffix == Path(name).suffix
        assert temporary.name.startswith(".")
        assert temporary.parent == tmp_path


def test_a_block_that_fails_leaves_the_older_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"old")

    def fail_half_way() -> None:
        with replacing(path) as temporary:
            temporary.write_bytes(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError), replacing(tmp_path / "file" / "record.json"):
        pass
