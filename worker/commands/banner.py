"""What `avatarmod up` says when everything runs: where things are, and what lacks."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from producer.commands.shown import Rows, styled
from producer.contract import public_url
from producer.installed import how_to_install
from worker.settings import WorkerSettings


def print_banner(console: Console, facts: dict[str, Any], settings: WorkerSettings) -> None:
    """What runs, on which data: the first thing an operator wants to see."""
    table = Rows(show_header=False, padding=(0, 2))
    engine: dict[str, Any] = next((w for w in facts["workers"] if w["role"] == "moderate"), {})
    rows = [
        ("broker", facts["broker"]),
        ("bundle", engine.get("bundle", "no moderate worker here")),
        ("second", _second(engine)),
        (
            "engine",
            f"{', '.join(engine.get('execution_providers', []))}; "
            f"{engine.get('threads')} thread(s), micro-batch {engine.get('micro_batch')}",
        ),
        ("policy", f"{settings.policy_path() or 'built in'}, version {engine.get('policy')}"),
        ("callbacks", _callbacks(facts, settings)),
        ("images", settings.image_folder),
        ("data", facts["data"]),
        *_web_rows(facts, show_secrets=console.is_terminal),
        ("workers", ", ".join(f"{w['role']} ({w['pid']})" for w in facts["workers"])),
    ]
    for name, value in rows:
        table.add_row(styled(name, "bold"), str(value))
    console.print(table)
    console.print("Ready. Ctrl-C stops; nothing in the queue is lost.", style="green")


def _callbacks(facts: dict[str, Any], settings: WorkerSettings) -> str:
    """Where verdicts go, and when they cannot arrive there."""
    if not settings.callback_url:
        return "none: poll with `avatarmod status ID`"
    fault = next((w["callback_fault"] for w in facts["workers"] if "callback_fault" in w), "")
    return public_url(settings.callback_url) + (f": they will not arrive, {fault}" if fault else "")


def _second(engine: dict[str, Any]) -> str:
    if fix := engine.get("second_fix"):
        return f"not installed, one model judges alone; to get it: {fix}"
    return str(engine.get("second_bundle") or "none: the policy asks one model")


def _web_rows(facts: dict[str, Any], *, show_secrets: bool) -> list[tuple[str, str]]:
    """Where API and console are; on a terminal the secrets of the first start, this once."""
    url = next((worker["url"] for worker in facts["workers"] if worker["role"] == "api"), None)
    if url is None:
        return [("api", f"none here; for API and console: {how_to_install('api')}")]
    rows = [("api", f"{url}/v1/uploads"), ("console", f"{url}/console")]
    access = facts["access"]
    if access and access.api_key:
        rows.append(("api key", _secret(access.api_key, f"{facts['data']}/api-key", show_secrets)))
    if access and access.password:
        kept = f"{facts['data']}/console-password"
        rows.append(("sign in", f"admin, {_secret(access.password, kept, show_secrets)}"))
    return rows


def _secret(secret: str, kept: str, show: bool) -> str:
    """What is no terminal is a log, which others read."""
    return f"{secret} (kept in {kept})" if show else f"see {kept}"
