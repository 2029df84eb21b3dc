"""Where numbers are going, at the rate at which they have changed of late. Pure."""

from __future__ import annotations

from collections import deque

POINTS = 13


class Trend:
    """The last values of a number, each with its moment, by a clock that is never set back."""

    def __init__(self, over: float, least: float) -> None:
        """`over`: seconds that are looked back at; `least`: less than that may be chance."""
        self._apart = over / (POINTS - 1)
        self._least = least
        self._points: deque[tuple[float, float]] = deque(maxlen=POINTS)

    def note(self, value: float, now: float) -> None:
        """Take one more; it takes the place of the last where that is hardly older."""
        points = self._points
        if len(points) > 1 and points[-1][0] - points[-2][0] < self._apart:
            points[-1] = (now, value)
        else:
            points.append((now, value))

    def clear(self) -> None:
        """Begin anew."""
        self._points.clear()

    def reaches(self, target: float) -> float | None:
        """Say in how many seconds from the last value on; None: not at this rate, or no telling.

        For any thread.
        """
        points = list(self._points)
        if len(points) <= 1:
            return None
        (began, first), (now, last) = points[0], points[-1]
        if now - began < self._least or (target - last) * (last - first) <= 0:
            return None
        return (target - last) / (last - first) * (now - began)


class CatchUp:
    """How far a backlog has been read."""

    def __init__(self) -> None:
        self.left = 0
        self._most = 0
        self._trend = Trend(over=60.0, least=2.0)

    def note(self, left: int, now: float) -> None:
        """Take how much is left to read."""
        if left:
            self._most = max(self._most, left)
            self._trend.note(left, now)
        elif self.left:
            self._most = 0
            self._trend.clear()
        self.left = left

    @property
    def done(self) -> float:
        """Which part of it has been read, 0 to 1."""
        return 1 - self.left / max(self._most, self.left, 1)

    @property
    def seconds_left(self) -> float | None:
        """How long the rest will take; None where that is not known, or there is more and more."""
        return self._trend.reaches(0.0)
