"""What is rendered, when, and who waits for it; as work, not as time."""

from __future__ import annotations

import threading
import zlib
from typing import TYPE_CHECKING

import pytest

from exporter.exposition.exposition import Exposition
from exporter.exposition.formats import Format
from exporter.exposition.pieces import Piece
from exporter.exposition.rendering import Renderer, render_process
from exporter.metrics import catalogue
from exporter.metrics.samples import Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from exporter.metrics.samples import Samples

SERIES = 1000


def results(changed: int = 0, value: float = 2.0, series: int = SERIES) -> Samples:
    """Return samples of which the first `changed` have another value."""
    return {
        catalogue.RESULTS: [
            Sample((f"task {i}", "SUCCESS", "w", "q"), value if i < changed else 1.0, 1.7e9)
            for i in range(series)
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
    exposition.publish("b", {catalogue.UP: [Sample((), 1.0)]})
    assert exposition.rendered == SERIES + 1


def test_a_scrape_renders_nothing(exposition: Exposition) -> None:
    for _ in range(3):
        exposition.body(Format.TEXT)
        exposition.body(Format.TEXT, compressed=True)  # of the same lines
    assert exposition.rendered == SERIES


def test_what_is_told_anew_and_is_the_same_is_not_rendered_again() -> None:
    leads = {f"shop-{number}": 1.0 for number in range(SERIES)}
    exposition = Exposition(
        lambda: {catalogue.LEADER: [Sample((name,), value) for name, value in leads.items()]}
    )
    first = exposition.body(Format.TEXT)
    assert exposition.rendered == SERIES
    leads["shop-7"] = 0.0
    second = exposition.body(Format.TEXT)
    assert exposition.rendered == SERIES + 1
    changed = [
        old for old, new in zip(first.split(b"\n"), second.split(b"\n"), strict=True) if old != new
    ]
    assert b'celery_results_exporter_leader{backend="shop-7"} 1.0' in changed


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("compressed", [False, True])
def test_bytes_rendered_at_a_scrape_do_not_depend_on_the_series(
    monkeypatch: pytest.MonkeyPatch, form: Format, *, compressed: bool
) -> None:
    """What is told anew is the exporter's own: a few lines."""
    made: list[int] = []

    def counting(render: Callable[..., bytes]) -> Callable[..., bytes]:
        def counted(*arguments: object) -> bytes:
            text = render(*arguments)
            made.append(len(text))
            return text

        return counted

    monkeypatch.setattr(Renderer, "render_whole", counting(Renderer.render_whole))
    monkeypatch.setattr("exporter.exposition.exposition.render_process", counting(render_process))

    def scrape(series: int) -> int:
        exposition = Exposition(lambda: {catalogue.LEADER: [Sample(("shop",), 1.0)]})
        exposition.publish("a", results(series=series))
        exposition.body(form, compressed=compressed)
        made.clear()
        assert exposition.body(form, compressed=compressed)
        assert len(made) == 2
        return sum(made)

    few = scrape(10)
    assert abs(scrape(10 * SERIES) - few) < 100  # seconds of CPU, bytes of memory, as they are
    assert few < 5_000


class Deflate:
    """A compressor that counts what it is given, in all."""

    total = 0
    new = staticmethod(zlib.compressobj)

    def __init__(self, *arguments: int, **options: int) -> None:
        self._real = Deflate.new(*arguments, **options)

    def compress(self, text: bytes) -> bytes:
        Deflate.total += len(text)
        return self._real.compress(text)

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


@pytest.mark.parametrize("form", Format)
def test_one_of_many_backends_is_deflated_by_itself(
    monkeypatch: pytest.MonkeyPatch, form: Format
) -> None:
    """And with it, at the next scrape, small neighbours: that it is up is told in a line."""
    exposition = Exposition()
    for number in range(50):
        exposition.publish(f"shop {number}", results() | {catalogue.UP: [Sample((), 1.0)]})
    exposition.body(form, compressed=True)
    own = len(exposition.body(form)) / 50
    monkeypatch.setattr(zlib, "compressobj", Deflate)
    Deflate.total = 0
    exposition.publish("shop 7", results(changed=1) | {catalogue.UP: [Sample((), 1.0)]})
    assert own / 2 < Deflate.total <= own
    Deflate.total = 0
    exposition.publish("shop 7", results(changed=1) | {catalogue.UP: [Sample((), 0.0)]})
    assert Deflate.total == 0
    exposition.body(form, compressed=True)
    assert Deflate.total <= 50 * len('celery_backend_up{backend="shop 10"} 1.0\n') + 6_000


def test_what_stays_is_not_encoded_again(
    exposition: Exposition, monkeypatch: pytest.MonkeyPatch
) -> None:
    exposition.body(Format.TEXT)
    made: list[Piece] = []
    monkeypatch.setattr(
        "exporter.exposition.rendering.Piece", lambda text: made.append(Piece(text))
    )
    exposition.publish("a", results())
    exposition.publish("b", results(series=1))
    assert [piece.text.count(b"\n") for piece in made] == [1]


def test_many_small_pieces_take_little_room_deflated() -> None:
    """Each by itself would take five bytes more, and could not refer to the one before."""
    exposition = Exposition()
    for number in range(200):
        exposition.publish(f"shop {number}", {catalogue.UP: [Sample((), 1.0)]})
    text = exposition.body(Format.TEXT)
    assert len(exposition.body(Format.TEXT, compressed=True)) < len(text) / 4


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
    monkeypatch.setattr("exporter.exposition.exposition.FORGET_AFTER", 0.0)
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

    publication = threading.Thread(target=exposition.publish, args=("b", {catalogue.UP: slowly()}))
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
        exposition.publish("a", {catalogue.UP: [Sample((), 1.0)]})
    finally:
        go_on.set()
        scrape.join()
    assert b'celery_backend_up{backend="a"} 1.0\n' in bodies[0]
