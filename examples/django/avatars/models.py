"""One row for each picture: a new picture is a new row, hence a new id."""

from __future__ import annotations

import re
import uuid
from pathlib import PurePath
from typing import Any

from django.conf import settings
from django.db import models

#: What follows the prefix in ids that this app gives.
_KEY = re.compile(r"[1-9][0-9]{0,17}")


def unguessable_name(_avatar: Avatar, filename: str) -> str:
    """Nobody finds the file by its name before it is approved."""
    suffix = re.sub(r"[^.a-z0-9]", "", PurePath(filename).suffix.lower())[:8]
    return f"avatars/{uuid.uuid4().hex}{suffix}"


class AvatarQuerySet(models.QuerySet["Avatar"]):
    """Avatars as the callback and the pages ask for them."""

    def of_upload(self, upload_id: str) -> AvatarQuerySet:
        """The avatar of an upload id; none where the id is somebody else's."""
        prefix: str = settings.AVATARMOD_PREFIX
        key = upload_id.removeprefix(prefix)
        is_ours = upload_id.startswith(prefix) and _KEY.fullmatch(key)
        return self.filter(pk=int(key)) if is_ours else self.none()

    def take(self, data: dict[str, Any]) -> bool:
        """Write down what became of an upload; False where it is not ours, or no news."""
        news = {"state": data["state"], "reason": data.get("reason_text") or ""}
        newer = self.of_upload(data["upload_id"]).filter(seq__lt=data["seq"])
        return bool(newer.update(seq=data["seq"], **news))


class Avatar(models.Model):
    """A picture that somebody uploaded."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="avatars"
    )
    picture = models.ImageField(upload_to=unguessable_name)
    #: `unsent` until the service has it; then as its API says.
    state = models.CharField(max_length=10, default="unsent", db_index=True)
    seq = models.BigIntegerField(default=0)
    #: For the owner, in words; empty while it is shown.
    reason = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    objects = AvatarQuerySet.as_manager()

    class Meta:
        """The newest picture counts."""

        ordering = ("-pk",)

    @property
    def upload_id(self) -> str:
        """As the service knows it."""
        return f"{settings.AVATARMOD_PREFIX}{self.pk}"

    @property
    def shown_url(self) -> str:
        """The picture, once it is approved; before that, and after a block, the default."""
        default: str = settings.AVATARMOD_DEFAULT_AVATAR
        return self.picture.url if self.state == "approved" else default


class Cursor(models.Model):
    """How far `/v1/changes` was read; one row."""

    value = models.CharField(max_length=100, blank=True)
