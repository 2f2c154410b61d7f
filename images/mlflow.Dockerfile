# The MLflow server with basic authentication: PostgreSQL for runs and users, artifacts proxied from an object store
# or a folder. Build from the repository's root: `make images`.
ARG BASE=debian:12.13-slim

FROM ${BASE} AS build
# Distributions keep one version of a package at a time, so a pinned one is soon gone; the base's tag is the pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
COPY constraints.txt /tmp/
RUN /opt/venv/bin/python -m pip install --no-cache-dir --constraint /tmp/constraints.txt 'mlflow[auth]' pg8000 boto3

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home --home-dir /var/lib/mlflow mlflow
COPY --from=build /opt/venv /opt/venv
COPY images/mlflow_server.py /opt/mlflow/
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/mlflow \
    DO_NOT_TRACK=true \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false \
    GIT_PYTHON_REFRESH=quiet
WORKDIR /var/lib/mlflow
USER 10001:10001
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:5000/health', timeout=8)"]
ENTRYPOINT ["tini", "--", "python", "/opt/mlflow/mlflow_server.py"]
CMD ["--host", "0.0.0.0", "--port", "5000"]
