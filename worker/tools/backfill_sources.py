"""Where a backfill's pictures come from: a bucket, a folder, or a list of ids."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from producer.contract import Region, is_upload_id
from producer.errors import ConfigurationError
from producer.images import BACKFILL
from worker.settings import WorkerSettings
from worker.tools.backfill import Item, item_id
from worker.tools.files import pictures_below

#: Characters of a name that is taken as it is.
LONGEST_NAME = 60


def list_source(settings: WorkerSettings, source: str, prefix: str) -> Iterator[Item]:
    """Every picture of a source.

    Raises:
        ConfigurationError: there is no such source, the CSV lacks its column, or no id can begin
            with the prefix.
    """
    if not is_upload_id(prefix + "x"):
        raise ConfigurationError(
            f"--id-prefix {prefix[:80]!r} cannot begin an upload id: use A-Z a-z 0-9 . _ : @ / - "
            "and no part . or .. between slashes"
        )
    if source.startswith("s3://"):
        yield from _list_s3(settings, source, prefix)
    elif Path(source).is_dir():
        root = Path(source)
        for path in pictures_below(root):
            relative = path.relative_to(root).as_posix()
            yield Item(item_id(prefix, relative), _folder_reference(settings, root, relative))
    elif Path(source).is_file():
        yield from _list_csv(Path(source), prefix)
    else:
        raise ConfigurationError(f"no folder or file {source}")


def _folder_reference(settings: WorkerSettings, root: Path, relative: str) -> str:
    """The picture's name in the image store, where a copy is put if it does not lie there."""
    inside = _inside_store(settings, root)
    return (
        f"{inside}{relative}" if inside is not None else f"{BACKFILL}/{slug(str(root))}/{relative}"
    )


def _inside_store(settings: WorkerSettings, root: Path) -> str | None:
    store = settings.image_folder
    if store.startswith("s3://"):
        return None
    with contextlib.suppress(ValueError):
        inside = root.resolve().relative_to(Path(store).resolve()).as_posix()
        return "" if inside == "." else f"{inside}/"
    return None


def is_copied(settings: WorkerSettings, source: str) -> bool:
    """Whether the pictures lie where only this command can read them."""
    return Path(source).is_dir() and _inside_store(settings, Path(source)) is None


def _list_s3(settings: WorkerSettings, source: str, prefix: str) -> Iterator[Item]:
    from producer.s3 import make_s3_client

    parts = urlsplit(source)
    start = parts.path.lstrip("/")
    pages = make_s3_client(settings).get_paginator("list_objects_v2")
    for page in pages.paginate(Bucket=parts.netloc, Prefix=start):
        for entry in page.get("Contents", ()):
            key = entry["Key"]
            if entry["Size"]:
                relative = key[len(start) :].lstrip("/") or key
                yield Item(item_id(prefix, relative), f"s3://{parts.netloc}/{key}")


def _list_csv(path: Path, prefix: str) -> Iterator[Item]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if "upload_id" not in (reader.fieldnames or ()):
            raise ConfigurationError(
                f"{path} needs the column upload_id; it has: {', '.join(reader.fieldnames or ())}"
            )
        for number, row in enumerate(reader, start=2):
            region = (row.get("region") or "").strip()
            if region and region not in tuple(Region):
                raise ConfigurationError(
                    f"{path}, line {number}: region {region!r}; use {' or '.join(Region)}"
                )
            yield Item(prefix + row["upload_id"], (row.get("image") or "").strip(), region)


def slug(text: str) -> str:
    """A file name that tells sources apart; what it gives stays what it is."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", text).strip("-")
    if plain == text and len(text) <= LONGEST_NAME:
        return text
    return f"{plain[-40:].strip('-')}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
