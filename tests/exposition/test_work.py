"""What is rendered, when, and who waits for it; as work, not as time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from exporter import metrics
from exporter.exposition import Exposition
from exporter.formats import Format
from exporter.tally import Sample

if TYPE_CHECKING:
    from collections.abc import Iterator

    from exporter.tally import Samples

SERIES = 1000


def results(changed: int = 0, value: float = 2.0) -> Samples:
    """Return samples of which the first `changed` have another value."""
    return {
        metrics.RESULTS: [
            Sample((f"task {i}", "SUCCESS", "w", "q"), value if i < changed else 1.0, 1.7e9)
            for i in range(SERIES)
        ]
    }


@pytest.fixture
def exposition() -> Exposition:
    """Publish SERIES series."""
    exposition = Exposition()
    exposition.publish("a", results())
    return exposition


def test_nothing_is_rendered_until_somebody_asks(exposition: Exposition) -> None:
    exposition.publish("a", results())
    assert exposition.rendered == 0
    exposition.body(Format.TEXT)
    assert exposition.rendered == SERIES


@pytest.mark.parametrize("form", Format)
def test_only_what_changes_is_rendered(exposition: Exposition, form: Format) -> None:
    exposition.body(form)
    for changed, value, work in ((10, 2.0, 10), (10, 2.0, 0), (10, 3.0, 10), (0, 3.0, 10)):
        before = exposition.rendered
        exposition.publish("a", results(changed, value))
        assert exposition.rendered - before == work


def test_another_backend_costs_only_itself(exposition: Exposition) -> None:
    exposition.body(Format.TEXT)
    exposition.publish("b", {metrics.UP: [Sample((), 1.0)]})
    assert exposition.rendered == SERIES + 1


def test_a_scrape_renders_nothing(exposition: Exposition) -> None:
    for _ in range(3):
        exposition.body(Format.TEXT)
        exposition.body(Format.TEXT, compressed=True)  # of the same lines
    assert exposition.rendered == SERIES


def test_each_format_asked_for_is_kept(exposition: Exposition) -> None:
    for form in Format:
        exposition.body(form)
    exposition.publish("a", results(changed=10))
    assert exposition.rendered == 2 * (SERIES + 10)


def test_what_nobody_asks_for_any_more_is_forgotten(
    exposition: Exposition, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposition.body(Format.TEXT)
    exposition.publish("a", results(changed=10))
    assert exposition.rendered == SERIES + 10
    monkeypatch.setattr("exporter.exposition.FORGET_AFTER", 0.0)
    exposition.publish("a", results(changed=20))
    assert exposition.rendered == 0
    assert b'task="task 19",worker="w"} 2.0\n' in exposition.body(Format.TEXT)


def test_a_scrape_does_not_wait_for_a_publication(exposition: Exposition) -> None:
    exposition.body(Format.TEXT)
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[Sample]:
        begun.set()
        assert go_on.wait(10)
        yield Sample((), 1.0)

    publication = threading.Thread(target=exposition.publish, args=("b", {metrics.UP: slowly()}))
    publication.start()
    try:
        assert begun.wait(10)
        assert b"celery_backend_up{" not in exposition.body(Format.TEXT)
    finally:
        go_on.set()
        publication.join()
    assert b'celery_backend_up{backend="b"} 1.0\n' in exposition.body(Format.TEXT)


def test_a_publication_does_not_wait_for_a_scrape() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> Samples:
        begun.set()
        assert go_on.wait(10)
        return {}

    exposition = Exposition(slowly)
    bodies: list[bytes] = []
    scrape = threading.Thread(target=lambda: bodies.append(exposition.body(Format.TEXT)))
    scrape.start()
    try:
        assert begun.wait(10)
        exposition.publish("a", {metrics.UP: [Sample((), 1.0)]})
    finally:
        go_on.set()
        scrape.join()
    assert b'celery_backend_up{backend="a"} 1.0\n' in bodies[0]
