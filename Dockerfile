# One image, every role: `avatarmod worker moderate`, `avatarmod worker io`, `avatarmod api`.
# The steps are those of `make run`: a virtual environment and the project in the locked versions.
# Where the package index is slow: docker build --build-arg PIP_INDEX_URL=https://mirror.example/simple
FROM python:3.13-slim-bookworm AS build
WORKDIR /app
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY producer ./producer
COPY worker ./worker
ARG PIP_INDEX_URL
RUN python -m venv /app/.venv \
    && /app/.venv/bin/pip install --no-cache-dir -c requirements.lock '.[all,tracing]'
# Beside the one that comes with the package, so that a volume at /models hides neither.
RUN cd / && AVATARMOD_MODELS_FOLDER=$(/app/.venv/bin/python -c \
        'from worker.model.bundle import SHIPPED_FOLDER; print(SHIPPED_FOLDER)') \
    /app/.venv/bin/avatarmod bundle install --optional image-safety-s

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /data --create-home avatarmod
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    ORT_DISABLE_TELEMETRY=1 \
    AVATARMOD_DATA_FOLDER=/data \
    AVATARMOD_MODELS_FOLDER=/models \
    AVATARMOD_LOG_FORMAT=json
USER avatarmod
VOLUME ["/data"]
ENTRYPOINT ["avatarmod"]
CMD ["doctor"]
