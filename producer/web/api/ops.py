"""`/healthz`, `/readyz` and `/metrics`: for load balancers, orchestrators and Prometheus."""

from __future__ import annotations

from typing import Any

import redis
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from producer.errors import StorageUnavailable
from producer.health import NOT_READY, find_alarms
from producer.metrics import render
from producer.web.api.schemas import problem_docs
from producer.web.api_keys import Scope
from producer.web.auth import ReadKey, may
from producer.web.problems import Problem
from producer.web.services import services

router = APIRouter(tags=["operations"])


class Alive(BaseModel):
    """This process answers."""

    status: str = Field(examples=["alive"])


class AlarmOut(BaseModel):
    """One thing that is wrong."""

    code: str
    severity: str = Field(description="critical or warning.")
    message: str | None = Field(None, description="What is wrong; only with a key.")
    fix: str | None = Field(None, description="What to do; only with a key.")


class Ready(BaseModel):
    """Whether uploads are accepted and decided."""

    status: str = Field(examples=["ready"])
    alarms: list[AlarmOut]
    workers: list[str] | None = Field(None, description="Roles of live workers; only with a key.")
    bundle: str | None = Field(None, description="The model bundle in use; only with a key.")


@router.get("/healthz", response_model=Alive, summary="Is this process alive")
async def healthz() -> dict[str, str]:
    """Answer without looking at anything else."""
    return {"status": "alive"}


@router.get(
    "/readyz",
    response_model=Ready,
    responses={503: {"description": "Uploads are not accepted or not decided.", "model": Ready}},
    summary="Are uploads accepted and decided",
)
def readyz(request: Request) -> JSONResponse:
    """Try a write, look at workers, model and alarms; the details need a key with `read`."""
    found = services(request)
    try:
        found.store.try_to_write()
        workers = found.store.workers()
        alarms = find_alarms(found.store, workers)
        is_known = may(found, request, Scope.READ)
    except redis.RedisError as error:
        refuses = isinstance(error, redis.ResponseError)
        code = "redis_cannot_write" if refuses else "no_redis"
        alarm = {"code": code, "severity": "critical"}
        return JSONResponse({"status": "not_ready", "alarms": [alarm]}, 503)
    is_ready = not any(alarm.code in NOT_READY for alarm in alarms)
    fields = ("code", "severity", "message", "fix") if is_known else ("code", "severity")
    body: dict[str, Any] = {
        "status": "ready" if is_ready else "not_ready",
        "alarms": [{name: getattr(alarm, name) for name in fields} for alarm in alarms],
    }
    if is_known:
        body["workers"] = sorted(str(worker.get("role")) for worker in workers)
        body["bundle"] = next((w["bundle"] for w in workers if w.get("bundle")), None)
    return JSONResponse(body, 200 if is_ready else 503)


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {"description": "Prometheus' text format.", "content": {"text/plain": {}}},
        **problem_docs(401, 403, 429, 503),
    },
    summary="Metrics of all processes",
)
def metrics(request: Request, _key: ReadKey) -> Response:
    """Counters of every worker and machine, and what waits now."""
    found = services(request)
    try:
        text = render(found.store)
    except redis.RedisError as error:
        raise Problem.of(StorageUnavailable("Redis did not answer")) from error
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
