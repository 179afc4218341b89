# The image of every Python process in docker-compose.yml, in two builds: `--build-arg TORCH=cpu`, the default, for every
# service and for workers without an NVIDIA GPU; `--build-arg TORCH=cuda` for workers with one.
FROM python:3.11.13-slim-bookworm AS build
ARG TORCH=cpu
WORKDIR /app
RUN python -m venv /opt/venv
ENV PATH=/opt/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt .
# The lock has every version, and PyTorch as the package index has it, which links the CUDA libraries and does not start
# without them. For `cpu` these stay out, and PyTorch at the locked versions comes from its own index of CPU builds.
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -e ':line' -e '/\\$/{N;s/ *\\\n */ /;b line' -e '}' requirements.txt > lock.txt \
    && case "$TORCH" in \
    cpu) grep -oE '^torch(vision)?==[^ ]+' lock.txt > torch.txt \
        && pip install --no-deps --index-url https://download.pytorch.org/whl/cpu -r torch.txt \
        && grep -vE '^(torch|torchvision|triton|nvidia-[^=]+|cuda-[^=]+)==' lock.txt > wanted.txt ;; \
    cuda) cp lock.txt wanted.txt ;; \
    *) echo "TORCH: expected cpu or cuda, found $TORCH" >&2 && exit 1 ;; \
    esac \
    && pip install --no-deps --require-hashes -r wanted.txt \
    && rm -f lock.txt torch.txt wanted.txt
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
