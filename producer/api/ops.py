"""`/healthz`, `/readyz` and `/metrics`: for load balancers, orchestrators and Prometheus."""

from __future__ import annotations

from typing import Any

import redis
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from producer.api.gate import ReadKey, services
from producer.api.problems import Problem
from producer.api.uploads import problem_docs
from producer.errors import StorageUnavailable
from producer.health import NOT_READY, find_alarms
from producer.metrics import render

router = APIRouter(tags=["operations"])


class Alive(BaseModel):
    """This process answers."""

    status: str = Field(examples=["alive"])


class AlarmOut(BaseModel):
    """One thing that is wrong."""

    code: str
    severity: str = Field(description="critical or warning.")
    message: str
    fix: str = Field(description="What to do.")


class Ready(BaseModel):
    """Whether uploads are accepted and decided."""

    status: str = Field(examples=["ready"])
    alarms: list[AlarmOut]
    workers: list[str] = Field(description="Roles of the workers that live.")
    bundle: str | None = Field(description="The model bundle that a worker has loaded.")


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
    """Look at Redis, the workers, the model and the alarms."""
    found = services(request)
    try:
        workers = found.store.workers()
        alarms = find_alarms(found.store, workers)
    except redis.RedisError as error:
        message = f"Redis does not answer ({type(error).__name__})."
        fix = "start Redis; what was accepted is on its disk"
        alarm = {"code": "no_redis", "severity": "critical", "message": message, "fix": fix}
        body: dict[str, Any] = {"status": "not_ready", "alarms": [alarm], "workers": []}
        return JSONResponse({**body, "bundle": None}, 503)
    is_ready = not any(alarm.code in NOT_READY for alarm in alarms)
    body = {
        "status": "ready" if is_ready else "not_ready",
        "alarms": [
            {"code": a.code, "severity": a.severity, "message": a.message, "fix": a.fix}
            for a in alarms
        ],
        "workers": sorted(str(worker.get("role")) for worker in workers),
        "bundle": next((w["bundle"] for w in workers if w.get("bundle")), None),
    }
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
