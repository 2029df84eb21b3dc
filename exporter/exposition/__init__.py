"""Samples -> the bytes of /metrics."""
