# syntax=docker/dockerfile:1
#
#   docker build --target gateway -t glimpsed-gateway .    the HTTP side alone: no torch, no media libraries
#   docker build --target worker  -t glimpsed .            gateway and worker: `glimpsed serve` (the default target)
#   docker build --target worker-lmdeploy -t glimpsed-lmdeploy .
#
# torch comes as its CPU build. For NVIDIA GPUs: --build-arg PIP_EXTRA_INDEX_URL= (the CUDA build of the main index).
# Give PYTHON_IMAGE a digest (python@sha256:...) where builds must repeat exactly.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm


FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
RUN python -m venv /opt/glimpsed
ENV PATH=/opt/glimpsed/bin:$PATH
WORKDIR /src
COPY constraints.txt ./


FROM build AS build-gateway
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[redis]'


FROM build AS build-worker
# pip reads this from its environment; torch has a layer of its own, which changes of ours leave alone.
ARG PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt torch
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt '.[worker,redis]'


FROM build AS build-worker-lmdeploy
# lmdeploy 0.18 wants a torch before 2.13, and that torch an older setuptools than the other images have.
RUN grep -vE '^(torch|setuptools)==' constraints.txt > /tmp/constraints-lmdeploy.txt
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint /tmp/constraints-lmdeploy.txt '.[worker,redis,lmdeploy]'


FROM ${PYTHON_IMAGE} AS runtime
# tini is the container's first process: it collects the decode processes that a killed worker leaves behind.
# /run/glimpsed: the queue's socket where gateway and worker are containers of their own.
# /var/cache/glimpsed: checkpoints that are downloaded by hub name. /var/lib/glimpsed: files and batches, where
# GLIMPSED_DATA_DIR says so. Nothing else needs to be writable but /tmp.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 65532 glimpsed \
    && useradd --uid 65532 --gid 65532 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin glimpsed \
    && install -d -o 65532 -g 65532 -m 0700 /run/glimpsed /var/cache/glimpsed /var/lib/glimpsed
ENV PATH=/opt/glimpsed/bin:$PATH \
    HOME=/tmp \
    HF_HOME=/var/cache/glimpsed \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GLIMPSED_HOST=0.0.0.0
WORKDIR /tmp
USER 65532:65532
EXPOSE 8000
ENTRYPOINT ["tini", "--", "glimpsed"]


FROM runtime AS gateway
COPY --from=build-gateway /opt/glimpsed /opt/glimpsed
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/livez' % os.environ.get('GLIMPSED_PORT', '8000'), timeout=2)"]
CMD ["gateway"]


FROM runtime AS worker-lmdeploy
COPY --from=build-worker-lmdeploy /opt/glimpsed /opt/glimpsed
CMD ["serve"]


FROM runtime AS worker
COPY --from=build-worker /opt/glimpsed /opt/glimpsed
CMD ["serve"]
