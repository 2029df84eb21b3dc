"""What a client asks for is what it gets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.exposition.formats import Format
from exporter.web.negotiation import accepts_gzip, choose_format

TEXT, OPENMETRICS = Format.TEXT, Format.OPENMETRICS

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
PROTOBUF = (
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"
)
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        (BROWSER, TEXT),
        (PROMETHEUS_2, OPENMETRICS),
        (PROMETHEUS_3, OPENMETRICS),
        (f"{PROTOBUF};q=0.6,{PROMETHEUS_3}", OPENMETRICS),
        (PROTOBUF, TEXT),
        ("text/html", TEXT),
        ("application/openmetrics-text", OPENMETRICS),
        ('Application/OpenMetrics-Text ; Version="1.0.0"', OPENMETRICS),
        ("application/openmetrics-text; version=0.0.1", TEXT),
        ("application/openmetrics-text; version=0.0.1, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text; version=2.0.0;q=1, */*;q=0.1", TEXT),
        ("application/*", OPENMETRICS),
        ("application/*;q=0.5, text/plain;q=0.4", OPENMETRICS),
        ("text/plain;q=0.9, application/openmetrics-text;q=0.1", TEXT),
        ("text/plain;q=0.1, application/openmetrics-text;q=0.9", OPENMETRICS),
        # equal q: the one that is named wins over the one that a wildcard covers
        ("*/*, application/openmetrics-text", OPENMETRICS),
        ("application/openmetrics-text, text/plain", TEXT),
        # the most specific range gives a type its q
        ("*/*, text/plain;q=0", OPENMETRICS),
        ("text/*, text/plain;q=0.2, application/openmetrics-text;q=0.3", OPENMETRICS),
        ("text/plain;q=0.1, text/plain;version=0.0.4;q=0.9, application/*;q=0.5", TEXT),
        ("application/openmetrics-text;q=0, */*;q=0.1", TEXT),
        # nothing is acceptable: still an answer, as client libraries give
        ("*/*;q=0", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        # a q that is none makes the range count for nothing
        ("application/openmetrics-text;q=abc, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=nan, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=7, text/plain;q=0.1", TEXT),
        ("application/openmetrics-text;q=-1, text/plain;q=0.1", TEXT),
        ("text/plain;q=.2, application/openmetrics-text;Q=0.25", OPENMETRICS),
        (",,;;=,q=1", TEXT),
    ],
)
def test_format(accept: str, expected: Format) -> None:
    assert choose_format(accept) is expected


@pytest.mark.parametrize(
    ("accept_encoding", "expected"),
    [
        ("", False),
        ("gzip", True),
        ("GZip", True),
        ("x-gzip", True),
        ("*", True),
        ("deflate, gzip;q=1.0, *;q=0.5", True),
        ("br, zstd", False),
        ("identity", False),
        ("gzip;q=0", False),
        ("gzip;q=0.000", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("gzip; q=0.001", True),
        ("gzip;q=0.5, identity", False),
        ("gzip;q=0.5, identity;q=0.5", True),
        ("gzip;q=abc", False),
        ("gzipped", False),
    ],
)
def test_gzip(accept_encoding: str, expected: bool) -> None:  # noqa: FBT001
    assert accepts_gzip(accept_encoding) is expected


@given(st.text(alphabet=st.sampled_from('*/;,=q01. "\\gzipabc\x00é')))
def test_no_header_breaks_it(header: str) -> None:
    assert choose_format(header) in Format
    assert accepts_gzip(header) in (True, False)
