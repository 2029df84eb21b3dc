"""What a PromQL expression asks of this exporter."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from exporter.metrics.catalogue import CATALOGUE, Metric

#: Labels that Prometheus adds, or is told to add.
TARGET = frozenset({"job", "instance", "pod", "namespace", "cluster"})
RULES = Path(__file__).parents[2] / "deploy" / "prometheus"
#: Those of the process, which every client library serves.
PROCESS = frozenset({"process_resident_memory_bytes", "process_cpu_seconds_total"})

_SELECTOR = re.compile(r"\b((?:celery|process)_[\w:]+|ALERTS)(?:\{([^}]*)\})?(\[)?")
_MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)("[^"]*")')
_AGGREGATION = re.compile(r"\b(?:by|on|ignoring|without|group_left) \(([^)]*)\)")


@dataclass(frozen=True)
class Selector:
    metric: str
    matchers: frozenset[str]  # as written, e.g. state="FAILURE"
    labels: frozenset[str]
    ranged: bool


def selectors(expression: str) -> list[Selector]:
    """Return what the expression selects; only this exporter's metrics are known to do so."""
    return [
        Selector(
            metric,
            frozenset("".join(matcher) for matcher in _MATCHER.findall(matchers)),
            frozenset(label for label, _, _ in _MATCHER.findall(matchers)),
            bool(bracket),
        )
        for metric, matchers, bracket in _SELECTOR.findall(expression)
    ]


def grouped_by(expression: str) -> set[str]:
    """Return the labels that the expression's aggregations and joins name."""
    return {
        label.strip()
        for labels in _AGGREGATION.findall(expression)
        for label in labels.split(",")
        if label.strip()
    }


def family(sample: str) -> Metric | None:
    """Return the metric of the catalogue that has samples of this name."""
    for suffix in ("_bucket", "_sum", "_count"):
        metric = CATALOGUE.get(sample.removesuffix(suffix))
        if sample.endswith(suffix) and metric and metric.type == "histogram":
            return metric
    metric = CATALOGUE.get(sample)
    return None if metric and metric.type == "histogram" else metric


def groups(file: str) -> list[dict[str, Any]]:
    """Return the groups of rules in a file of deploy/prometheus."""
    return yaml.safe_load((RULES / file).read_text())["groups"]


#: What rules record, and Prometheus itself of alerts, with the labels they add.
RECORDED: dict[str, frozenset[str]] = {
    rule["record"]: frozenset({"task", "backend"})
    for group in groups("objectives.yml")
    for rule in group["rules"]
    if "record" in rule
} | {
    "ALERTS": frozenset({"alertname", "alertstate", "severity", "task", "backend"}),
}


def faults(expression: str) -> list[str]:
    """Return what the expression asks that neither the exporter nor the rules have."""
    found: list[str] = []
    known = {"le"} | TARGET
    asked = selectors(expression)
    for selector in asked:
        metric = family(selector.metric)
        if metric is None:
            known |= RECORDED.get(selector.metric, frozenset())
            if selector.metric not in PROCESS | RECORDED.keys():
                found.append(f"{selector.metric}: not in the catalogue")
            continue
        labels = {*metric.label_names, *TARGET}
        known |= labels
        found += [f"{selector.metric}: no label {label}" for label in selector.labels - labels]
        if selector.ranged == (metric.type == "gauge"):
            found.append(f"{selector.metric}: a {metric.type}, {selector.ranged=}")
    if not asked:
        found.append("selects nothing")
    found += [f"no metric here has the label {label}" for label in grouped_by(expression) - known]
    return found
