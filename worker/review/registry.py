"""Finds and builds the adapters that settings name; refuses what cannot or must not work."""

from __future__ import annotations

import importlib

from producer.contract import Region
from producer.errors import ConfigurationError
from worker.review.base import ReviewProvider
from worker.review.settings import ReviewSettings

#: Where each provider's adapter is; imported only when the provider is configured, because the SDKs
#: take memory: aliyun 25 MiB, aliyun2 38, tencent 9, cloudflare and huggingface 5 each, rekognition
#: 23; the three domestic ones together 40 (resident, with the client built, Python 3.11).
ADAPTERS = {
    "aliyun": "worker.review.aliyun:AliyunProvider",
    "aliyun2": "worker.review.aliyun2:Aliyun2Provider",
    "tencent": "worker.review.tencent:TencentProvider",
    "cloudflare": "worker.review.cloudflare:CloudflareProvider",
    "huggingface": "worker.review.huggingface:HuggingFaceProvider",
    "rekognition": "worker.review.rekognition:RekognitionProvider",
    "fake": "worker.review.fake:FakeProvider",
}


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
            f"{name} needs the package {error.name or error}: "
            "pip install 'avatar-moderation[review]'"
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
