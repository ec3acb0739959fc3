"""Which bundle is in use: `current` under the models folder points to it, `previous` to the last.

Workers with `AVATARMOD_BUNDLE=current` start again with what it points to.
"""

from __future__ import annotations

from pathlib import Path

from producer.errors import BundleError
from worker.model.bundle import Bundle

#: Name under the models folder that points to the promoted bundle, and to the one before it.
CURRENT, PREVIOUS = "current", "previous"


def promote(name: str, models_folder: Path) -> Bundle:
    """Let `current` point to a bundle and `previous` to the one before; a no-op if it does already.

    Raises:
        BundleError: the bundle is missing, incomplete or altered; nothing was changed.
    """
    bundle = Bundle.load(name, models_folder)
    folder = bundle.folder.resolve()
    current = models_folder / CURRENT
    if current.exists() and current.resolve() == folder:
        return bundle
    # In this order: killed in between, `previous` is what is in use, and never an older one.
    if current.is_symlink():
        _point(models_folder / PREVIOUS, current.resolve())
    _point(current, folder)
    return bundle


def roll_back(models_folder: Path) -> Bundle:
    """Let `current` point to where it pointed before the last promotion.

    Raises:
        BundleError: nothing was promoted before, or it is not intact any more.
    """
    previous = models_folder / PREVIOUS
    if not previous.is_symlink():
        raise BundleError(
            f"no bundle was promoted before in {models_folder}: nothing to go back to"
        )
    if previous.resolve() == (models_folder / CURRENT).resolve():
        raise BundleError(
            f"the last promotion in {models_folder} was interrupted: `previous` is the bundle in "
            "use; name the one to go back to with `avatarmod bundle promote`"
        )
    return promote(f"{previous.resolve()}/", models_folder)


def _point(link: Path, folder: Path) -> None:
    if link.exists() and not link.is_symlink():
        raise BundleError(f"{link} is a bundle's own folder; rename it, promotion needs the name")
    link.parent.mkdir(parents=True, exist_ok=True)
    work = link.with_name(f".{link.name}.new")
    work.unlink(missing_ok=True)
    work.symlink_to(folder, target_is_directory=True)
    work.replace(link)
