# One image, every role: `avatarmod worker moderate`, `avatarmod worker io`, `avatarmod api`.
# The steps are those of `make run`: a virtual environment and pip install of the project.
FROM python:3.13-slim-bookworm AS build
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY producer ./producer
COPY worker ./worker
COPY scripts ./scripts
RUN python -m venv /app/.venv && /app/.venv/bin/pip install --no-cache-dir '.[all,tracing]'

FROM python:3.13-slim-bookworm
RUN useradd --system --uid 10001 --home-dir /data --create-home avatarmod
COPY --from=build /app/.venv /app/.venv
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=2 \
    AVATARMOD_DATA_FOLDER=/data \
    AVATARMOD_MODELS_FOLDER=/models \
    AVATARMOD_LOG_FORMAT=json
USER avatarmod
VOLUME ["/data"]
ENTRYPOINT ["avatarmod"]
CMD ["doctor"]
