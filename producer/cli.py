"""`avatarmod`: the one command line. A subcommand's module is imported only when it is used."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import sys
from typing import Any, NoReturn

import click
import redis

from producer.errors import ConfigurationError, ModerationError

#: Subcommand -> where its click command lives. Worker commands need the `worker` extra.
COMMANDS = {
    "enqueue": "producer.cli:enqueue_command",
    "status": "producer.cli:status_command",
    "up": "worker.commands.up:up",
    "worker": "worker.commands.worker:worker",
    "api": "worker.commands.api:api",
    "keys": "producer.commands.keys:keys",
    "users": "producer.commands.users:users",
    "scan": "worker.commands.scan:scan",
    "demo": "worker.commands.demo:demo",
    "approve": "producer.commands.decide:approve",
    "block": "producer.commands.decide:block",
    "undo": "producer.commands.decide:undo",
    "dlq": "producer.commands.dlq:dlq",
    "callbacks": "producer.commands.callbacks:callbacks",
    "doctor": "worker.commands.doctor:doctor",
    "providers": "worker.commands.providers:providers",
    "bundle": "worker.commands.bundle:bundle",
    "export": "worker.commands.export:export",
    "ledger": "worker.commands.ledger:ledger",
    "report": "worker.commands.report:report",
    "evaluate": "worker.commands.evaluate:evaluate_command",
    "calibrate": "worker.commands.calibrate:calibrate",
    "tune": "worker.commands.tune:tune",
    "backfill": "worker.commands.backfill:backfill",
    "shadow": "worker.commands.shadow:shadow",
    "rescan": "worker.commands.rescan:rescan",
}


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when it is called or asked for help."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of use, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one subcommand."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, attribute = place.partition(":")
        try:
            command = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in ("producer", "scripts"):
                raise
            missing = error.name
            return click.Command(
                cmd_name,
                help=f"Not installed: needs {missing}.",
                callback=lambda **_: _not_installed(cmd_name, missing),
                context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
            )
        assert isinstance(command, click.Command)
        return command


def _not_installed(command: str, module: str | None) -> None:
    raise ConfigurationError(
        f"`avatarmod {command}` needs the Python package {module!r}; install it with: "
        "pip install 'avatar-moderation[all]'"
    )


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="avatar-moderation")
def cli() -> None:
    """Keep pornographic avatars off your pages.

    Settings come from AVATARMOD_* environment variables; see README.md.
    """
    from producer.logs import quiet_logging

    quiet_logging()


@click.command("enqueue")
@click.argument("upload_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--image", help="Where the bytes are: a name in the store, s3://... or https://...")
@click.option("--region", type=click.Choice(["domestic", "overseas"]), help="Who may review it.")
@click.option(
    "--priority", type=click.Choice(["high", "normal", "low"]), default="normal", show_default=True
)
@click.option("--callback-url", help="Who hears of it, instead of AVATARMOD_CALLBACK_URL.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def enqueue_command(
    upload_ids: tuple[str, ...],
    image: str | None,
    region: str | None,
    priority: str,
    callback_url: str | None,
    as_json: bool,
) -> None:
    """Put uploads into the queue; an id that is already known changes nothing."""
    from producer.contract import check_upload_id
    from producer.enqueue import Producer

    if image and len(upload_ids) > 1:
        raise click.UsageError("--image names one picture; give one ID with it")
    for upload_id in upload_ids:
        check_upload_id(upload_id)
    producer = Producer.connect()
    answers = [
        producer.enqueue(
            upload_id, image, region=region, priority=priority, callback_url=callback_url
        )
        for upload_id in upload_ids
    ]
    if as_json:
        click.echo(
            json.dumps(
                [
                    {
                        "upload_id": answer.avatar.upload_id,
                        "state": answer.avatar.state,
                        "created": answer.created,
                    }
                    for answer in answers
                ]
            )
        )
        return
    for answer in answers:
        note = "accepted" if answer.created else "known already"
        click.echo(f"{answer.avatar.upload_id}  {answer.avatar.state}  ({note})")


@click.command("status")
@click.argument("upload_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON array.")
def status_command(upload_ids: tuple[str, ...], as_json: bool) -> None:
    """Show where uploads stand; exit code 1 when one is unknown."""
    from producer.connect import connect_store
    from producer.contract import check_upload_id
    from producer.settings import Settings, load_settings

    store = connect_store(load_settings(Settings))
    avatars = store.get_many([check_upload_id(upload_id) for upload_id in upload_ids])
    if as_json:
        rows = [
            dataclasses.asdict(avatar) if avatar else {"upload_id": upload_id, "state": "unknown"}
            for upload_id, avatar in zip(upload_ids, avatars, strict=True)
        ]
        click.echo(json.dumps(rows))
    else:
        for upload_id, avatar in zip(upload_ids, avatars, strict=True):
            click.echo(_status_line(upload_id, avatar))
    if None in avatars:
        raise SystemExit(1)


def _status_line(upload_id: str, avatar: Any) -> str:
    if avatar is None:
        return f"{upload_id}  unknown (never enqueued, or expired)"
    parts = [upload_id, str(avatar.state)]
    if avatar.probability is not None:
        parts.append(f"probability {avatar.probability:.3f}")
    parts += [part for part in (avatar.reason, avatar.decided_by) if part]
    return "  ".join(parts)


def main() -> None:
    """Entry point: errors of ours are one line on standard error, never a stack trace.

    Exit codes: 0 fine, 1 something failed, 2 wrong usage or configuration.
    """
    if not sys.stdout.isatty():
        # A file or a pipe has no width: tables must not fold to eighty columns there.
        os.environ.setdefault("COLUMNS", "160")
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.ClickException as error:
        if isinstance(error, click.UsageError) and error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        _fail(error.format_message(), error.exit_code)
    except ConfigurationError as error:
        _fail(str(error), 2)
    except ModerationError as error:
        _fail(str(error), 1)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("producer", "worker", "scripts"):
            raise
        hint = "install it with: pip install 'avatar-moderation[all]'"
        _fail(f"the Python package {error.name!r} is missing; {hint}", 2)
    except redis.RedisError as error:
        _fail(f"Redis stopped answering ({type(error).__name__}); see `avatarmod doctor`", 1)
    except BrokenPipeError:
        # Whoever read our output (`| head`) has gone; Python must not complain while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}", 1)


def _fail(message: str, code: int) -> NoReturn:
    click.echo(f"{click.style('error:', fg='red')} {message}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
