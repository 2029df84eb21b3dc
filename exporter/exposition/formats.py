"""The exposition formats, by the Content-Type they are served under."""

from __future__ import annotations

from enum import Enum


class Format(Enum):
    """An exposition format; its value is the Content-Type of the answer."""

    TEXT = "text/plain; version=0.0.4; charset=utf-8"
    OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
