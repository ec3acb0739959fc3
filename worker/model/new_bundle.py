"""A bundle's folder, which is there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from producer.errors import BundleError
from worker.model.bundle import DESCRIPTION_FILE, Bundle


@contextlib.contextmanager
def new_bundle(target: Path) -> Iterator[Path]:
    """A folder to be filled, which takes its place when what is in it can be loaded.

    Raises:
        BundleError: the place is taken, it cannot be written, or what is in it is no bundle;
            nothing is left.
    """
    if target.exists():
        raise BundleError(f"{target} exists already; choose another name or remove it")
    target.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        yield work
        Bundle.load(f"{work}/", target.parent)
        work.chmod(0o755)
        os.rename(work, target)
    except OSError as error:
        raise BundleError(f"{target} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def copy_bundle(original: Bundle, data: dict[str, Any], target: Path) -> Bundle:
    """A bundle with the files of another and a description of its own.

    Raises:
        BundleError: as `new_bundle`.
    """
    with new_bundle(target) as work:
        for path in original.folder.iterdir():
            if path.is_file() and path.name != DESCRIPTION_FILE:
                shutil.copy2(path, work / path.name)
        write_description(work, data)
    return Bundle.load(f"{target}/", target.parent)


def write_description(folder: Path, data: dict[str, Any]) -> None:
    """What the bundle is, for `Bundle.load`."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    (folder / DESCRIPTION_FILE).write_text(text, encoding="utf-8")
