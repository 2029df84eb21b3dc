"""A Django project that has its schedules in its database."""

import json
import os

SECRET_KEY = "of a test"  # noqa: S105
USE_TZ = True
TIME_ZONE = "Europe/Paris"
INSTALLED_APPS = ["django_celery_beat"]
DATABASES = {"default": json.loads(os.environ["CALCULATOR_DATABASE"])}
