"""When a number gets somewhere, at the rate at which it has changed of late."""

from __future__ import annotations

import pytest

from exporter.counting.trends import CatchUp, Trend


def trend(*points: tuple[float, float]) -> Trend:
    made = Trend(over=60.0, least=10.0)
    for now, value in points:
        made.note(value, now)
    return made


@pytest.mark.parametrize(
    ("points", "seconds"),
    [
        ([], None),
        ([(0, 0.5)], None),
        ([(0, 0.5), (9, 0.6)], None),  # too soon to tell
        ([(0, 0.5), (10, 0.6)], 40.0),
        ([(0, 0.5), (5, 0.9), (10, 0.6)], 40.0),
        ([(0, 0.5), (10, 0.5)], None),
        ([(0, 0.6), (10, 0.5)], None),
        ([(0, 0.9), (10, 1.0)], None),  # it is there
    ],
)
def test_a_trend(points: list[tuple[float, float]], seconds: float | None) -> None:
    assert trend(*points).reaches(1.0) == (seconds and pytest.approx(seconds))


def test_a_trend_forgets() -> None:
    """What counts is the rate of late, not the one since the beginning."""
    slow = [(float(now), now / 1000) for now in range(100)]
    fast = [(100.0 + now, 0.1 + now / 200) for now in range(81)]
    assert trend(*slow, *fast).reaches(1.0) == pytest.approx(0.5 * 200)


def test_a_trend_looks_back_as_far_however_often_it_is_told() -> None:
    """And takes the last value for what it is."""
    often = trend(*((now / 10, now / 10_000) for now in range(2001)))
    assert often.reaches(1.0) == pytest.approx(800)
    assert len(often._points) <= 13


def test_catching_up() -> None:
    catch_up = CatchUp()
    assert (catch_up.left, catch_up.done, catch_up.seconds_left) == (0, 1.0, None)
    for second in range(5):
        catch_up.note(1000 - 100 * second, float(second))
    assert (catch_up.left, catch_up.done) == (600, pytest.approx(0.4))
    assert catch_up.seconds_left == pytest.approx(6.0)
    catch_up.note(0, 5.0)
    assert (catch_up.left, catch_up.done, catch_up.seconds_left) == (0, 1.0, None)
    catch_up.note(50, 100.0)
    assert catch_up.done == 0.0


def test_what_only_grows_is_never_caught_up() -> None:
    catch_up = CatchUp()
    for second in range(10):
        catch_up.note(1000 + second, float(second))
    assert catch_up.seconds_left is None
    assert catch_up.done == 0.0
