"""For cron, every few minutes: what a callback did not bring, and what was not sent."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand

from avatars.moderation import reconcile


class Command(BaseCommand):
    """`manage.py reconcile_avatars`."""

    help = "Takes over verdicts since the last run and sends avatars that were not sent."

    def handle(self, *_: Any, **__: Any) -> None:
        """Say how many were news."""
        self.stdout.write(f"{reconcile()} verdicts taken over")
