"""What an exposition in the text format says, read by the client library's parser."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Scrape:
    """The metrics of one moment."""

    text: str

    @cached_property
    def samples(self) -> list[tuple[str, Mapping[str, str], float]]:
        """All of them: name, labels, value."""
        return _parse(self.text)

    def named(self, name: str) -> list[tuple[Mapping[str, str], float]]:
        """Return the labels and values of one name; to parse nothing else is a lot less."""
        lines = [
            line for line in self.text.split("\n") if line.startswith((f"{name}{{", f"{name} "))
        ]
        return [sample[1:] for sample in _parse("\n".join(lines))]

    def sums(self, name: str, *by: str, **where: str) -> Counter[tuple[str, ...]]:
        """Return `sum by (…) (name{where})`, without the zeros."""
        sums: Counter[tuple[str, ...]] = Counter()
        for labels, value in self.named(name):
            if where.items() <= labels.items():
                sums[tuple(labels[label] for label in by)] += int(value)
        return +sums

    def value(self, name: str, **labels: str) -> float | None:
        """Return the one sample with these labels, or None."""
        found = [value for have, value in self.named(name) if labels.items() <= have.items()]
        assert len(found) <= 1, f"{name}{labels} is ambiguous"
        return found[0] if found else None


def _parse(text: str) -> list[tuple[str, Mapping[str, str], float]]:
    return [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
