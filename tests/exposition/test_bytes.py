"""Every byte of /metrics is what prometheus_client would have written."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from exporter.exposition.exposition import Exposition
from exporter.exposition.formats import Format
from exporter.metrics import catalogue
from exporter.metrics.catalogue import CATALOGUE, Metric
from exporter.metrics.samples import Exemplar, Histogram, Sample, Samples
from tests.exposition import reference

TAIL = b"# HELP process_virtual_memory_bytes "

# From few values, so that many samples come again unchanged, and some changed in one respect.
texts = st.sampled_from(
    [
        "",
        "a",
        'say "no"',
        "back\\slash",
        "two\nlines",
        "\\n",
        "%s {} }",
        "naïve 😀",
        " a ",
        "\r\t\0",
    ]
) | st.text(st.characters(codec="utf-8"), max_size=5)
numbers = (
    st.sampled_from([0.0, 1, 1.0, 0.1, 1e6, 1234567.0, 1.7e9, 1e21, 1e-9])
    | st.floats().map(lambda x: x + 0.0)  # -0.0 equals 0.0: either may be served for the other
    | st.integers(-(2**63), 2**63)
)
times = st.none() | st.floats().map(lambda x: x + 0.0)
exemplars = st.builds(Exemplar, texts | st.sampled_from([121 * "x", 122 * "x"]), times)


@st.composite
def histograms(draw: st.DrawFn) -> Histogram:
    bounds = draw(st.lists(st.floats(0, 1e9).map(abs), unique=True, max_size=4).map(sorted))
    counts = draw(st.lists(st.integers(0, 3), min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    return Histogram(tuple(bounds), tuple(counts), draw(st.floats().map(lambda x: x + 0.0)))


def samples(metric: Metric) -> st.SearchStrategy[list[Sample]]:
    """Return some samples of a metric, their labels unique."""
    one = st.builds(
        Sample,
        st.tuples(*[texts for _ in metric.labels]),
        histograms() if metric.type == "histogram" else numbers,
        times if metric.type == "counter" else st.none(),
        st.none() | exemplars if metric.type == "counter" else st.none(),
    )
    return st.lists(one, max_size=4, unique_by=lambda sample: sample.labels)


def published(*, per_backend: bool) -> st.SearchStrategy[Samples]:
    """Return what somebody publishes, in any order."""
    ours = [metric for metric in CATALOGUE.values() if metric.per_backend is per_backend]
    return st.lists(st.sampled_from(ours), unique=True, max_size=4).flatmap(
        lambda chosen: st.fixed_dictionaries({metric: samples(metric) for metric in chosen})
    )


steps = st.lists(
    st.tuples(texts, published(per_backend=True))
    | st.tuples(st.none(), published(per_backend=False)),
    max_size=5,
)


@given(steps)
@example(
    [
        ("a", {catalogue.RESULTS: [Sample(("t", "SUCCESS", "w", "q"), 1.0, 1.0)]}),
        ("b", {catalogue.RESULTS: [Sample(("t", "SUCCESS", "w", "q"), 1.0, 1.0)]}),
        ("a", {catalogue.RESULTS: [Sample(("t", "SUCCESS", "w", "q"), 1.0, 2.0)]}),
    ]
)
def test_whatever_is_published_in_whatever_order(
    steps: list[tuple[str | None, Samples]],
) -> None:
    exposition = Exposition()
    parts: dict[str | None, Samples] = {}
    for backend, now in [(None, {}), *steps]:
        parts[backend] = now
        exposition.publish(backend, now)
        for form in Format:
            expected = reference.render(parts, form)
            plain = exposition.body(form)
            packed = gzip.decompress(exposition.body(form, compressed=True))
            for body in (plain, packed):
                assert body[: len(expected)] == expected
                assert body[len(expected) :].startswith(TAIL)


@pytest.mark.parametrize("compressed", [False, True])
def test_openmetrics_ends_once(*, compressed: bool) -> None:
    exposition = Exposition(lambda: {catalogue.LEADER: [Sample(("shop",), 1.0)]})
    exposition.publish("a", {catalogue.UP: [Sample((), 1.0)]})
    body = exposition.body(Format.OPENMETRICS, compressed=compressed)
    text = gzip.decompress(body) if compressed else body
    assert text.endswith(b"\n# EOF\n")
    assert text.count(b"# EOF") == 1
    names = {family.name for family in text_string_to_metric_families(text.decode())}
    assert {catalogue.UP.name, catalogue.LEADER.name, "process_open_fds", "python_info"} <= names


def test_gzip_is_one_member() -> None:
    """Browsers, curl and others stop after the first."""
    exposition = Exposition()
    for value in (1.0, 2.0):
        exposition.publish("a", {catalogue.UP: [Sample((), value)]})
        for _ in range(2):
            inflate = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
            text = inflate.decompress(exposition.body(Format.OPENMETRICS, compressed=True))
            assert inflate.eof
            assert inflate.unused_data == b""
            assert f'celery_backend_up{{backend="a"}} {value}'.encode() in text
            assert text.endswith(b"# EOF\n")


def test_what_utf8_cannot_hold_is_replaced() -> None:
    exposition = Exposition()
    exposition.publish("a\ud800", {catalogue.UP: [Sample((), 1.0)]})
    assert b'celery_backend_up{backend="a?"} 1.0\n' in exposition.body(Format.TEXT)
