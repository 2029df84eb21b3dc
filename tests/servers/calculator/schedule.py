"""Make the tables of django-celery-beat, and the entries that standard input has as JSON.

Each is the fields of a PeriodicTask, with those of its schedule in place of the schedule.
"""

import json
import sys

import django
from django.core.management import call_command

django.setup()

from django_celery_beat import models  # noqa: E402 - once Django is set up

SCHEDULES = {
    "interval": models.IntervalSchedule,
    "crontab": models.CrontabSchedule,
    "solar": models.SolarSchedule,
    "clocked": models.ClockedSchedule,
}

if __name__ == "__main__":
    call_command("migrate", verbosity=0)
    for fields in json.load(sys.stdin):
        for kind, model in SCHEDULES.items():
            if kind in fields:
                fields[kind] = model.objects.create(**fields[kind])
        models.PeriodicTask.objects.create(**fields)
