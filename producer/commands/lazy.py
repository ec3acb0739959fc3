"""A group of commands whose modules are imported only when they are used."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import click

from producer.errors import ConfigurationError
from producer.installed import how_to_install
from producer.tracing import plain_redis

#: Packages that only evaluation and tuning need, by the extra of that name.
TUNING = frozenset({"sklearn", "matplotlib", "jinja2", "markupsafe"})


class LazyGroup(click.Group):
    """A group that imports a subcommand's module when it is called or asked for help.

    Args:
        places: subcommand -> `module:attribute` of its click command, in the order of use; beside
            them the group may have ordinary ones.
        options: as `click.Group`.
    """

    def __init__(self, *, places: Mapping[str, str], **options: Any) -> None:
        super().__init__(**options)
        self._places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names in the order of use, not of the alphabet."""
        return [*self.commands, *self._places]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one subcommand."""
        place = self._places.get(cmd_name)
        if place is None:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = place.partition(":")
        try:
            command = getattr(_import(module), attribute)
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


def _import(module: str) -> ModuleType:
    """Import what stays without looking for garbage, neither now nor when Python ends.

    That would take a third of a short command's time.
    """
    gc.disable()
    try:
        with plain_redis():
            return importlib.import_module(module)
    finally:
        gc.freeze()
        gc.enable()


def _not_installed(command: str, module: str | None) -> None:
    extra = "tuning" if module in TUNING else "all"
    raise ConfigurationError(
        f"`avatarmod {command}` needs the Python package {module!r}; install it with: "
        + how_to_install(extra)
    )
