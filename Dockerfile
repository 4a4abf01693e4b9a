# syntax=docker/dockerfile:1
#
# The worker with its model baked in. No GPU is needed to build it.
#
#   docker build -t sdworker .
#   docker build -t sdworker --build-arg MODEL_ID=owner/name --build-arg MODEL_REVISION=COMMIT .
#   docker build -t sdworker --build-arg MODEL_ID=models/mine.safetensors .
#
# Secrets, each optional: `hf_token` for a gated or private model, `pip_conf` for a package index of one's own.
#   docker build --secret id=hf_token,src=token.txt …

# Any image with Python 3.11 or later and its venv module.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm

# ---- what the worker runs on: changes seldom, and is the largest layer by far
FROM ${BASE_IMAGE} AS dependencies

# What pip is asked for. The default is built for CUDA 13.0 (driver 580 or later); for another CUDA, or none, name
# that build's index: TORCH="--index-url https://download.pytorch.org/whl/cpu torch==2.13.0".
ARG TORCH="torch==2.13.0"
# Empty leaves it out; ATTENTION=xformers then does not work.
ARG XFORMERS="xformers==0.0.35"

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock /build/
# torch first, so that it can be another build of it; then everything else exactly as it is locked.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    set -eu; \
    python3 -m venv /opt/venv; \
    grep -v '^torch==' /build/requirements.lock > /build/others.lock; \
    /opt/venv/bin/pip install --constraint /build/others.lock ${TORCH}; \
    /opt/venv/bin/pip install --no-deps --requirement /build/others.lock ${XFORMERS}; \
    /opt/venv/bin/pip check; \
    /opt/venv/bin/python -c 'import diffusers, runpod, torch, transformers'

# ---- the model and the worker itself
FROM dependencies AS assets

# A model hub's id, or a folder or .safetensors file under models/. Empty revision: the default model's pinned one.
ARG MODEL_ID=stable-diffusion-v1-5/stable-diffusion-v1-5
ARG MODEL_REVISION=""
# For a single file: the model whose configuration and tokenizer it shares. Empty: the default model's.
ARG MODEL_CONFIG_FROM=""

WORKDIR /build
COPY models models
COPY builder/*.py builder/
COPY src/sdworker/__init__.py src/sdworker/model_layout.py src/sdworker/
RUN --mount=type=secret,id=hf_token \
    PYTHONPATH=src /opt/venv/bin/python -m builder.fetch_model "${MODEL_ID}" --revision "${MODEL_REVISION}" \
    --config-from "${MODEL_CONFIG_FROM}" --token-file /run/secrets/hf_token --out /opt/model

COPY pyproject.toml README.md ./
COPY src src
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    /opt/venv/bin/pip install --no-cache-dir --no-deps --target /opt/sdworker .

# ---- what is shipped
FROM ${BASE_IMAGE}

LABEL org.opencontainers.image.title="sdworker" \
      org.opencontainers.image.description="Stable Diffusion 1.x on RunPod Serverless" \
      org.opencontainers.image.licenses="MIT"

# Debian packages to add: COMPILE=1 needs g++.
ARG APT_PACKAGES=""
RUN set -eu; \
    if [ -n "${APT_PACKAGES}" ]; then \
        apt-get update; \
        apt-get install --yes --no-install-recommends ${APT_PACKAGES}; \
        rm -rf /var/lib/apt/lists/*; \
    fi

RUN useradd --uid 10001 --create-home worker

COPY --from=dependencies /opt/venv /opt/venv
COPY --from=assets /opt/model /opt/model
COPY --from=assets /opt/sdworker /opt/sdworker
WORKDIR /app
COPY handler.py test_input.json ./

# Nothing is downloaded at run time; the SDK's own default log level would log every prompt and image. The last two
# have the container runtime put the driver in: images that start from CUDA's have them, a plain Python has not.
ENV PATH=/opt/venv/bin:/opt/sdworker/bin:${PATH} \
    PYTHONPATH=/opt/sdworker \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    TOKENIZERS_PARALLELISM=false \
    RUNPOD_LOG_LEVEL=INFO \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

USER worker
STOPSIGNAL SIGTERM
CMD ["python", "-u", "handler.py"]
