"""Families of result tables, a file each. The first whose main table is there is read."""

from __future__ import annotations

from exporter.backends.family import Family
from exporter.backends.tables import celery, django

FAMILIES: tuple[Family, ...] = (celery.FAMILY, django.FAMILY)


def kinds() -> list[str]:
    """Return the kinds of tables: what is counted of one is kept under its kind, in any family."""
    layouts = (layout for family in FAMILIES for layout in family.layouts)
    return list(dict.fromkeys(layout.kind for layout in layouts))
