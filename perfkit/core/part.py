"""What every part of a file that perfkit writes is, and what numbers it may hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MOST = 10**15
"""Of anything that is counted or measured: no sum, product or quotient of a few overflows. A file
that holds more was edited, or is damaged."""


class Part(BaseModel):
    """What every part of a file is: unchangeable, strict, described field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Number = Annotated[float, Field(ge=-MOST, le=MOST)]
Amount = Annotated[float, Field(ge=0, le=MOST)]
PositiveAmount = Annotated[float, Field(ge=1 / MOST, le=MOST)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=MOST)]
PositiveCount = Annotated[int, Field(ge=1, le=MOST)]
