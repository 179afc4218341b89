# One image for every Python process in docker-compose.yml: Prefect's server and worker, MLflow, SeaweedFS, the flows.
FROM python:3.11.13-slim-bookworm AS build
WORKDIR /app
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt .
# The lock file pins every version; its PyTorch includes CUDA, for workers with a GPU.
RUN --mount=type=cache,target=/root/.cache/pip pip install --no-deps --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE ./
COPY cm3 cm3
COPY schemas schemas
COPY pipeline pipeline
COPY trainers trainers
COPY flows flows
RUN pip install --no-cache-dir --no-deps --no-build-isolation -e .

FROM python:3.11.13-slim-bookworm
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PREFECT_HOME=/home/cm3/.prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1
RUN useradd --uid 10001 --create-home cm3 \
    && install --directory --owner cm3 /data /home/cm3/.cache /home/cm3/.prefect
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app /app
COPY flows/prefect.yaml /app/
WORKDIR /app
USER 10001
CMD ["cm3", "--help"]
