"""The JSON schema in docs/ is that of the Record, and what is written follows it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from records import a_baseline, a_cell, a_record, some_traces

from perfkit.core.record import schema_text, write_record

SCHEMA = Path(__file__).parents[2] / "docs" / "record.schema.json"


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    schema = orjson.loads(SCHEMA.read_bytes())
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


@pytest.fixture
def written(tmp_path: Path) -> dict[str, Any]:
    strategy = a_cell([[0.2, 0.3], [0.25, 0.3]], communication_s=0.01, on_gpu=True)
    record = a_record(strategy, a_baseline([0.2, 0.2]), traces=some_traces([0.4]))
    content: dict[str, Any] = orjson.loads(write_record(record, tmp_path).read_bytes())
    return content


def test_the_schema_in_docs_is_up_to_date() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(), (
        "the Record has changed; run: python -m perfkit.core.record > docs/record.schema.json"
    )


def test_the_command_that_writes_it_says_nothing_else() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "perfkit.core.record"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (schema_text(), "")


def test_a_written_record_follows_the_schema(
    written: dict[str, Any], validator: Draft202012Validator
) -> None:
    assert [error.message for error in validator.iter_errors(written)] == []


def test_a_record_that_lacks_something_or_has_more_does_not(
    written: dict[str, Any], validator: Draft202012Validator
) -> None:
    del written["cells"][0]["blocks"][0]["wall_s"]
    written["cells"][1]["colour"] = "red"
    told = [error.message for error in validator.iter_errors(written)]
    assert len(told) == 2
    assert "'wall_s' is a required property" in told
    assert any("'colour' was unexpected" in message for message in told)


def fields() -> Iterator[tuple[str, dict[str, Any]]]:
    schema = orjson.loads(SCHEMA.read_bytes())
    for part, definition in [("Record", schema), *schema["$defs"].items()]:
        yield part, definition
        for name, described in definition["properties"].items():
            yield f"{part}.{name}", described


def test_every_part_and_every_field_is_explained() -> None:
    assert [name for name, described in fields() if not described.get("description")] == []
