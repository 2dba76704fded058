# One image for the MLflow server, the Ray nodes and the scheduler, so that they have the same versions.
FROM python:3.11.14-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/sweep
WORKDIR /src

# The layers that change least come first. PyTorch's own index has builds for the CPU and for each CUDA version. If
# TORCH_INDEX is empty, pip uses its default index. The lock contains what a CPU build needs; a CUDA build also installs
# its own libraries.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock requirements-image.lock ./
RUN case "$TORCH_INDEX" in */cpu) alone=--no-deps ;; *) alone= ;; esac \
    && grep '^torch==' requirements.lock > torch.lock \
    && /opt/sweep/bin/pip install ${alone:+"$alone"} ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} --requirement torch.lock
RUN /opt/sweep/bin/pip install --no-deps --requirement requirements.lock --requirement requirements-image.lock

COPY pyproject.toml README.md ./
COPY search_spaces search_spaces
COPY backends backends
COPY sweeps sweeps
RUN /opt/sweep/bin/pip install --no-deps --no-build-isolation .

FROM python:3.11.14-slim-bookworm

# The user has a fixed number, so that every machine can make it the owner of a shared folder. A new volume gets the
# owner of the folder.
RUN groupadd --gid 10001 sweep \
    && useradd --uid 10001 --gid sweep --create-home sweep \
    && install --directory --owner sweep --group sweep /srv/sweep
COPY --from=build /opt/sweep /opt/sweep
COPY deploy /opt/deploy

ENV PATH=/opt/sweep/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    GIT_PYTHON_REFRESH=quiet \
    SWEEP_ROOT=/srv/sweep
USER 10001:10001
WORKDIR /srv/sweep
# Each service has its own check in docker-compose.yml.
HEALTHCHECK NONE
CMD ["sweep", "--help"]
