"""Finds and builds the adapters that settings name; refuses what cannot or must not work."""

from __future__ import annotations

import importlib

from producer.contract import Region
from producer.errors import ConfigurationError
from producer.installed import how_to_install
from worker.review.providers import ADAPTERS
from worker.review.providers.base import ReviewProvider
from worker.review.settings import ReviewSettings


def build_provider(name: str, settings: ReviewSettings) -> ReviewProvider:
    """Import and build one adapter; no network is touched.

    Raises:
        ConfigurationError: a key, a package or a possible value is missing.
    """
    module_name, _, class_name = ADAPTERS[name].partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigurationError(
            f"{name} needs the package {error.name or error}: " + how_to_install("review")
        ) from error
    adapter: type[ReviewProvider] = getattr(module, class_name)
    return adapter.from_settings(settings)


def build_providers(settings: ReviewSettings) -> dict[str, ReviewProvider]:
    """Build every adapter that the routes name.

    Raises:
        ConfigurationError: lists what every provider lacks.
    """
    providers: dict[str, ReviewProvider] = {}
    problems: list[str] = []
    for name in settings.review_providers:
        try:
            providers[name] = build_provider(name, settings)
        except ConfigurationError as error:
            problems.append(str(error))
    if problems:
        raise ConfigurationError("review cannot start:\n  " + "\n  ".join(problems))
    return providers


def border_problems(settings: ReviewSettings, name: str, provider: ReviewProvider) -> list[str]:
    """Why a provider may not stand in its routes: pictures would leave their region unasked."""
    return [
        f"AVATARMOD_REVIEW_{region.upper()} names {name}, which is {provider.home}: {region} "
        f"pictures would leave their region; take it out, or add {region}:{name} to "
        "AVATARMOD_REVIEW_CROSS_BORDER"
        for region in Region
        if name in settings.route_of(region)
        and provider.home not in (None, region)
        and f"{region}:{name}" not in settings.review_cross_border
    ]
