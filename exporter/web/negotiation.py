"""PURE: what a client asked for in Accept and Accept-Encoding -> what it gets.

Written out because python-mimeparse answers a version that was not asked for and raises on a
malformed header, and prometheus-client ignores q.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from urllib.request import parse_http_list  # splits at commas, but not inside quotes

from exporter.exposition.formats import Format

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Choice(NamedTuple):
    """One element of a header: a media range or a content coding."""

    value: str
    parameters: dict[str, str]
    q: float


def choose_format(accept: str) -> Format:
    """Return the format with the highest q; text where none is acceptable, never a 406."""
    ranges = list(_choices(accept))
    # The first of equals wins: a tie, as in */*, is answered with what every client can read.
    return max([Format.TEXT, Format.OPENMETRICS], key=lambda format_: _rank(format_, ranges))


def accepts_gzip(accept_encoding: str) -> bool:
    """Tell whether gzip is acceptable and not less wanted than the plain bytes."""
    wanted = {choice.value: choice.q for choice in _choices(accept_encoding)}
    gzip = wanted.get("gzip", wanted.get("x-gzip", wanted.get("*", 0.0)))
    return gzip > 0 and gzip >= wanted.get("identity", 0.0)


def _rank(format_: Format, ranges: list[_Choice]) -> tuple[float, int]:
    """Return q of the most specific range that covers the format, and how specific it is."""
    (ours,) = _choices(format_.value)
    matches = [(_specificity(ours, choice), choice.q) for choice in ranges]
    specificity, q = max(matches, default=(0, 0.0))
    return (q, specificity) if specificity and q else (0.0, 0)


def _specificity(ours: _Choice, theirs: _Choice) -> int:
    """Say how closely a media range names a format: 0 is not at all.

    Only ``version`` tells formats of one type apart: our names need no ``escaping``, and the
    charset is always UTF-8.
    """
    if theirs.value == "*/*":
        return 1
    if theirs.value == ours.value.partition("/")[0] + "/*":
        return 2
    if theirs.value != ours.value:
        return 0
    if "version" not in theirs.parameters:
        return 3
    return 4 if theirs.parameters["version"] == ours.parameters["version"] else 0


def _choices(header: str) -> Iterator[_Choice]:
    """Yield the elements of a header; one with a malformed q states no preference: left out."""
    for element in parse_http_list(header):
        value, *rest = (part.strip() for part in element.split(";"))
        pairs = (part.partition("=") for part in rest)
        parameters = {name.strip().lower(): text.strip().strip('"') for name, _, text in pairs}
        try:
            q = float(parameters.pop("q", "1"))
        except ValueError:
            continue
        if 0 <= q <= 1:
            yield _Choice(value.lower(), parameters, q)
