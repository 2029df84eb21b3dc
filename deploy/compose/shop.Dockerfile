# The demo's Celery worker and beat. Built in examples/demo.
FROM docker.io/library/python:3.13-slim-bookworm
RUN pip install --no-cache-dir "celery[redis]==5.7.0" "psycopg[binary]==3.3.9" "redis==8.1.0" "SQLAlchemy==2.1.9"
WORKDIR /app
COPY celery_app.py folder_broker.py ./
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
ENTRYPOINT ["celery", "--app=celery_app"]
