"""Families of result tables, a file each. The first whose main table is there is read."""

from __future__ import annotations

from exporter.backends.family import Family
from exporter.backends.tables import celery

FAMILIES: tuple[Family, ...] = (celery.FAMILY,)
# Of families that are not known here yet, for a hint where nothing else is found.
NOT_READ = ("django_celery_results_taskresult",)


def kinds() -> list[str]:
    """Return the kinds of tables: what is counted of one is kept under its kind, in any family."""
    layouts = (layout for family in FAMILIES for layout in family.layouts)
    return list(dict.fromkeys(layout.kind for layout in layouts))
