"""`/healthz`, `/readyz` and `/metrics`: for load balancers, orchestrators and Prometheus."""

from __future__ import annotations

from typing import Any

import redis
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from producer.api.gate import services
from producer.health import find_alarms

router = APIRouter(tags=["operations"])


class Alive(BaseModel):
    """This process answers."""

    status: str = Field(examples=["alive"])


class AlarmOut(BaseModel):
    """One thing that is wrong."""

    code: str
    level: str
    message: str


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
        alarms = find_alarms(found.store, found.settings, workers)
    except redis.RedisError as error:
        message = f"Redis does not answer ({type(error).__name__})."
        alarm = {"code": "no_redis", "level": "error", "message": message}
        body: dict[str, Any] = {"status": "not_ready", "alarms": [alarm], "workers": []}
        return JSONResponse({**body, "bundle": None}, 503)
    is_ready = not any(alarm.level == "error" for alarm in alarms)
    body = {
        "status": "ready" if is_ready else "not_ready",
        "alarms": [
            {"code": alarm.code, "level": alarm.level, "message": alarm.message} for alarm in alarms
        ],
        "workers": sorted(str(worker.get("role")) for worker in workers),
        "bundle": next((w["bundle"] for w in workers if w.get("bundle")), None),
    }
    return JSONResponse(body, 200 if is_ready else 503)
