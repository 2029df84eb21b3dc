"""``expected:``, which tasks have to succeed how often."""

from __future__ import annotations

from typing import Annotated

from exporter.config.model import Duration, Model, Text, at_least
from exporter.counting.expected import Expectation


class ExpectedTask(Model, frozen=True):
    """A task, or a pattern of names, and the longest time between two successes."""

    task: Text
    within: Annotated[Duration, at_least("1s")]

    def expectation(self) -> Expectation:
        """Return it as counting knows it."""
        return Expectation(self.task, self.within)
