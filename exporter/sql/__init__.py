"""One connection to a database, whatever it holds. Celery is not known here, nor what counts."""
