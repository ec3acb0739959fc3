"""The app `avatars`: pictures of people that are shown once they are approved."""

from __future__ import annotations

from django.apps import AppConfig


class AvatarsConfig(AppConfig):
    """What INSTALLED_APPS names."""

    name = "avatars"
    default_auto_field = "django.db.models.BigAutoField"
