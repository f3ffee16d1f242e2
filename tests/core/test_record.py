"""A Record comes back as it was written, and a reader says what is wrong with a file."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import orjson
import pytest
from pydantic import ValidationError
from records import a_baseline, a_cell, a_record, some_traces

from perfkit.core.errors import PerfkitError
from perfkit.core.record import (
    RECORD_NAME,
    SCHEMA_VERSION,
    Record,
    StepSample,
    read_record,
    write_record,
)


@pytest.fixture
def record() -> Record:
    strategy = a_cell([[0.2, 0.3], [0.25, 0.3]])
    return a_record(strategy, a_baseline([0.2, 0.2]), traces=some_traces([0.4, 0.5]))


def changed(folder: Path, record: Record, **changes: Any) -> Path:
    """Write the record with some top-level values changed behind pydantic's back."""
    path = write_record(record, folder)
    path.write_bytes(orjson.dumps(orjson.loads(path.read_bytes()) | changes))
    return path


def test_a_record_comes_back_as_it_was_written_from_its_folder_and_from_its_file(
    tmp_path: Path, record: Record
) -> None:
    path = write_record(record, tmp_path)
    assert path == tmp_path / RECORD_NAME
    assert read_record(tmp_path) == record
    assert read_record(path) == record


def test_a_record_is_readable_json_for_everybody_and_alone_in_its_folder(
    tmp_path: Path, record: Record
) -> None:
    umask = os.umask(0o022)
    try:
        path = write_record(record, tmp_path)
    finally:
        os.umask(umask)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644
    assert orjson.loads(path.read_bytes())["schema_version"] == SCHEMA_VERSION
    assert path.read_text(encoding="utf-8").count("\n") > 100


def test_an_older_record_is_replaced_whole(tmp_path: Path, record: Record) -> None:
    write_record(record, tmp_path)
    later = record.model_copy(update={"status": "incomplete"})
    write_record(later, tmp_path)
    assert read_record(tmp_path).status == "incomplete"


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, None])
def test_a_diverged_loss_is_kept_as_none_and_the_file_stays_readable(
    tmp_path: Path, loss: float | None
) -> None:
    step = StepSample(host_s=1.0, phases_s={}, device_phases_s={}, communication_s=None, loss=loss)
    assert step.loss is None
    cell = a_cell([[0.2], [0.2]])
    blocks = [block.model_copy(update={"steps": [step]}) for block in cell.blocks]
    record = a_record(cell.model_copy(update={"blocks": blocks}))
    write_record(record, tmp_path)
    assert read_record(tmp_path) == record


def test_a_loss_that_is_a_number_stays_what_it_is() -> None:
    assert a_cell([[0.2]]).blocks[0].steps[0].loss == 0.5


def test_a_record_without_any_cell_is_refused() -> None:
    with pytest.raises(ValidationError):
        a_record(a_cell([[0.2]]), cells=[])


def refusal(path: Path) -> str:
    with pytest.raises(PerfkitError) as caught:
        read_record(path)
    told = str(caught.value)
    assert "\n" not in told
    return told


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path) == (
        f"{tmp_path}: holds no {RECORD_NAME}; it is no run folder, or the run ended before "
        "anything was measured"
    )
    assert refusal(tmp_path / "nowhere") == (
        f"{tmp_path / 'nowhere'}: cannot be read (No such file or directory); name a run folder"
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_a_truncated_record_is_refused_as_not_whole(
    tmp_path: Path, record: Record, share: float
) -> None:
    path = write_record(record, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "is not a whole JSON file" in refusal(path)


@pytest.mark.parametrize("content", [b"[1, 2]", b"{}", b'{"schema_version": 1}', b'"1.0"'])
def test_json_that_is_no_record_is_called_that(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / RECORD_NAME
    path.write_bytes(content)
    assert "is not a perfkit Record (it has no schema_version)" in refusal(path)


@pytest.mark.parametrize("version", ["2.0", "10.3"])
def test_a_newer_major_version_is_refused_before_anything_else(
    tmp_path: Path, record: Record, version: str
) -> None:
    path = changed(tmp_path, record, schema_version=version, cells="of another kind")
    assert f"has schema version {version}" in refusal(path)
    assert "update perfkit" in refusal(path)


@pytest.mark.parametrize("version", ["", "one", "1", "1.", "²", "1.0.0", "-1.0"])
def test_a_version_that_is_none_is_no_record(tmp_path: Path, record: Record, version: str) -> None:
    path = changed(tmp_path, record, schema_version=version)
    assert "it has no schema_version" in refusal(path)


def test_a_missing_part_is_named_by_where_it_should_be(tmp_path: Path, record: Record) -> None:
    content = record.model_dump(mode="json")
    del content["cells"][1]["blocks"]
    path = changed(tmp_path, record, cells=content["cells"])
    assert "is not a valid Record (cells.1.blocks: field required)" in refusal(path)


@pytest.mark.parametrize("config", [None, [], "x"], ids=repr)
def test_a_config_that_is_none_is_refused_by_its_name(
    tmp_path: Path, record: Record, config: object
) -> None:
    assert "is not a valid Record (config" in refusal(changed(tmp_path, record, config=config))


@pytest.mark.parametrize("devices", [[], [[]]], ids=repr)
def test_a_cell_without_devices_is_refused(tmp_path: Path, record: Record, devices: object) -> None:
    content = record.model_dump(mode="json")
    content["cells"][0]["devices"] = devices
    path = changed(tmp_path, record, cells=content["cells"])
    assert "is not a valid Record (cells.0.devices" in refusal(path)


def test_what_a_newer_minor_version_added_is_a_reason_to_update(
    tmp_path: Path, record: Record
) -> None:
    path = changed(tmp_path, record, schema_version="1.9", sweep="a new field")
    assert refusal(path).endswith("it has schema version 1.9, update perfkit")
    path = changed(tmp_path, record, sweep="a field that never was")
    assert "update perfkit" not in refusal(path)


def test_a_newer_minor_version_that_added_nothing_here_is_read(
    tmp_path: Path, record: Record
) -> None:
    path = changed(tmp_path, record, schema_version="1.9")
    assert read_record(path).cells == record.cells


def test_a_config_that_perfkit_would_refuse_is_refused_in_a_record_too(
    tmp_path: Path, record: Record
) -> None:
    config = record.config.model_dump(mode="json") | {"rounds": 1}
    path = changed(tmp_path, record, config=config)
    assert "config.profile.rounds: input should be greater than or equal to 2" in refusal(path)
