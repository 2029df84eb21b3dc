# Any Debian bookworm image with Python >= 3.11 and its venv will do. The last stage is what is built where
# no --target is named; docs/image.md has the others.
ARG BASE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE} AS build
SHELL ["/bin/sh", "-eux", "-c"]
# mysqlclient is compiled; it is the only dependency without a wheel. Python's own images have its headers.
# hadolint ignore=DL3008
RUN headers=$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))'); \
    if [ -e "$headers/Python.h" ]; then set --; else set -- python3-dev; fi; \
    apt-get update; \
    apt-get install -y --no-install-recommends \
        default-libmysqlclient-dev gcc libc6-dev pkg-config "$@"; \
    rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# One folder holds the exporter and all it needs, so that the next stage copies it and nothing else.
RUN python3 -m venv /opt/celery-results-exporter; \
    /opt/celery-results-exporter/bin/pip install --no-cache-dir --no-compile --constraint constraints.txt \
        ".[ed25519,mysqlclient,postgresql,re2,solar]"; \
    # What nobody runs: pip; the celery command with its shell; tests; symbols for debuggers.
    /opt/celery-results-exporter/bin/pip uninstall --yes click-repl prompt-toolkit wcwidth setuptools pip; \
    rm /opt/celery-results-exporter/bin/celery; \
    find /opt/celery-results-exporter -type d '(' -name test -o -name tests -o -name testing ')' \
        -prune -exec rm -r {} +; \
    find /opt/celery-results-exporter -name '*.so' -exec strip --strip-unneeded {} +
# Bytecode of what is loaded and nothing else, Python's own modules included: its images have none of these, and a
# read-only container would compile them at every start.
ENV PYTHONPYCACHEPREFIX=/opt/celery-results-exporter/bytecode
RUN ["/opt/celery-results-exporter/bin/python3", "-P", "-c", "\
import exporter; \
import importlib; \
import pkgutil; \
drivers = ('mysql.mysqldb', 'mysql.pymysql', 'postgresql.psycopg', 'sqlite.pysqlite', 'mssql.pyodbc'); \
modules = [f'sqlalchemy.dialects.{driver}' for driver in drivers]; \
modules += ['MySQLdb', 'celery.schedules', 'ephem', 'nacl.bindings', 'psycopg', 'pymysql', 're2']; \
modules += [module.name for module in pkgutil.walk_packages(exporter.__path__, 'exporter.')]; \
[importlib.import_module(module) for module in modules]"]


FROM ${BASE} AS exporter
SHELL ["/bin/sh", "-eux", "-c"]
# libmariadb3 for mysqlclient; libodbc2 for pyodbc (the stage below has an ODBC driver).
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
    PYTHONPYCACHEPREFIX=/opt/celery-results-exporter/bytecode \
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


FROM exporter AS mssql
# FreeTDS, registered as the ODBC driver "FreeTDS". Microsoft's must not be passed on: docs/image.md adds it.
USER 0:0
# hadolint ignore=DL3008
RUN apt-get update; \
    apt-get install -y --no-install-recommends odbcinst tdsodbc; \
    rm -rf /var/lib/apt/lists/*
USER 65532:65532


FROM exporter
