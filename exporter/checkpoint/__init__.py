"""Counts and positions that outlive the process, in a file or a database."""
