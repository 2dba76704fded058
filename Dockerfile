# The image of MLflow's server, the Ray nodes and the scheduler: one, so that their versions are the same.
FROM python:3.11.14-slim-bookworm AS build

ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python -m venv /opt/sweep
WORKDIR /src

# First what changes least. PyTorch's own index has builds for the CPU and for each CUDA; without one, pip's is used. The
# lock has what a build for the CPU needs; one for CUDA brings its own libraries.
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

# A number, so that a shared folder can be given to it on every machine. The volume takes over the folder's owner.
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
# What is healthy depends on the service: docker-compose.yml has the checks.
HEALTHCHECK NONE
CMD ["sweep", "--help"]
