"""Benchmarks: what the exporter costs, beside what one would run instead, in one run.

Absolute times differ from machine to machine; what is promised (CONTRIBUTING.md) are ratios of two
figures taken in one run, on the same data. ``make bench`` writes RESULTS.md; ``python -m bench
--help`` tells of shorter runs.
"""
