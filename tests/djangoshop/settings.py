"""Django's settings of the shop."""

import json
import os

INSTALLED_APPS = ["django_celery_results"]
SECRET_KEY = "of a private server"  # noqa: S105
CELERY_RESULT_BACKEND = "django-db"
CELERY_RESULT_EXTENDED = True
CELERY_TASK_TRACK_STARTED = True

globals().update(json.loads(os.environ["DJANGO_SHOP"]))
