"""`avatarmod export`: make a bundle of a model on the hub or in a folder."""

from __future__ import annotations

import click

from producer.installed import how_to_install

try:
    from worker.model.export.command import export
except ImportError as error:
    if (error.name or "").split(".")[0] not in ("onnx", "safetensors", "huggingface_hub"):
        raise
    _MISSING = error.name

    @click.command("export", context_settings={"ignore_unknown_options": True})
    @click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
    def export(arguments: tuple[str, ...]) -> None:
        """Make a bundle of an image classifier.

        Its options show when its packages are there; without them it says how to install them.
        """
        raise click.ClickException(
            f"{_MISSING} is not installed; exporting needs: " + how_to_install("export-light")
        )


__all__ = ["export"]
