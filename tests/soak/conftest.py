"""What is marked ``long`` has no short form: it runs with SOAK set, as ``make soak`` does."""

from __future__ import annotations

import pytest

from tests.soak.sizes import LONG


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: has no short form; runs where SOAK is set")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if LONG:
        return
    long = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=long)
    items[:] = [item for item in items if item not in long]
