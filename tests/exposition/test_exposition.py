"""The bytes of /metrics."""

from __future__ import annotations

import gzip
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text

from exporter.exposition.exposition import Exposition
from exporter.exposition.formats import Format
from exporter.metrics import catalogue
from exporter.metrics.catalogue import CATALOGUE
from exporter.metrics.samples import Histogram, Sample
from tests.servers.process import require


def full() -> Exposition:
    """Publish something of every metric there is, for two backends."""
    exposition = Exposition()
    for backend in ("a", "b"):
        exposition.publish(
            backend,
            {
                metric: [
                    Sample(
                        tuple(f"{label} value" for label in metric.labels),
                        Histogram((1.0, 5.0), (2, 1, 1), 12.5)
                        if metric.type == "histogram"
                        else 3.0,
                        created=1.7e9 if metric.type == "counter" else None,
                    )
                ]
                for metric in CATALOGUE.values()
                if metric.per_backend
            },
        )
    exposition.publish(
        None,
        {
            metric: [Sample(tuple(metric.labels), 1.0)]
            for metric in CATALOGUE.values()
            if not metric.per_backend
        },
    )
    return exposition


def test_every_metric_is_served_with_its_name_type_help_and_labels() -> None:
    families = {f.name: f for f in parse_text(full().body(Format.TEXT).decode())}
    for metric in CATALOGUE.values():
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        labels = {frozenset(sample.labels) - {"le"} for sample in family.samples}
        assert labels == {frozenset(metric.label_names)}


def test_prometheus_accepts_it_without_a_warning() -> None:
    promtool = require("promtool", "prometheus")
    check = subprocess.run(
        [promtool, "check", "metrics"],
        input=full().body(Format.TEXT),
        capture_output=True,
        check=False,
    )
    assert (check.returncode, check.stdout, check.stderr) == (0, b"", b"")
    assert shutil.which(promtool)


def test_openmetrics_has_the_birth_of_counters_and_text_does_not() -> None:
    exposition = full()
    text = exposition.body(Format.OPENMETRICS).decode()
    family = next(f for f in parse_openmetrics(text) if f.name == "celery_task_results")
    created = [s.value for s in family.samples if s.name == "celery_task_results_created"]
    assert created == [1.7e9, 1.7e9]
    assert text.endswith("# EOF\n")
    assert text.count("# EOF") == 1
    assert "_created{" not in exposition.body(Format.TEXT).decode()


def test_process_metrics_are_fresh_at_each_scrape() -> None:
    body = Exposition().body(Format.TEXT).decode()
    names = {family.name for family in parse_text(body)}
    assert {"process_resident_memory_bytes", "process_open_fds", "python_info"} <= names


def test_publishing_again_replaces_what_was_there() -> None:
    exposition = Exposition()
    for value in (1.0, 2.0):
        exposition.publish("a", {catalogue.UP: [Sample((), value)]})
        assert f'celery_backend_up{{backend="a"}} {value}' in exposition.body(Format.TEXT).decode()


@pytest.mark.parametrize("form", Format)
def test_compressed_body_is_the_same(form: Format) -> None:
    exposition = Exposition()
    exposition.publish("a", {catalogue.UP: [Sample((), 1.0)]})
    plain, packed = exposition.body(form), exposition.body(form, compressed=True)
    line = b'celery_backend_up{backend="a"} 1.0'
    assert line in plain
    assert line in gzip.decompress(packed)


@given(st.text(st.characters(codec="utf-8"), max_size=40))
def test_any_label_value_comes_back(value: str) -> None:
    exposition = Exposition()
    sample = Sample((value, "SUCCESS", "w", "q"), 1.0)
    exposition.publish("a", {catalogue.RESULTS: [sample]})
    for parse, form in ((parse_text, Format.TEXT), (parse_openmetrics, Format.OPENMETRICS)):
        body = exposition.body(form).decode()
        found = [s for f in parse(body) for s in f.samples if s.name == catalogue.RESULTS.name]
        assert [s.labels["task"] for s in found] == [value]
