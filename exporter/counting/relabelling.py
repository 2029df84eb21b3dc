"""Prometheus' relabelling, of our labels before they become series. Pure.

Source: Prometheus' documentation, "relabel_config". Series that come to have the same labels are
added up, which is what Prometheus itself cannot do. Totals are kept under the labels of the rows,
so that other rules may follow.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import md5
from typing import Any, Literal, Protocol, TypeVar

from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric
from exporter.metrics.samples import LabelValues

Action = Literal["replace", "lowercase", "uppercase", "hashmod", "labeldrop", "drop", "keep"]
Labels = dict[str, str]  # of one series, by name
Number = TypeVar("Number", bound=float)
Step = Callable[[Labels], bool]  # changes labels; says whether there is a series still

TARGETS = ("task", "worker", "queue", "exception")  # that rules may change
SOURCES = ("task", "state", "worker", "queue", "exception")  # that they may look at
#: Counts of label sets that rules drop go here once `series_limit` is near: they stay dropped.
DROPPED = "__dropped__"
REMEMBERED = 50_000  # label sets

_REFERENCE = re.compile(r"\$(?:(\$)|(\w+)|\{(\w+)\})")  # Go's regexp.Expand


class Match(Protocol):
    """What an expression has found."""

    def group(self, name: str | int) -> str | None:
        """Return the text of a group; None where it took no part."""


class Pattern(Protocol):
    """A compiled expression."""

    groups: int
    groupindex: dict[str, int]

    def fullmatch(self, text: str) -> Match | None:
        """Match all of the text."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, with Prometheus' defaults. `labels` are those that a labeldrop drops."""

    action: Action = "replace"
    sources: tuple[str, ...] = ()
    separator: str = ";"
    target: str = ""
    regex: str = "(.*)"
    replacement: str = "$1"
    modulus: int = 1
    labels: tuple[str, ...] = ()


def compiled(regex: str) -> Pattern:
    """Compile an expression, anchored at both ends as Prometheus 3 does it.

    RE2, whose time is linear in the text: labels come from whoever names tasks and workers. It is
    loaded only where a rule needs it. Raises ValueError.
    """
    try:
        import re2  # noqa: PLC0415
    except ImportError:
        raise ValueError(
            "needs the package google-re2: pip install 'celery-results-exporter[re2]'"
        ) from None
    options = re2.Options()
    options.log_errors = False
    try:
        pattern: Pattern = re2.compile(f"(?s:{regex})", options)
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise ValueError(f"is no regular expression: {text.partition(':')[0]}") from None
    return pattern


class Relabelling:
    """What the rules of a backend make of the labels of task metrics."""

    def __init__(self, rules: Sequence[Rule] = ()) -> None:
        """Raise ValueError where an expression is none."""
        self._steps = [(_needs(rule), _step(rule)) for rule in rules]
        self._cached = lru_cache(REMEMBERED)(self._relabelled)
        self.drops = any(rule.action in ("drop", "keep") for rule in rules)
        #: Labels that no series has any more.
        self.without = frozenset(label for rule in rules for label in rule.labels)

    def __bool__(self) -> bool:
        return bool(self._steps)

    def __call__(self, metric: Metric, labels: LabelValues) -> LabelValues | None:
        """Return the labels to serve; None: there is no such series."""
        if not self._steps or metric not in catalogue.TASK_METRICS:
            return labels
        return self._cached(metric.labels, labels)

    def merged(
        self,
        metric: Metric,
        values: Collection[tuple[LabelValues, Number]],
        merge: Callable[[Number, Number], Number],
    ) -> Collection[tuple[LabelValues, Number]]:
        """Return the values of a gauge by the labels to serve."""
        if not self._steps:
            return values
        kept: dict[LabelValues, Number] = {}
        for own, value in values:
            if (labels := self(metric, own)) is not None:
                kept[labels] = merge(kept[labels], value) if labels in kept else value
        return kept.items()

    def coarser(self, metric: Metric, labels: LabelValues) -> LabelValues:
        """Return what to count under where there is no room for all labels of the rows.

        It is served as they would be.
        """
        if not self._steps or metric not in catalogue.TASK_METRICS:
            return labels
        served = self(metric, labels)
        if served is None:
            state = metric.labels.index("state") if "state" in metric.labels else -1
            return tuple(value if index == state else DROPPED for index, value in enumerate(labels))
        return served if self(metric, served) == served else labels

    def _relabelled(self, names: tuple[str, ...], values: LabelValues) -> LabelValues | None:
        if values[0] == DROPPED:
            return None
        labels = dict(zip(names, values, strict=True))
        for needs, step in self._steps:
            # A metric without such a label: what would it be compared with?
            if needs <= labels.keys() and not step(labels):
                return None
        return tuple(labels.values())


def _needs(rule: Rule) -> frozenset[str]:
    """Name the labels without which a rule does not concern a metric."""
    if rule.action == "labeldrop":
        return frozenset()
    return frozenset(rule.sources) | ({rule.target} if rule.target else frozenset())


def _step(rule: Rule) -> Step:
    def joined(labels: Labels) -> str:
        return rule.separator.join([labels[name] for name in rule.sources])

    def changed(to: Callable[[str], str]) -> Step:
        def change(labels: Labels) -> bool:
            labels[rule.target] = to(joined(labels))
            return True

        return change

    def drop_labels(labels: Labels) -> bool:
        labels.update((name, "") for name in rule.labels if name in labels)
        return True

    match rule.action:
        case "labeldrop":
            return drop_labels
        case "lowercase":
            return changed(str.lower)
        case "uppercase":
            return changed(str.upper)
        case "hashmod":
            return changed(lambda text: str(_hash(text) % rule.modulus))
        case "replace":
            return _replace(rule, joined)
    pattern, wanted = compiled(rule.regex), rule.action == "keep"
    return lambda labels: (_match(pattern, joined(labels)) is not None) is wanted


def _replace(rule: Rule, joined: Callable[[Labels], str]) -> Step:
    pattern = compiled(rule.regex)
    parts = _template(rule.replacement, pattern)

    def replace(labels: Labels) -> bool:
        if (found := _match(pattern, joined(labels))) is not None:
            labels[rule.target] = "".join([part(found) for part in parts])
        return True

    return replace


def _match(pattern: Pattern, text: str) -> Match | None:
    return pattern.fullmatch(text.encode(errors="replace").decode())  # a lone surrogate is no text


def _template(replacement: str, pattern: Pattern) -> list[Callable[[Match], str]]:
    """Read ``$1``, ``${1}``, ``$name`` and ``$$`` as Go does; no such group is empty."""
    parts: list[Callable[[Match], str]] = []
    end = 0
    for found in _REFERENCE.finditer(replacement):
        parts.append(_literal(replacement[end : found.start()]))
        end = found.end()
        dollar, bare, braced = found.groups()
        parts.append(_literal(dollar) if dollar else _group(bare or braced, pattern))
    return [*parts, _literal(replacement[end:])]


def _literal(text: str) -> Callable[[Any], str]:
    return lambda _: text


def _group(name: str, pattern: Pattern) -> Callable[[Match], str]:
    number = int(name) if name.isdecimal() else pattern.groupindex.get(name)
    if number is None or number > pattern.groups:
        return _literal("")
    return lambda found: found.group(number) or ""


def _hash(text: str) -> int:
    """Hash as Prometheus does: the last 8 bytes of MD5."""
    digest = md5(text.encode(errors="replace"), usedforsecurity=False).digest()
    return int.from_bytes(digest[8:])
