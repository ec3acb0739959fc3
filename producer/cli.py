"""`avatarmod`: the one command line. A subcommand's module is imported only when it is used."""

from __future__ import annotations

import logging
import os
import sys
from typing import NoReturn

import click

from producer.commands.lazy import LazyGroup
from producer.errors import ConfigurationError, ModerationError
from producer.installed import how_to_install

#: Subcommand -> where its click command lives. Worker commands need the `worker` extra.
COMMANDS = {
    "init": "worker.commands.init:init",
    "config": "worker.commands.config:config",
    "enqueue": "producer.commands.enqueue:enqueue",
    "status": "producer.commands.status:status",
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
    "retry": "producer.commands.decide:retry",
    "forget": "worker.commands.forget:forget",
    "memory": "producer.commands.memory:memory",
    "dlq": "producer.commands.dlq:dlq",
    "callbacks": "producer.commands.callbacks:callbacks",
    "doctor": "worker.commands.doctor:doctor",
    "providers": "worker.commands.providers:providers",
    "bundle": "worker.commands.bundle:bundle",
    "policy": "worker.commands.policy:policy",
    "export": "worker.commands.export:export",
    "ledger": "worker.commands.ledger:ledger",
    "backup": "worker.commands.backup:backup",
    "restore": "worker.commands.restore:restore",
    "report": "worker.commands.report:report",
    "evaluate": "worker.commands.evaluate:evaluate_command",
    "calibrate": "worker.commands.calibrate:calibrate",
    "tune": "worker.commands.tune:tune",
    "backfill": "worker.commands.backfill:backfill",
    "shadow": "worker.commands.shadow:shadow",
    "rescan": "worker.commands.rescan:rescan",
}

#: Subcommands that people wait for and scripts call in a loop: nothing on their way imports
#: structlog, which would bring a third of what they load.
PLAIN = frozenset({"enqueue", "status", "doctor", "up"})

#: As the others' warnings look.
PLAIN_FORMAT = "%(asctime)s [%(levelname)s] %(message)s"


@click.group(
    cls=LazyGroup, places=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(package_name="avatar-moderation")
def cli() -> None:
    """Keep pornographic avatars off your pages.

    Settings are AVATARMOD_* variables, in the environment or in the file .env of this folder
    (AVATARMOD_ENV_FILE names another); `avatarmod config show` says what holds.
    """
    from producer.environment import adopt

    if click.get_current_context().invoked_subcommand in PLAIN:
        logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format=PLAIN_FORMAT)
    else:
        from producer.logs import quiet_logging

        quiet_logging()
    adopt()


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
        if error.format_message().startswith("Usage:"):
            # A group without a subcommand: this is its whole help.
            click.echo(error.format_message(), err=True)
            sys.exit(error.exit_code)
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
        hint = f"install it with: {how_to_install('all')}"
        _fail(f"the Python package {error.name!r} is missing; {hint}", 2)
    except BrokenPipeError:
        # Whoever read our output (`| head`) has gone; Python must not complain while it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.filename is None:
            raise
        _fail(f"{error.filename}: {error.strerror}", 1)
    except Exception as error:
        from redis import RedisError

        if not isinstance(error, RedisError):
            raise
        _fail(f"Redis stopped answering ({type(error).__name__}); see `avatarmod doctor`", 1)


def _fail(message: str, code: int) -> NoReturn:
    from producer.plain import plain

    click.echo(f"{click.style('error:', fg='red')} {plain(message)}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
