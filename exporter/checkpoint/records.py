"""What a checkpoint keeps of positions and totals: JSON whose fields have names, or columns. Pure.

A field that is missing has its default, and one that has it is left out: to add a field with a
default changes nothing that was kept. What else changes is a step in `migrations.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple, TypeVar

from exporter.counting.audit import Segment
from exporter.counting.groups import Open
from exporter.counting.lifecycle import Watch
from exporter.counting.shown import Key
from exporter.counting.spans import Missing, Span
from exporter.counting.step import Gap, Mark
from exporter.counting.values import KINDS, Value
from exporter.metrics.catalogue import CATALOGUE, Metric
from exporter.sql.identity import Identity

Record = TypeVar("Record", bound=Identity | Open | Segment | Watch | Value)
COUNTED = ("state", "task", "worker", "queue")


class UnknownMetricError(Exception):
    """No metric of ours has this name and these labels."""


def mark(of: Mark) -> str:
    """Keep where reading stands."""
    return _text(dict(of))


def read_mark(text: str) -> Mark:
    """Read it."""
    found: Mark = json.loads(text)
    return found


def identity(of: Identity) -> str:
    """Keep which table of which database this is."""
    return _text(_fields(of))


def read_identity(text: str) -> Identity:
    """Read it."""
    return _made(Identity, json.loads(text))


def gap(of: Gap) -> dict[str, Any]:
    """Keep a gap, as columns, but not when it is due."""
    (span, known), since, _, horizon = of
    lo, hi = span
    return {"lo": lo, "hi": hi, "known": f"{known:x}", "since": since, "horizon": horizon}


def read_gap(lo: int, hi: int, known: str, since: float, horizon: int | None) -> Gap:
    """Read it; it is due at once."""
    return Gap(Missing(Span(lo, hi), int(known, 16)), since, 0.0, horizon)


def segment(of: Segment) -> str:
    """Keep a segment; its lowest id is its key."""
    return _text({"hi": of.span.hi, **_fields(of, "span")})


def read_segment(lo: int, text: str) -> Segment:
    """Read it."""
    fields = json.loads(text)
    return _made(Segment, fields | {"span": Span(lo, fields.pop("hi"))})


def watch(of: Watch) -> str:
    """Keep a watched row; its id is its key."""
    fields = _fields(of, "counted")
    if of.settled:  # most are: it counts as what it is
        fields["settled"] = True
    elif of.counted is not None:
        fields["counted"] = dict(zip(COUNTED, of.counted, strict=True))
    return _text(fields)


def read_watch(text: str) -> Watch:
    """Read it."""
    fields = json.loads(text)
    settled, counted = fields.pop("settled", False), fields.pop("counted", None)
    found = _made(Watch, fields)
    if settled:
        return found._replace(counted=found.labels)
    if counted is not None:
        return found._replace(counted=tuple(counted[name] for name in COUNTED))
    return found


def open_group(of: Open) -> str:
    """Keep an open group; the id of its row is its key."""
    return _text(_fields(of))


def read_open_group(text: str) -> Open:
    """Read it."""
    return _made(Open, json.loads(text))


def labels(of: Key) -> str:
    """Keep the labels of a total."""
    metric, values = of
    return _text(dict(zip(metric.labels, values, strict=True)))


def read_key(name: str, labels: str) -> Key:
    """Read metric and labels; raise UnknownMetricError where this version has none such."""
    metric: Metric | None = CATALOGUE.get(name)
    found: Mapping[str, str] = json.loads(labels)
    if metric is None or found.keys() != set(metric.labels):
        raise UnknownMetricError(name)
    return metric, tuple(found[label] for label in metric.labels)


def value(of: Value) -> str:
    """Keep what was counted."""
    return _text(_fields(of))


def read_value(metric: Metric, text: str) -> Value:
    """Read it: the metric's type says what it is."""
    fields = json.loads(text)
    return _made(KINDS[metric.type], {name: _frozen(field) for name, field in fields.items()})


def _frozen(field: Any) -> Any:
    return tuple(field) if isinstance(field, list) else field


def key(of: Key) -> str:
    """Name a total by a hash: no collation merges two of them."""
    metric, values = of
    return sha256(json.dumps([metric.name, *values]).encode()).hexdigest()


def _made(kind: type[Record], fields: dict[str, Any]) -> Record:
    unknown = sorted(fields.keys() - set(kind._fields))
    if unknown:
        raise ValueError(f"a {kind.__name__.lower()} with {unknown[0]!r}, which is not known here")
    return kind(**fields)


def _fields(of: NamedTuple, *but: str) -> dict[str, Any]:
    """Return what differs from the defaults, by name."""
    defaults = of._field_defaults
    return {
        name: value
        for name, value in zip(of._fields, of, strict=True)
        if name not in but and not (name in defaults and defaults[name] == value)
    }


def _text(fields: Mapping[str, Any]) -> str:
    return json.dumps(fields, separators=(",", ":"))
