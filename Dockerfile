# syntax=docker/dockerfile:1
#
# The worker with its model baked in. No GPU is needed to build it.
#
#   docker build -t sdworker .
#   docker build -t sdworker --build-arg MODEL_ID=owner/name --build-arg MODEL_REVISION=COMMIT .
#   docker build -t sdworker --build-arg MODEL_ID=models/mine.safetensors .
#   docker build -t sdworker --build-arg TORCH_BUILD=cu130 .        (Blackwell; docs/deployment.md says which for what)
#
# Secrets, each optional: `hf_token` for a gated or private model, `pip_conf` for a package index of one's own.
#   docker build --secret id=hf_token,src=token.txt …

# Any image with Python 3.11 or later and its venv module; by its digest, so that it is the same tomorrow. `make pin`
# brings it up to date.
ARG BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# ---- what the worker runs on: changes seldom, and is the largest layer by far
FROM ${BASE_IMAGE} AS dependencies

# Which build of torch: cu126 (CUDA 12.6, driver 525.60.13 or later), cu130 (CUDA 13.0, driver 580.65.06), cpu.
ARG TORCH_BUILD=cu126
# An index to find it in beside pip's own. `auto` is PyTorch's for that build; PyPI itself has cu130. Empty: none.
ARG TORCH_INDEX=auto
# Empty leaves it out; ATTENTION=xformers then does not work.
ARG XFORMERS=1

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
COPY requirements.lock requirements-torch-*.lock requirements-xformers.lock requirements-spandrel.lock /build/
# Every file is the one that was locked, by its hash. torch apart, because each build has a lock of its own.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    set -eu; \
    case "${TORCH_INDEX}:${TORCH_BUILD}" in \
        auto:cu130) index="";; \
        auto:*) index="https://download.pytorch.org/whl/${TORCH_BUILD}";; \
        *) index="${TORCH_INDEX}";; \
    esac; \
    python3 -m venv /opt/venv; \
    pip="/opt/venv/bin/pip install --require-hashes --no-deps"; \
    ${pip} ${index:+--extra-index-url "${index}"} --requirement "/build/requirements-torch-${TORCH_BUILD}.lock"; \
    ${pip} --requirement /build/requirements.lock; \
    if [ -n "${XFORMERS}" ]; then ${pip} --requirement /build/requirements-xformers.lock; fi; \
    /opt/venv/bin/pip check; \
    ${pip} --requirement /build/requirements-spandrel.lock; \
    /opt/venv/bin/python -c 'import diffusers, runpod, torch, transformers'

# ---- the model and the worker itself
FROM dependencies AS assets

# A model hub's id, or a folder or .safetensors file under models/. Empty revision: the default model's pinned one.
ARG MODEL_ID=stable-diffusion-v1-5/stable-diffusion-v1-5
ARG MODEL_REVISION=""
# For a single file: the model whose configuration and tokenizer it shares. Empty: Stable Diffusion
# 1.5's or XL's, as its weights have it.
ARG MODEL_CONFIG_FROM=""
# Not empty: keep the model's safety checker (docs/safety.md).
ARG MODEL_SAFETY=""

WORKDIR /build
COPY models models
COPY builder/*.py builder/
COPY src/sdworker/__init__.py src/sdworker/errors.py src/sdworker/model_layout.py src/sdworker/
COPY src/sdworker/checkpoints src/sdworker/checkpoints
RUN --mount=type=secret,id=hf_token \
    PYTHONPATH=src /opt/venv/bin/python -m builder.fetch_model "${MODEL_ID}" --revision "${MODEL_REVISION}" \
    --config-from "${MODEL_CONFIG_FROM}" ${MODEL_SAFETY:+--safety} --token-file /run/secrets/hf_token --out /opt/model

COPY pyproject.toml README.md ./
COPY src src
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    /opt/venv/bin/pip install --no-cache-dir --no-deps --no-build-isolation --target /opt/sdworker .
# What the worker would refuse at its start, it refuses here.
RUN PYTHONPATH=/opt/sdworker /opt/venv/bin/python -c \
    'from pathlib import Path; from sdworker.engine.model_files import check_model_folder as c; c(Path("/opt/model"))'

# LoRAs, embeddings, ControlNets and upscalers that jobs may name: KIND/NAME=SOURCE, with spaces between (docs/addons.md).
ARG ADDONS=""
RUN --mount=type=secret,id=hf_token \
    PYTHONPATH=/opt/sdworker /opt/venv/bin/python -m builder.fetch_addon --token-file /run/secrets/hf_token \
    --out /opt/addons ${ADDONS}

# ---- what is in it, for those who ask: `docker buildx bake sbom`
FROM dependencies AS listing
COPY requirements-tools.lock /build/
RUN --mount=type=secret,id=pip_conf,target=/etc/pip.conf \
    set -eu; \
    python3 -m venv /opt/tools; \
    /opt/tools/bin/pip install --no-cache-dir --require-hashes --no-deps --requirement /build/requirements-tools.lock; \
    mkdir /sbom; \
    /opt/tools/bin/cyclonedx-py environment --output-reproducible --output-file /sbom/sbom.json /opt/venv/bin/python; \
    /opt/tools/bin/pip-licenses --python=/opt/venv/bin/python --from=mixed --with-urls --format=markdown \
        --output-file=/sbom/licences.md

FROM scratch AS sbom
COPY --from=listing /sbom /

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
COPY --from=assets /opt/addons /opt/addons
COPY --from=assets /opt/sdworker /opt/sdworker
WORKDIR /app
COPY handler.py test_input.json ./

# Where the worker must run: with `cuda`, a GPU that cannot be used stops the start, instead of a CPU that draws a
# hundred times slower. `auto` and `cpu` are for images without CUDA.
ARG DEVICE=cuda

# Nothing is downloaded at run time; the SDK's own default log level would log every prompt and image. The last two
# have the container runtime put the driver in: images that start from CUDA's have them, a plain Python has not.
ENV PATH=/opt/venv/bin:/opt/sdworker/bin:${PATH} \
    PYTHONPATH=/opt/sdworker \
    PYTHONUNBUFFERED=1 \
    HF_HUB_OFFLINE=1 \
    TOKENIZERS_PARALLELISM=false \
    RUNPOD_LOG_LEVEL=INFO \
    DEVICE=${DEVICE} \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility

USER worker
STOPSIGNAL SIGTERM
CMD ["python", "-u", "handler.py"]
