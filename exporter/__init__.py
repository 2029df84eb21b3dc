"""Prometheus exporter for Celery's SQL result backends."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("celery-results-exporter")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"
