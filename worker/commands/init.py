"""`avatarmod init`: a few questions, a file of settings, a first verdict and a tested callback."""

from __future__ import annotations

import os
import threading
import zoneinfo
from pathlib import Path
from typing import Any

import click

from producer.contract import public_url
from producer.environment import ENV_FILE, ENV_PREFIX, adopt, from_file, write
from producer.errors import ConfigurationError
from producer.installed import how_to_start
from producer.networks import is_network, parse_networks
from producer.plain import say
from producer.reasons import check_language
from producer.setting_types import split_commas
from producer.settings import load_settings
from worker.callback import new_secret
from worker.commands.config import is_secret
from worker.commands.ping import ping, print_findings
from worker.ping import all_ok, unreachable
from worker.review.providers import ADAPTERS
from worker.review.providers.fields import MissingSettings
from worker.review.registry import build_provider
from worker.settings import WorkerSettings

#: Flag -> the setting that it writes and the question, in the order in which they are asked.
QUESTIONS = {
    "callback_url": "Where does your site take verdicts (https://..., empty: it asks for them)",
    "redis_url": "Redis (redis://host:6379/0, empty: one is brought along)",
    "image_store": "Where do pictures lie (a folder or s3://bucket/prefix, empty: the data folder)",
    "review_domestic": "Who gives a second opinion on domestic pictures "
    f"({', '.join(sorted(ADAPTERS))}; comma-separated, empty: people)",
    "review_overseas": "Who on overseas pictures (the same)",
    "language": "Language in which owners of pictures read reasons",
    "currency": "Currency of every price",
    "report_timezone": "Time zone of days and of times that are shown",
}


#: What a store in S3 may need beside its name.
STORE = ("s3_kind", "s3_endpoint_url", "s3_region", "s3_access_key_id", "s3_secret_access_key")


def _zone() -> str:
    """The zone of this machine, where it says so."""
    name = os.environ.get("TZ", "").lstrip(":")
    place = Path("/etc/localtime").resolve().as_posix().partition("zoneinfo/")[2]
    for zone in (name, place):
        if zone in zoneinfo.available_timezones():
            return zone
    return str(WorkerSettings.model_fields["report_timezone"].default)


@click.command()
@click.option("--file", type=click.Path(dir_okay=False, path_type=Path), help="Default: .env here.")
@click.option("--callback-url", help="Where verdicts are posted.")
@click.option("--private-network", "networks", multiple=True, help="One of yours, to be reached.")
@click.option("--redis-url", help="Empty: an embedded Valkey.")
@click.option("--image-store", help="A folder or s3://bucket/prefix.")
@click.option("--review-domestic", help="Review providers, preferred first.")
@click.option("--review-overseas", help="The same for overseas pictures.")
@click.option("--language", help="Such as en or zh-CN.")
@click.option("--currency", help="ISO 4217, such as CNY or EUR.")
@click.option("--report-timezone", help="Such as Asia/Shanghai or UTC.")
@click.option("--set", "others", multiple=True, metavar="NAME=VALUE", help="Any other setting.")
@click.option("--yes", is_flag=True, help="Ask nothing: flags, then what holds already.")
@click.option("--no-check", is_flag=True, help="Only write; no verdict, no callback.")
def init(
    file: Path | None,
    networks: tuple[str, ...],
    others: tuple[str, ...],
    yes: bool,
    no_check: bool,
    **answers: str | None,
) -> None:
    """Write the file of settings, then show a verdict and test the callback.

    Asks what no flag says. What the file held already is kept, and it can be run again. Only you
    can read the file (mode 0600). Exit code 1: verdicts would not arrive; 2: nothing was written.
    """
    target = (file or Path(os.environ.get(ENV_FILE) or ".env")).absolute()
    os.environ[ENV_FILE] = str(target) if target.exists() else ""
    adopt()
    present = load_settings(WorkerSettings)
    values = {
        name: _answer(name, present, answers[name], ask=not yes) for name in QUESTIONS
    } | _others(others)
    known = ",".join(dict.fromkeys((*present.private_networks, *networks)))
    values["private_networks"] = _with_network(values["callback_url"], known, ask=not yes)
    values |= _keys(values, target, ask=not yes)
    has_secret = values.get("callback_secrets") or present.callback_secrets
    if values["callback_url"] and not has_secret:
        values["callback_secrets"] = new_secret().get_secret_value()
    # What cannot be used is never written.
    _with(values)
    named, held = {f"{ENV_PREFIX}{n.upper()}": v for n, v in values.items()}, from_file()
    write(target, {name: value for name, value in named.items() if value or name in held})
    say(f"written: {target}, which only you can read; `avatarmod config show` prints what holds")
    os.environ[ENV_FILE] = str(target)
    settings = load_settings(WorkerSettings)
    if no_check:
        say(f"it holds from the next start on: {how_to_start()}")
        return
    is_well = _show_verdict(settings)
    if settings.callback_url:
        findings = ping(settings, settings.callback_url)
        print_findings(settings.callback_url, findings)
        is_well = is_well and all_ok(findings)
        if not all_ok(findings) and "callback_secrets" in values:
            say(f"the site needs AVATARMOD_CALLBACK_SECRETS of {target}, too")
    say(f"start it: {how_to_start()}" if is_well else "correct this, then: avatarmod init --yes")
    if not is_well:
        raise SystemExit(1)


def _answer(name: str, present: WorkerSettings, given: str | None, *, ask: bool) -> str:
    """What a setting is to be: by flag, by answer, or as it is."""
    value: Any = getattr(present, name)
    if name == "report_timezone" and name not in present.model_fields_set:
        value = _zone()
    if isinstance(value, tuple):
        value = ",".join(map(str, value))
    secret = getattr(value, "get_secret_value", None)
    now = str(secret() if secret else value or "")
    if given is not None or not ask:
        return now if given is None else given.strip()
    while True:
        shown = public_url(now) if "@" in now else now
        answer = click.prompt(QUESTIONS[name], default=shown, show_default=bool(shown)).strip()
        answer = now if answer == shown else "" if answer == "-" else answer
        if not (wrong := _wrong(name, answer)):
            return str(answer)
        say(wrong)


def _wrong(name: str, answer: str) -> str:
    """Why an answer cannot be used; empty where it can."""
    try:
        if name == "language" and answer:
            check_language(answer)
        load_settings(WorkerSettings, **({name: answer} if answer else {}))
    except (ConfigurationError, ValueError) as error:
        return str(error)
    unknown = set(filter(None, answer.split(","))) - set(ADAPTERS) if "review_" in name else set()
    return f"not known: {', '.join(sorted(unknown))}" if unknown else ""


def _others(given: tuple[str, ...]) -> dict[str, str]:
    """`NAME=VALUE`, with or without our prefix."""
    found = {}
    for text in given:
        name, is_pair, value = text.partition("=")
        name = name.strip().upper().removeprefix(ENV_PREFIX).lower()
        if not is_pair or name not in WorkerSettings.model_fields:
            raise click.UsageError(f"--set {text}: write NAME=VALUE of docs/configuration.md")
        found[name] = value.strip()
    return found


def _with(values: dict[str, str]) -> WorkerSettings:
    """The settings as they would be.

    Raises:
        ConfigurationError: one cannot be used.
    """
    return load_settings(WorkerSettings, **{name: value for name, value in values.items() if value})


def _keys(values: dict[str, str], target: Path, *, ask: bool) -> dict[str, str]:
    """What the store and the providers that were chosen need: asked for, or said."""
    found: dict[str, str] = {}
    chosen = _with(values)
    in_s3 = ask and str(chosen.image_store or "").startswith("s3://")
    store = [name for name in STORE if in_s3 and name not in chosen.model_fields_set]
    for name in (*store, *_missing(chosen)):
        variable, field = f"{ENV_PREFIX}{name.upper()}", WorkerSettings.model_fields[name]
        question = f"{variable} ({(field.description or '').rstrip('.')})"
        while ask:
            answer = click.prompt(
                question, default="", show_default=False, hide_input=is_secret(name)
            )
            if not (wrong := _wrong(name, answer.strip())):
                found[name] = answer.strip()
                break
            say(wrong)
    for name in _missing(_with(values | found)):
        say(f"not set: {ENV_PREFIX}{name.upper()}; a line of {target} can hold it")
    return found


def _missing(settings: WorkerSettings) -> list[str]:
    """Fields that the chosen providers cannot do without, and that nothing says yet."""
    found = []
    for provider in settings.review_providers:
        try:
            build_provider(provider, settings)
        except MissingSettings as error:
            found += error.fields
        except ConfigurationError:
            continue  # What is wrong otherwise is said when it starts, and by `doctor`.
    return found


def _with_network(url: str, known: str, *, ask: bool) -> str:
    """The networks that may be reached, with the site's own where somebody says so."""
    if not url or not (fault := unreachable(url, parse_networks(split_commas(known)))):
        return known
    say(fault)
    network = fault.rpartition(" ")[2]
    if (
        is_network(network)
        and ask
        and click.confirm(f"Is it yours, and may it be reached ({network})?")
    ):
        return ",".join(filter(None, (known, network)))
    return known


def _show_verdict(settings: WorkerSettings) -> bool:
    """Moderate one picture, by the instance that runs or one that is started for it."""
    from producer.connect import connect_store
    from worker.commands.scan import instance, run_samples
    from worker.demo.pictures import encode, landscape
    from worker.tools.send_and_wait import Sample

    if settings.redis_url is not None and not connect_store(settings).workers():
        say("no worker runs on this Redis yet: no verdict was tried")
        return True
    picture = encode(landscape(17), "JPEG")
    with instance(settings, quiet=True):
        [passage], _ = run_samples(
            settings, [Sample("landscape.jpg", lambda: picture)], threading.Event()
        )
    said = passage.to_json()
    say(f"first verdict: a landscape is {said['state']} ({said['reason']}, {said['decided_by']})")
    return bool(said["state"] != "failed")
