# One party of a task: `docker build -t heterofed .`, then `docker run --rm heterofed doctor`.
#
# TORCH is the build of torch: cpu by default; cu128 or another one for a GPU (uv's --torch-backend).
# EXTRAS are the extras of heterofed. PYTHON is 3.11, 3.12 or 3.13.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
ARG TORCH=cpu
ARG EXTRAS=table
WORKDIR /src
COPY constraints.txt pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY heterofed heterofed
COPY psi psi
COPY examples examples
# hadolint ignore=DL3013
RUN pip install --no-cache-dir uv \
    && uv venv --no-cache /opt/heterofed \
    && uv pip install --no-cache --python /opt/heterofed/bin/python --compile-bytecode \
        --torch-backend "${TORCH}" --constraint constraints.txt ".[${EXTRAS}]"

FROM python:${PYTHON}-slim
RUN groupadd --gid 10001 heterofed \
    && useradd --uid 10001 --gid heterofed --home-dir /var/lib/heterofed --create-home heterofed \
    && mkdir --mode 700 /var/lib/heterofed/home /handover \
    && chown -R heterofed:heterofed /var/lib/heterofed /handover
COPY --from=build /opt/heterofed /opt/heterofed
# Keys, consents and ledgers are in $HETEROFED_HOME, and results are in ./heterofed_runs: mount a
# volume at /var/lib/heterofed to keep both.
ENV PATH=/opt/heterofed/bin:$PATH \
    HETEROFED_HOME=/var/lib/heterofed/home \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/heterofed
ENTRYPOINT ["heterofed"]
CMD ["doctor"]
