"""What runs beside the code of a Celery app or a Django project: it reads what their settings say.

It imports nothing of the exporter, which never loads that code, and is a package of its own, so
that a project may have a package named ``exporter``.
"""
