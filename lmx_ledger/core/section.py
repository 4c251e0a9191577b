"""What sections of the configuration are made of: strict, frozen tables; sizes and durations as people write them."""

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from lmx_ledger.core.units import parse_bytes, parse_duration


def _size(value: object) -> object:
    return parse_bytes(value) if isinstance(value, str) else value


def _duration(value: object) -> object:
    return parse_duration(value) if isinstance(value, str) else value


Bytes = Annotated[int, BeforeValidator(_size), Field(ge=1)]
BytesOrNone = Annotated[int, BeforeValidator(_size), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(_duration), Field(gt=0)]


class Section(BaseModel):
    """A table of the configuration: a key that it does not know is a mistake, and so is another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
