"""`avatarmod up`: everything one machine needs, until Ctrl-C."""

from __future__ import annotations

import click

from worker.process.copies import Template
from worker.resources import hide_memory


@click.command()
def up() -> None:
    """Run broker (if none is configured) and workers until Ctrl-C or SIGTERM."""
    hide_memory()
    # First of all: what workers import takes longest, and is imported beside all that follows.
    template = Template()
    template.start()
    try:
        _run(template)
    finally:
        template.stop()


def _run(template: Template) -> None:
    import structlog
    from rich.console import Console

    from producer.logs import configure_logging
    from producer.settings import load_settings
    from worker.commands.banner import print_banner
    from worker.process.supervisor import Supervisor, stop_on_signals
    from worker.settings import WorkerSettings, unknown_variables

    settings = load_settings(WorkerSettings)
    configure_logging(settings, "up")
    for name, nearest in unknown_variables().items():
        structlog.get_logger().warning("unknown_setting", name=name, nearest=nearest, effect="none")
    stop = stop_on_signals()
    with Supervisor(settings, stop=stop, template=template) as supervisor:
        print_banner(Console(stderr=True), supervisor.facts(), settings)
        supervisor.run_until(stop)
