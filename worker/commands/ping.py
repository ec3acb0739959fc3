"""`avatarmod callbacks test`: would verdicts arrive?"""

from __future__ import annotations

import dataclasses
import json

import click

from producer.contract import public_url
from producer.errors import ConfigurationError
from producer.networks import parse_networks
from producer.plain import say
from producer.settings import load_settings
from worker.ping import Finding, Pinger, all_ok
from worker.settings import WorkerSettings


@click.command()
@click.argument("url", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def test(url: str | None, as_json: bool) -> None:
    """Send a signed ping to URL, or to AVATARMOD_CALLBACK_URL, and judge the answer.

    To be run where the io worker runs. Nothing is decided and nothing recorded. Exit code 0: a
    receiver read it, and refuses what is not signed; 1: verdicts might be lost or forged.
    """
    settings = load_settings(WorkerSettings)
    url = url or settings.callback_url
    if not url:
        raise ConfigurationError(
            "no address: name one, or set AVATARMOD_CALLBACK_URL=https://example.org/verdict"
        )
    findings = ping(settings, url)
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        click.echo(json.dumps({"url": public_url(url), "ok": all_ok(findings), "findings": rows}))
    else:
        print_findings(url, findings)
    if not all_ok(findings):
        raise SystemExit(1)


def ping(settings: WorkerSettings, url: str) -> list[Finding]:
    """Ping a receiver as these settings would call it back."""
    return Pinger(
        settings.callback_secrets,
        allowed=parse_networks(settings.private_networks),
        timeout_s=settings.callback_timeout_s,
        with_hub_signature=settings.callback_hub_signature,
    ).ping(url)


def print_findings(url: str, findings: list[Finding]) -> None:
    """For people; what is wrong first says what to do."""
    say(public_url(url))
    for finding in findings:
        mark = click.style("ok   ", fg="green") if finding.ok else click.style("wrong", fg="red")
        click.echo(f"  {mark}  ", nl=False)
        say(finding.message)
        if finding.fix:
            say(f"         to do: {finding.fix}")
