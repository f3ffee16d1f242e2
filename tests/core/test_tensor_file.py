"""A file of tensors is read without running what somebody else may have put into it."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from perfkit.core.errors import PerfkitError
from perfkit.core.tensor_file import read_tensors

CONTENT = {"weight": torch.arange(6.0).reshape(2, 3), "epoch": 3, "names": ["a", ("b", None)]}


class Hostile:
    """Runs code of its own when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self._target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self._target,))


def refusal(path: Path) -> str:
    with pytest.raises(PerfkitError) as refused:
        read_tensors(path)
    message = str(refused.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


def test_tensors_plain_values_and_containers_come_back(tmp_path: Path) -> None:
    torch.save(CONTENT, tmp_path / "file.pt")
    found = read_tensors(tmp_path / "file.pt")
    assert torch.equal(found["weight"], CONTENT["weight"])  # type: ignore[arg-type]
    assert (found["epoch"], found["names"]) == (3, ["a", ("b", None)])


@pytest.mark.parametrize("form", ["torch", "legacy torch", "pickle"])
def test_a_hostile_pickle_is_refused_and_its_code_does_not_run(form: str, tmp_path: Path) -> None:
    path, mark = tmp_path / "file.pt", tmp_path / "it-ran"
    content = {"weight": torch.ones(2), "payload": Hostile(mark)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "torch")
    assert "could run foreign code, so it was not loaded" in refusal(path)
    assert not mark.exists()
    torch.load(path, weights_only=False) if form != "pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # it would have run


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save(CONTENT, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refusal(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_file_of_the_older_format_is_refused(kept: float, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=False)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    refusal(path)


@pytest.mark.parametrize(
    "content", [b"", b"not tensors", b"\x80", b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"\x00" * 1000]
)
def test_what_is_no_file_of_tensors_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    refusal(path)


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_damaged_byte_is_refused_or_read_as_it_stands(is_zip: bool, tmp_path: Path) -> None:
    """Nothing else may come of it: torch raises a dozen kinds of errors, and sees no checksums."""
    path = tmp_path / "file.pt"
    torch.save(CONTENT, path, _use_new_zipfile_serialization=is_zip)
    whole = path.read_bytes()
    refusals = []
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x55]) + whole[position + 1 :])
        try:
            read_tensors(path)
        except PerfkitError as error:
            refusals.append(str(error))
    assert len(refusals) > 10
    assert all(message.startswith(f"{path}: ") for message in refusals)
    assert all("\n" not in message for message in refusals)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "cannot be read (No such file or directory)" in refusal(tmp_path / "missing.pt")
    assert "cannot be read (Is a directory)" in refusal(tmp_path)
