"""What keys of a configuration are made of: the model, and how texts become values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, ValidationInfo

from exporter import durations


def _filled(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    if not text.isprintable():  # it is shown in logs, on a page, as a label
        raise ValueError("holds a character that cannot be seen")
    return text


def seconds(parse: Callable[[str], float]) -> BeforeValidator:
    """Read a duration; but our own code, which gives no context, says seconds."""

    def read(value: object, info: ValidationInfo) -> object:
        if info.context is None:
            return value
        return parse("" if isinstance(value, bool) else str(value))

    return BeforeValidator(read)


def _number(value: object) -> object:
    # Longer ones are none, and Python refuses to convert endless digits.
    digits = isinstance(value, str) and value.isdecimal() and len(value) < 20  # noqa: PLR2004
    return int(str(value)) if digits else value


def _truth(value: object) -> object:
    return {"true": True, "false": False}.get(value, value) if isinstance(value, str) else value


def at_least(least: str) -> AfterValidator:
    """Refuse shorter durations."""

    def check(given: float) -> float:
        if given < durations.parse(least):
            raise ValueError(f"is too short; the least is {least}")
        return given

    return AfterValidator(check)


# A value may be typed, or come as text from a variable.
Text = Annotated[str, AfterValidator(_filled)]
Duration = Annotated[float, seconds(durations.parse)]
Whole = Annotated[int, BeforeValidator(_number)]
Truth = Annotated[bool, BeforeValidator(_truth)]


class Model(BaseModel, frozen=True):
    """Knows its keys, and refuses any other."""

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)
