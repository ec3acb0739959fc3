"""Labelled pictures to judge a model by: a folder per label, a CSV manifest, or the ledger itself.

A picture's `explicit` is its true label. Reading gives references and labels; the bytes are read
one at a time by whoever scores them.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from producer.contract import AvatarState
from producer.errors import ConfigurationError
from worker.ledger.queries import LedgerReads
from worker.tools.files import pictures_below

#: Folder and label names that say explicit, in lower case.
EXPLICIT = frozenset(
    ["explicit", "nsfw", "porn", "hentai", "unsafe", "blocked", "block", "1", "true", "bad"]
)

#: Folder and label names that say harmless, in lower case.
HARMLESS = frozenset(
    [
        *("harmless", "sfw", "safe", "neutral", "normal", "approved", "approve", "clean"),
        *("0", "false", "good", "ok", "drawings"),
    ]
)

#: Names of styles, as a manifest's column or a folder below the label.
STYLES = {"drawn": "drawn", "drawing": "drawn", "anime": "drawn", "photo": "photo"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labelled:
    """One picture with its true label.

    Args:
        name: how it is called in reports.
        read: gives its bytes.
        explicit: the label.
        style: `drawn` or `photo` where somebody said so; empty: the style head is asked.
        labelled_by: who said so, for example `folder`, `operator:eve`, `review:tencent`.
        sample: `audit` of an approval that was drawn at random, `gray` of what was gray or
            overruled, else empty: what the data set makes of it.
    """

    name: str
    read: Callable[[], bytes]
    explicit: bool
    style: str = ""
    labelled_by: str = "folder"
    sample: Literal["audit", "gray", ""] = ""


@dataclasses.dataclass(frozen=True)
class Words:
    """Which label words mean what; extends the built-in ones."""

    explicit: frozenset[str] = EXPLICIT
    harmless: frozenset[str] = HARMLESS

    @classmethod
    def with_more(cls, explicit: Iterable[str], harmless: Iterable[str]) -> Words:
        """The built-in words and the operator's, which win."""
        more_explicit = frozenset(word.lower() for word in explicit)
        more_harmless = frozenset(word.lower() for word in harmless)
        both = more_explicit & more_harmless
        if both:
            raise ConfigurationError(f"label {min(both)!r} cannot be explicit and harmless")
        return cls(
            (EXPLICIT | more_explicit) - more_harmless, (HARMLESS | more_harmless) - more_explicit
        )

    def is_explicit(self, word: str) -> bool | None:
        """True, False, or None for a word that says neither."""
        if word.lower() in self.explicit:
            return True
        return False if word.lower() in self.harmless else None


def read_dataset(path: Path, words: Words | None = None) -> list[Labelled]:
    """Read a folder per label, or a CSV manifest.

    Raises:
        ConfigurationError: a label is not understood, a file is missing, or nothing was found.
    """
    words = words or Words()
    found = _from_manifest(path, words) if path.is_file() else _from_folders(path, words)
    if not found:
        raise ConfigurationError(
            f"no pictures in {path}; expected folders such as {path}/harmless and {path}/explicit"
        )
    return found


def all_harmless(path: Path) -> list[Labelled]:
    """Every picture below a folder, as harmless: for the false-alarm side alone."""
    return [_labelled(file, path, False) for file in pictures_below(path)]


def _from_folders(root: Path, words: Words) -> list[Labelled]:
    found: list[Labelled] = []
    strange = []
    for folder in sorted(entry for entry in root.iterdir() if entry.is_dir()):
        explicit = words.is_explicit(folder.name)
        files = pictures_below(folder)
        if explicit is None and files:
            strange.append(folder.name)
            continue
        found += [_labelled(file, root, bool(explicit)) for file in files]
    if strange:
        raise ConfigurationError(
            f"{root}: folders {', '.join(strange)} are no labels; name them with --explicit or "
            "--harmless, or say --all-harmless if no picture is explicit"
        )
    return found


def _labelled(file: Path, root: Path, explicit: bool) -> Labelled:
    parts = file.relative_to(root).parts
    style = next((STYLES[p.lower()] for p in parts[:-1] if p.lower() in STYLES), "")
    return Labelled(
        name=str(file.relative_to(root)), read=file.read_bytes, explicit=explicit, style=style
    )


def _from_manifest(path: Path, words: Words) -> list[Labelled]:
    found = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if not {"path", "label"} <= set(reader.fieldnames or ()):
            raise ConfigurationError(
                f"{path} needs the columns path and label (and may have style); it has: "
                f"{', '.join(reader.fieldnames or ()) or 'none'}"
            )
        for number, row in enumerate(reader, start=2):
            explicit = words.is_explicit((row["label"] or "").strip())
            picture = path.parent / (row["path"] or "")
            if explicit is None:
                raise ConfigurationError(
                    f"{path}, line {number}: label {row['label']!r} is not understood; use "
                    "explicit or harmless, or name it with --explicit or --harmless"
                )
            if not picture.is_file():
                raise ConfigurationError(f"{path}, line {number}: no file {picture}")
            style = STYLES.get((row.get("style") or "").strip().lower(), "")
            found.append(
                Labelled(
                    name=row["path"],
                    read=picture.read_bytes,
                    explicit=explicit,
                    style=style,
                    labelled_by="manifest",
                )
            )
    return found


def from_ledger(
    ledger: LedgerReads, fetch: Callable[[str, str], bytes], *, operators_only: bool = False
) -> list[Labelled]:
    """Every content that a person or a provider judged, with that word as its label.

    Gray pictures and overruled ones have such a label, which is no fair sample of all uploads;
    audited approvals are one of what passes. Each says which it is, and reports must too.

    Args:
        ledger: who said what.
        fetch: image reference and upload id to bytes.
        operators_only: leave out what only a provider said.
    """
    audited = ledger.audit_labels()
    labels = audited | ledger.labels()
    images = {
        row["upload_id"]: str(row["detail"].get("image", ""))
        for row in ledger.stream(kind="transition")
        if not row["from_state"]
    }
    found = {}
    for row in ledger.stream(kind="transition"):
        label = labels.get(row["sha256"])
        if label is None or row["from_state"] != AvatarState.QUEUED:
            continue
        if operators_only and not label[1].startswith("operator"):
            continue
        upload_id = row["upload_id"]
        found[row["sha256"]] = Labelled(
            name=upload_id,
            read=_reader(fetch, images.get(upload_id, ""), upload_id),
            explicit=label[0],
            style=row["style"],
            labelled_by=label[1],
            sample="audit" if row["sha256"] in audited else "gray",
        )
    return list(found.values())


def _reader(fetch: Callable[[str, str], bytes], image: str, upload_id: str) -> Callable[[], bytes]:
    return lambda: fetch(image, upload_id)
