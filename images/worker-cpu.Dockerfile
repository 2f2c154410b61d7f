# Runs flow runs on CPUs, and the services around them: the Prefect server, `crash deploy`, `crash reap`, and the
# workers that start containers or Kubernetes jobs. Build from the repository's root: `make images`.
ARG BASE=debian:12.13-slim

FROM ${BASE} AS build
# Distributions keep one version of a package at a time, so a pinned one is soon gone; the base's tag is the pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/venv
WORKDIR /opt/crash
COPY LICENSE constraints.txt pyproject.toml ./
# The default index has torch with CUDA, which runs on CPUs too but brings gigabytes of libraries: name the index of
# PyTorch's CPU builds (pytorch.org, "Get started") to save them. The version is the same.
ARG TORCH_INDEX=""
# The packages are installed around empty folders, so that a change of the code does not install them anew.
RUN mkdir flows tasks && touch README.md flows/__init__.py tasks/__init__.py \
    && /opt/venv/bin/python -m pip install --no-cache-dir ${TORCH_INDEX:+--extra-index-url "${TORCH_INDEX}"} \
        --constraint constraints.txt --editable '.[service,gguf,docker,kubernetes]'

FROM ${BASE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home --home-dir /var/lib/crash crash
COPY --from=build /opt/venv /opt/venv
WORKDIR /opt/crash
COPY LICENSE constraints.txt pyproject.toml prefect.yaml ./
COPY infra/pools infra/pools
COPY infra/version.sh infra/
COPY tasks tasks
COPY flows flows
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/var/lib/crash \
    CRASH_HOME=/var/lib/crash
# The same as flows/running/environment.py sets, for what is not started by `crash`: the server, and a
# flow run of its own. And
# a folder for the server's pages, which it copies before it serves them, by default to where this user may not write.
# The rule takes TOKENIZERS_PARALLELISM for a secret.
# hadolint ignore=DL3064
ENV DO_NOT_TRACK=true \
    PREFECT_HOME=/var/lib/crash/prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    PREFECT_SERVER_UI_STATIC_DIRECTORY=/tmp/prefect-ui \
    PREFECT_RESULTS_DEFAULT_SERIALIZER=json \
    PREFECT_RESULTS_LOCAL_STORAGE_PATH=/var/lib/crash/prefect/results \
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY=30 \
    PREFECT_LOGGING_EXTRA_LOGGERS=tasks,flows \
    PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW=ignore \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT=true \
    OMP_WAIT_POLICY=passive \
    TOKENIZERS_PARALLELISM=false \
    GIT_PYTHON_REFRESH=quiet \
    HF_HUB_DISABLE_TELEMETRY=1
USER 10001:10001
# The worker answers here while it polls the server; containers that run something else have another check, or none.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:8080/health', timeout=8)"]
ENTRYPOINT ["tini", "--"]
CMD ["crash", "worker", "--pool", "gpu"]
