"""Make the tables of sqlalchemy-celery-beat, and an entry every so many seconds: its arguments."""

import sys

from sqlalchemy_celery_beat.models import IntervalSchedule, PeriodicTask
from sqlalchemy_celery_beat.session import SessionManager

if __name__ == "__main__":
    url, name, task, seconds = sys.argv[1:]
    sessions = SessionManager()
    engine, session_of = sessions.create_session(url)
    sessions.prepare_models(engine)
    with session_of() as session:
        schedule = IntervalSchedule(every=int(seconds), period="seconds")
        session.add(schedule)
        session.commit()
        session.add(PeriodicTask(name=name, task=task, args="[2, 3]", schedule_model=schedule))
        session.commit()
