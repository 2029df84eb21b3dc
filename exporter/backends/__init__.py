"""Celery's result tables in a database: which there are, and what is new in them."""
