"""Schedules of celery beat, a scheduler package a file. The first whose tables are there is read.

This room knows nothing of results, nor of how they are counted.
"""

from __future__ import annotations

from exporter.backends.schedules import django_celery_beat, sqlalchemy_celery_beat
from exporter.backends.schedules.package import Package

PACKAGES: tuple[Package, ...] = (django_celery_beat.PACKAGE, sqlalchemy_celery_beat.PACKAGE)
