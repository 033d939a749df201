# The pipeline as an image: Jenkins's agent, and `make` for whoever has no Python.
#
#     docker build --tag traffic-signs-pipeline .
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" traffic-signs-pipeline
#
# in a git clone runs its `make`; any other target likewise: `... traffic-signs-pipeline make test`.
# The service's image is another, without TensorFlow: containers/Dockerfile.
FROM python:3.11-slim AS packages
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git && \
    rm -rf /var/lib/apt/lists/*
# What is installed alone: a change of the code installs nothing again.
COPY requirements/setup.sh requirements/uv.txt requirements/development.txt /build/requirements/
# Where the package index needs settings or a password: `--secret id=pip,src=pip.conf` and
# `--secret id=uv,src=uv.toml`. They are there during this step alone.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/run/secrets/uv.toml \
    if [ -s /run/secrets/uv.toml ]; then export UV_CONFIG_FILE=/run/secrets/uv.toml; fi; \
    UV_NO_CACHE=1 UV_SYSTEM_CERTS=true PIP_NO_CACHE_DIR=1 VENV=/venv sh /build/requirements/setup.sh development || \
    { cat /venv/setup.log; exit 1; }

FROM python:3.11-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git make openssh-client && \
    rm -rf /var/lib/apt/lists/* && \
    # The clone belongs to whoever started the container, and experiments are commits of somebody.
    git config --system safe.directory '*' && \
    git config --system user.name pipeline && \
    git config --system user.email pipeline@localhost
COPY --from=packages /venv /venv
# Any user may be given with --user; none but root has a home here.
ENV VENV=/venv \
    PATH=/venv/bin:$PATH \
    HOME=/tmp \
    DVC_NO_ANALYTICS=1 \
    BENTOML_DO_NOT_TRACK=True
WORKDIR /work
USER 10001:10001
CMD ["make"]
