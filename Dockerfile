# Images that run the pipeline, by hand and on ZenML's remote stacks; docs/containers.md says how.
#
#   docker build --target cpu --tag llm-engineering:cpu .
#   docker run --rm --volume llm-engineering:/data llm-engineering:cpu --run-training
#
# Nothing here needs BuildKit: ZenML's image builders are without it.

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

# What the images have in common: a user, where packages and code lie, the one folder that runs write to, and the start.
FROM ${PYTHON_IMAGE} AS base
ENV VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HF_HOME=/data/huggingface \
    HF_HUB_DISABLE_TELEMETRY=1 \
    ZENML_CONFIG_PATH=/data/zenml \
    ZENML_ANALYTICS_OPT_IN=false \
    DO_NOT_TRACK=1
# A job of a remote stack unpacks the code of its run in /app/code.
RUN useradd --uid 1000 --create-home llm \
    && mkdir /app /data \
    && chown llm:llm /app /data
WORKDIR /app
# Flags go to the main command; anything else is run as it is: ZenML's entry points, a tool, a shell.
ENTRYPOINT ["sh", "-c", "case \"$1\" in -*) set -- python /app/tools/run.py \"$@\" ;; esac; exec \"$@\"", "sh"]
CMD ["--help"]

# The installer. An index of one's own is named by a build argument of this stage and the next: no image is made of them.
FROM base AS installer
ARG PIP_INDEX_URL
ARG PIP_FIND_LINKS
WORKDIR /build
COPY constraints.txt ./
RUN python -m venv "$VIRTUAL_ENV" \
    && pip install --no-cache-dir --constraint constraints.txt uv
COPY pyproject.toml ./
COPY configs/stacks/vertex.constraints.txt configs/stacks/
COPY llm_engineering/requirements.py llm_engineering/

# Packages come from pyproject.toml and the pins alone: edited code installs nothing anew.
FROM installer AS cpu-packages
ARG UV_DEFAULT_INDEX
ARG UV_INDEX
ARG UV_FIND_LINKS
# PyTorch's own index has the build without CUDA; empty for what the indexes above have.
ARG TORCH_BACKEND=cpu
ARG EXTRAS
RUN python llm_engineering/requirements.py "$EXTRAS" > pins.txt \
    && uv pip install --no-cache --compile-bytecode --constraint pins.txt --requirement pyproject.toml \
    --extra pipeline $(for extra in $(echo "$EXTRAS" | tr , ' '); do echo "--extra $extra"; done) \
    ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"}

FROM base AS cpu
COPY --from=cpu-packages /opt/venv /opt/venv
COPY --chown=llm:llm . /app
# What the packages were installed by: `python -m llm_engineering.requirements` says it of a checkout.
ARG REQUIREMENTS=unknown
ENV LLM_ENGINEERING_REQUIREMENTS=$REQUIREMENTS
LABEL llm-engineering.requirements=$REQUIREMENTS
USER llm

# The same for CUDA. The wheels of torch bring its libraries, so that the base needs none; the driver is the host's.
FROM installer AS cuda-packages
ARG UV_DEFAULT_INDEX
ARG UV_INDEX
ARG UV_FIND_LINKS
ARG TORCH_BACKEND
ARG EXTRAS
RUN python llm_engineering/requirements.py "$EXTRAS" > pins.txt \
    && uv pip install --no-cache --compile-bytecode --constraint pins.txt --requirement pyproject.toml \
    --extra pipeline --extra cuda $(for extra in $(echo "$EXTRAS" | tr , ' '); do echo "--extra $extra"; done) \
    ${TORCH_BACKEND:+--torch-backend "$TORCH_BACKEND"}

FROM base AS cuda
# Triton compiles the launcher of every kernel when it is first used.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=cuda-packages /opt/venv /opt/venv
COPY --chown=llm:llm . /app
ARG REQUIREMENTS=unknown
ENV LLM_ENGINEERING_REQUIREMENTS=$REQUIREMENTS
LABEL llm-engineering.requirements=$REQUIREMENTS
USER llm
