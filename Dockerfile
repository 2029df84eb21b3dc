# Any Debian bookworm image with Python >= 3.11 and its venv and pip will do.
ARG BASE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE} AS build
SHELL ["/bin/sh", "-eux", "-c"]
# mysqlclient is compiled; it is the only dependency without a wheel.
# hadolint ignore=DL3008
RUN apt-get update; \
    apt-get install -y --no-install-recommends \
        default-libmysqlclient-dev gcc libc6-dev pkg-config; \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# One folder holds the exporter and all it needs, so that the next stage copies it and nothing else.
RUN python3 -m venv --without-pip /opt/celery-results-exporter; \
    python3 -m pip --python /opt/celery-results-exporter/bin/python3 install \
        --no-cache-dir --constraint constraints.txt ".[ed25519,mysqlclient,postgresql,re2,solar]"


FROM ${BASE}
SHELL ["/bin/sh", "-eux", "-c"]
# libmariadb3 for mysqlclient; libodbc2 for pyodbc (no ODBC driver is included: see deploy/README.md).
# hadolint ignore=DL3008
RUN apt-get update; \
    apt-get install -y --no-install-recommends libmariadb3 libodbc2 tzdata; \
    rm -rf /var/lib/apt/lists/*; \
    groupadd --gid 65532 exporter; \
    useradd --uid 65532 --gid 65532 --no-log-init --shell /usr/sbin/nologin \
        --no-create-home --home-dir /var/lib/celery-results-exporter exporter; \
    install -d -o 65532 -g 65532 -m 0750 /var/lib/celery-results-exporter
COPY --from=build /opt/celery-results-exporter /opt/celery-results-exporter

ENV PATH=/opt/celery-results-exporter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
WORKDIR /var/lib/celery-results-exporter
VOLUME ["/var/lib/celery-results-exporter"]
EXPOSE 10224
ENTRYPOINT ["celery-results-exporter"]
# For the default address; override it when listening elsewhere. http.client, unlike urllib, asks no proxy.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["python3", "-c", "\
import http.client, sys; \
connection = http.client.HTTPConnection('127.0.0.1', 10224, timeout=3); \
connection.request('GET', '/-/healthy'); \
sys.exit(connection.getresponse().status != 200)"]

ARG REVISION=unknown
ARG VERSION=unknown
LABEL org.opencontainers.image.title="celery-results-exporter" \
      org.opencontainers.image.description="Prometheus exporter that reads Celery's SQL result backends" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.version="${VERSION}"
