# The image of the pipeline: Jenkins's agent, and `make` for people without Python.
#
#     docker build --tag traffic-signs-pipeline .
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" traffic-signs-pipeline
#
# In a git clone, this runs `make`. Other targets: `... traffic-signs-pipeline make test`.
# The image of the service is another one, without TensorFlow: containers/Dockerfile.
FROM python:3.11-slim AS packages
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git && \
    rm -rf /var/lib/apt/lists/*
# Only the lists of packages, so that a change of the code does not install them again.
COPY requirements/setup.sh requirements/uv.txt requirements/development.txt /build/requirements/
# Where the package index needs settings or a password: `--secret id=pip,src=pip.conf` and
# `--secret id=uv,src=uv.toml`, which exist during this step only.
RUN --mount=type=secret,id=pip,target=/etc/pip.conf \
    --mount=type=secret,id=uv,target=/run/secrets/uv.toml \
    if [ -s /run/secrets/uv.toml ]; then export UV_CONFIG_FILE=/run/secrets/uv.toml; fi; \
    UV_NO_CACHE=1 UV_SYSTEM_CERTS=true PIP_NO_CACHE_DIR=1 VENV=/venv sh /build/requirements/setup.sh development || \
    { cat /venv/setup.log; exit 1; }

FROM python:3.11-slim
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends git make openssh-client && \
    rm -rf /var/lib/apt/lists/* && \
    # The clone may belong to another user, and DVC's experiments are commits, which need an author.
    git config --system safe.directory '*' && \
    git config --system user.name pipeline && \
    git config --system user.email pipeline@localhost && \
    # A volume for a cache that builds share (DVC_CACHE=/cache) takes its mode from here.
    install -d -m 1777 /cache
COPY --from=packages /venv /venv
# --user may name any user, and none but root has a home here.
ENV VENV=/venv \
    PATH=/venv/bin:$PATH \
    HOME=/tmp \
    DVC_NO_ANALYTICS=1 \
    BENTOML_DO_NOT_TRACK=True
WORKDIR /work
USER 10001:10001
CMD ["make"]
