"""Files of one pydantic model in JSON, with the version of their schema."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError

from perfkit.core.errors import PerfkitError, first_problem
from perfkit.core.files import replacing

Model = TypeVar("Model", bound=BaseModel)


def write_versioned(model: BaseModel, file: Path) -> None:
    """Write ``file``, whole or not at all; OSError where it cannot be."""
    content = orjson.dumps(model.model_dump(mode="json"), option=orjson.OPT_INDENT_2)
    with replacing(file) as temporary:
        temporary.write_bytes(content)


def read_versioned(
    file: Path, kind: type[Model], what: str, version: tuple[int, int], name_one: str
) -> Model:
    """Return the ``kind`` in a file, which messages call ``what``, of this schema version.

    Another major version is refused; a later minor version only adds fields, and is refused where
    the reader would have to make them up. PerfkitError says what is wrong; ``name_one`` is what to
    name where there is no such file.
    """
    try:
        content: Any = orjson.loads(file.read_bytes())
    except OSError as error:
        raise PerfkitError(f"{file}: cannot be read ({error.strerror}); {name_one}") from None
    except orjson.JSONDecodeError as error:
        raise PerfkitError(
            f"{file}: is not a whole JSON file ({error}); it must be made again"
        ) from None
    told = content.get("schema_version") if isinstance(content, dict) else None
    found = re.fullmatch(r"([0-9]{1,9})[.]([0-9]{1,9})", told) if isinstance(told, str) else None
    if found is None:
        raise PerfkitError(f"{file}: is not a perfkit {what} (it has no schema_version)")
    major, minor = int(found[1]), int(found[2])
    if major != version[0]:
        cure = "update perfkit" if major > version[0] else "use the perfkit that made it"
        raise PerfkitError(
            f"{file}: has schema version {told}, this perfkit reads {version[0]}.x; {cure}"
        )
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        field, _, reason = first_problem(error)
        cure = f"; it has schema version {told}, update perfkit" if minor > version[1] else ""
        raise PerfkitError(f"{file}: is not a valid {what} ({field}: {reason}){cure}") from None
