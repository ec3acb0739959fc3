"""`avatarmod bundle`: which models are here, what they are, whether they are intact."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.console import Console

from producer.commands.due import say_what_is_due
from producer.commands.shown import Rows, styled
from producer.connect import connect_store
from producer.errors import BundleError, ConfigurationError
from producer.settings import load_settings
from worker.commands.bundle_install import import_command, install_command
from worker.commands.terminal import needs_tuning
from worker.model.bundle import SHIPPED_FOLDER, Bundle, list_bundles
from worker.model.calibration import calibration_to_dict
from worker.model.costs import known_costs, measure, remember_cost
from worker.model.promotion import CURRENT, promote, roll_back
from worker.model.recipes import Recipe, list_recipes
from worker.moderation.road import make_engine, policy_in_use
from worker.settings import WorkerSettings


@click.group("bundle")
def bundle() -> None:
    """Install, list, show, verify and promote model bundles."""


bundle.add_command(install_command)
bundle.add_command(import_command)


@bundle.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def list_command(as_json: bool) -> None:
    """Show every bundle, whether its files are intact, what it costs here, and what there is more.

    Costs are those measured when a bundle was installed, imported or verified on this machine.
    """
    settings = _settings()
    names = list_bundles(settings.models_folder)
    rows = [_row(name, settings) for name in names]
    rows += [_recipe_row(recipe) for recipe in list_recipes() if recipe.name not in names]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    table = Rows()
    for column, width in (("used as", 7), ("bundle", 26), ("cost here", 9), ("state", 20)):
        table.add_column(column, overflow="fold", min_width=width)
    for row in rows:
        cost = "" if row["ms"] is None else f"{row['ms']:.0f} ms, {row['mb']:.0f} MB"
        recommended = row["recommended_as"]
        advice = f"; recommended as {recommended}" if recommended else ""
        state = f"{row['state']}{advice}"
        table.add_row(row["used_as"], row["id"] or row["name"], cost, state)
    Console().print(table)


@bundle.command("show")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print model.json.")
def show_command(name: str | None, as_json: bool) -> None:
    """Tell everything about one bundle (default: the one in use)."""
    settings = _settings()
    found = _load(name or settings.bundle, settings)
    if as_json:
        click.echo(json.dumps({"id": found.id, **found.description}, indent=2))
        return
    table = Rows(show_header=False)
    for key, value in _facts(found).items():
        table.add_row(styled(key, "bold"), value)
    Console().print(table)


@bundle.command("verify")
@click.argument("name", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify_command(name: str | None, as_json: bool) -> None:
    """Check every hash, load the model, score its probe and choose the micro-batch."""
    settings = _settings()
    found = _load(name or settings.bundle, settings)
    try:
        engine, cost = measure(lambda: make_engine(settings, found))
    except ConfigurationError as error:
        raise click.ClickException(str(error)) from error
    remember_cost(settings.models_folder, found.id, cost)
    if as_json:
        click.echo(json.dumps({"intact": True, **engine.description}, indent=2))
        return
    click.echo(f"{found.id} is intact and works here")
    for key, value in engine.description.items():
        if key != "bundle":
            click.echo(f"  {key.replace('_', ' ')}: {_text(value)}")


@bundle.command("promote")
@click.argument("name")
def promote_command(name: str) -> None:
    """Make a bundle the one in use; workers with AVATARMOD_BUNDLE=current take it up at once."""
    settings = _settings()
    try:
        found = promote(name, settings.models_folder)
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"current in {settings.models_folder.resolve()} is {found.id}")
    _say_how(settings)


@bundle.command("rollback")
def rollback_command() -> None:
    """Go back to the bundle before the last promotion."""
    settings = _settings()
    try:
        found = roll_back(settings.models_folder)
    except BundleError as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"current in {settings.models_folder.resolve()} is {found.id}")
    _say_how(settings)


def _say_how(settings: WorkerSettings) -> None:
    """What follows from the new `current`, and what waits for the workers that take it up."""
    if settings.bundle != CURRENT:
        click.echo(
            f"AVATARMOD_BUNDLE is {settings.bundle!r}: set it to {CURRENT!r} once, so that workers "
            "follow promotions",
            err=True,
        )
        return
    try:
        store = connect_store(settings)
    except ConfigurationError:
        click.echo("no worker can be asked here; each takes it up when it starts")
        return
    alive = [worker["host"] for worker in store.workers() if worker["role"] == "moderate"]
    where = f" ({', '.join(sorted(set(alive)))})" if alive else ""
    click.echo(f"{len(alive)} moderate workers{where} start again with it within seconds")
    say_what_is_due(store)
    store.close()


@bundle.command(
    "calibrate", context_settings={"ignore_unknown_options": True}, add_help_option=False
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def calibrate_command(ctx: click.Context, arguments: tuple[str, ...]) -> None:
    """Fit a calibration to scores in a CSV file, as `avatarmod calibrate` does to pictures."""
    with needs_tuning(ctx.command_path):
        from worker.commands.calibrate import calibrate_scores
    calibrate_scores.main(list(arguments), prog_name=ctx.command_path, standalone_mode=False)


def _settings() -> WorkerSettings:
    try:
        return load_settings(WorkerSettings)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from error


def _load(name: str, settings: WorkerSettings) -> Bundle:
    try:
        return Bundle.load(name, settings.models_folder)
    except BundleError as error:
        raise click.ClickException(str(error)) from error


def _row(name: str, settings: WorkerSettings) -> dict[str, Any]:
    policy = policy_in_use(settings)
    second = policy.second.bundle if policy.second.ask != "off" else ""
    used_as = {settings.bundle: "first", second: "second"}.get(name, "")
    recommended = next((r.recommended_as for r in list_recipes() if r.name == name), "")
    row: dict[str, Any] = {
        "name": name,
        "in_use": name == settings.bundle,
        "used_as": used_as,
        "recommended_as": recommended,
        "id": None,
        "ms": None,
        "mb": None,
    }
    try:
        found = Bundle.load(name, settings.models_folder)
    except BundleError as error:
        return {**row, "licence": None, "state": str(error)}
    state = "intact, RANDOM WEIGHTS" if found.random_weights else "intact"
    cost = known_costs(settings.models_folder).get(found.id)
    measured = {"ms": cost.ms, "mb": cost.mb} if cost else {}
    return {**row, **measured, "id": found.id, "licence": found.licence, "state": state}


def _recipe_row(recipe: Recipe) -> dict[str, Any]:
    return {
        "name": recipe.name,
        "in_use": False,
        "used_as": "",
        "recommended_as": recipe.recommended_as,
        "id": None,
        "ms": None,
        "mb": None,
        "licence": recipe.licence,
        "state": f"not installed: avatarmod bundle install {recipe.name}",
    }


def _facts(found: Bundle) -> dict[str, str]:
    spec = found.input
    where = "shipped" if found.folder.parent == SHIPPED_FOLDER else str(found.folder)
    facts = {
        "id": found.id,
        "source": found.source,
        "revision": found.revision,
        "licence": found.licence,
        "folder": where,
        "explicit labels": f"{', '.join(found.nsfw_labels)} of {', '.join(found.labels)}",
        "input": f"{spec.width_px} x {spec.height_px}, {spec.resize} to {spec.resize_px}, "
        f"{spec.interpolation}",
        "precision": found.precision,
        "calibration": _text(calibration_to_dict(found.calibration)),
    }
    if found.random_weights:
        facts["warning"] = "RANDOM WEIGHTS: its scores mean nothing"
    if found.parity:
        parity = found.parity
        facts["parity"] = (
            f"max {parity.max_error:.5f}, 99 % {parity.p99_error:.5f} over {parity.pictures} "
            f"pictures, against {parity.reference}"
        )
        facts["guard band"] = f"{parity.guard_band:g} logits; {_text(parity.details)}"
    return facts


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
