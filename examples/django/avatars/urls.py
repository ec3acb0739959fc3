"""Where callbacks arrive."""

from __future__ import annotations

from django.urls import path

from avatars.moderation import verdict

urlpatterns = [path("avatars/verdict", verdict, name="avatar-verdict")]
