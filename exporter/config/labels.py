"""``labels:``, Prometheus' relabel_config for our labels, and ``extra_labels:``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from exporter.config.model import Model, Text, Whole
from exporter.counting.relabelling import SOURCES, TARGETS, Action, Relabelling, Rule, compiled
from exporter.metrics.catalogue import CATALOGUE

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_TAKEN = {name for metric in CATALOGUE.values() for name in metric.label_names} | {"le"}


def _expression(regex: str) -> str:
    compiled(regex)
    return regex


def _one_of(labels: tuple[str, ...]) -> AfterValidator:
    def check(label: str) -> str:
        if label not in labels:
            raise ValueError(f"is no label that a rule can have here: {', '.join(labels)}")
        return label

    return AfterValidator(check)


Source = Annotated[str, _one_of(SOURCES)]
Target = Annotated[str, _one_of(TARGETS)]


class LabelRule(Model, frozen=True):
    """One rule: Prometheus' keys and words, and two short forms.

    ``source`` is a single source label, and the target where none is named; ``labeldrop`` or
    ``drop`` names a label that no series is to have.
    """

    action: Action = "replace"
    source_labels: list[Source] | None = None
    source: Source | None = None
    separator: str = ";"
    target_label: Target | None = None
    regex: Annotated[str, AfterValidator(_expression)] | None = None
    replacement: str | None = None
    modulus: Annotated[Whole, Field(ge=1)] | None = None
    labeldrop: Target | None = None
    drop: Target | None = None

    @property
    def sources(self) -> tuple[str, ...]:
        """The labels that it looks at."""
        return tuple(self.source_labels or ()) or ((self.source,) if self.source else ())

    @property
    def target(self) -> str:
        """The label that it changes; "" for none."""
        single = self.sources[0] if len(self.sources) == 1 else ""
        return self.target_label or (single if single in TARGETS else "")

    @property
    def without(self) -> tuple[str, ...]:
        """The labels that it takes from every series."""
        if self.action == "labeldrop" and self.regex is not None:
            pattern = compiled(self.regex)
            return tuple(name for name in TARGETS if pattern.fullmatch(name))
        return tuple(name for name in (self.labeldrop, self.drop) if name)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for fault in self._faults():
            raise ValueError(fault)
        Relabelling([self.rule()])  # raises ValueError where it needs what is not installed
        return self

    def _faults(self) -> Iterator[str]:
        said = self.model_fields_set
        short = said & {"labeldrop", "drop"}
        if short:
            if len(said) > 1:
                yield f"has other keys beside {min(short)}; make it a rule of its own"
        elif self.action == "labeldrop":
            if not self.without:
                yield f"drops no label; its regex must match one of {', '.join(TARGETS)}"
        elif {"source", "source_labels"} <= said:
            yield "has both source and source_labels; keep one"
        else:
            yield from self._faults_of_action()

    def _faults_of_action(self) -> Iterator[str]:
        if not self.sources:
            yield "has no source_labels; name the labels that it looks at"
        elif self.action in ("keep", "drop"):
            if self.regex is None:
                yield "has no regex; say which values it is for"
        elif not self.target:
            yield f"has no target_label; name the one that it changes: {', '.join(TARGETS)}"
        elif self.action == "hashmod" and self.modulus is None:
            yield "has no modulus; say how many values there shall be"

    def rule(self) -> Rule:
        """Return it as it is carried out."""
        if self.without:
            return Rule("labeldrop", labels=self.without)
        changes = self.action in ("replace", "lowercase", "uppercase", "hashmod")
        defaults = Rule()
        return Rule(
            action=self.action,
            sources=self.sources,
            separator=self.separator,
            target=self.target if changes else "",
            regex=defaults.regex if self.regex is None else self.regex,
            replacement=defaults.replacement if self.replacement is None else self.replacement,
            modulus=self.modulus or defaults.modulus,
        )


def _extra(labels: dict[str, str]) -> dict[str, str]:
    for name in labels:
        if not _LABEL.fullmatch(name) or name.startswith("__"):
            raise ValueError(f"{name!r} is no name of a label; write it like team or cost_centre")
        if name in _TAKEN:
            raise ValueError(f"{name} is a label that metrics have already; choose another name")
    return labels


ExtraLabels = Annotated[dict[str, Text], AfterValidator(_extra)]
