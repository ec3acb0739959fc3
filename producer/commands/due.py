"""What still waits, said after every command that makes something due or gives it up."""

from __future__ import annotations

from collections.abc import Iterator

import click

from producer.commands.shown import short_time
from producer.contract import Stage
from producer.record.endpoints import Endpoint, Endpoints
from producer.record.store import Store


def say_what_is_due(store: Store) -> None:
    """Print one line for each stage and callback endpoint that something waits for."""
    lines = list(_lines(store))
    for line in lines or ["nothing waits"]:
        click.echo(f"  {line}")


def _lines(store: Store) -> Iterator[str]:
    alive = {stage for worker in store.workers() for stage in worker.get("stages", ())}
    for stage in (stage for stage in Stage if stage != Stage.CALLBACK):
        if found := _depth(store, stage):
            yield f"{stage}: {found}{_nobody(stage, alive)}"
    for endpoint in Endpoints(store, disable_after_s=float("inf")).all():
        if found := _depth(store, endpoint.line):
            yield f"callbacks to {_name(endpoint)}: {found}{_nobody(Stage.CALLBACK, alive)}"


def _name(endpoint: Endpoint) -> str:
    name = endpoint.server or endpoint.name
    if endpoint.disabled:
        return f"{name} (disabled: they wait for `avatarmod callbacks enable {endpoint.name}`)"
    return name


def _nobody(stage: Stage, alive: set[str]) -> str:
    role = "moderate" if stage == Stage.MODERATE else "io"
    return "" if stage in alive else f"; no worker does it: start `avatarmod worker {role}`"


def _depth(store: Store, line: str) -> str:
    depth = store.depth(line)
    parts = []
    if depth.leased:
        parts.append(f"{depth.leased} under way")
    if depth.due:
        parts.append(f"{depth.due} due now")
    if depth.later:
        parts.append(f"{depth.later} later, the first in {short_time(depth.next_s or 0.0)}")
    return ", ".join(parts)
