"""Talks to avatar-moderation: sends pictures, takes verdicts."""

from __future__ import annotations

import json
import logging
import re
from typing import Any, NamedTuple

import httpx
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from standardwebhooks import Webhook, WebhookVerificationError

from avatars.models import Avatar, Cursor

log = logging.getLogger(__name__)

#: Seconds that the service may take to accept a picture.
TIMEOUT_S = 10.0


#: `https://KEY@host?secret=whsec_...`
_CONNECTION = re.compile(r"(https?://)([\w-]+)@([^?#@]+)\?secret=(whsec_[\w+/=]+)")


class Connection(NamedTuple):
    """What the line says that `avatarmod keys connect` prints."""

    url: str
    key: str
    secret: str


def connection() -> Connection:
    """The service that the settings name."""
    found = _CONNECTION.fullmatch(settings.AVATARMOD_CONNECTION.strip())
    if found is None:
        raise ImproperlyConfigured(
            "AVATARMOD_CONNECTION is not the line that `avatarmod keys connect` prints"
        )
    scheme, key, place, secret = found.groups()
    return Connection(scheme + place, key, secret)


def client() -> httpx.Client:
    """The API, with the site's key."""
    service = connection()
    headers = {"X-API-Key": service.key}
    return httpx.Client(base_url=service.url, headers=headers, timeout=TIMEOUT_S)


def enqueue(avatar: Avatar) -> None:
    """Call after saving; sends once the row is committed. A task queue is the better place."""
    transaction.on_commit(lambda: send(avatar))


def send(avatar: Avatar) -> bool:
    """Send one picture; False where it must be sent again later, which is always safe."""
    try:
        with client() as api, avatar.picture.open("rb") as picture:
            answer = api.post(
                "/v1/uploads",
                data={"upload_id": avatar.upload_id, "subject": str(avatar.owner_id)},
                files={"image": picture},
            )
    except httpx.HTTPError as error:
        log.warning("%s was not sent: %s", avatar.upload_id, error)
        return False
    if answer.is_success:
        # The service's own word, for it may have known this id, and decided, long ago.
        Avatar.objects.take({"upload_id": avatar.upload_id, **answer.json()})
        return True
    if answer.status_code in (408, 429) or answer.status_code >= 500:
        log.warning("%s was not sent: HTTP %s", avatar.upload_id, answer.status_code)
        return False
    # The service will never take it: wrong key, wrong address, no picture.
    problem = answer.json().get("detail", "") if "json" in answer.headers["content-type"] else ""
    log.error("%s is refused: HTTP %s %s", avatar.upload_id, answer.status_code, problem)
    if answer.status_code in (413, 415, 422):
        Avatar.objects.filter(pk=avatar.pk, seq=0).update(state="rejected", reason=problem[:500])
    return False


def reconcile() -> int:
    """Take over every verdict since the last time, and send what was not; how many were news."""
    cursor, _ = Cursor.objects.get_or_create(pk=1)
    news, more = 0, True
    with client() as api:
        while more:
            answer = api.get("/v1/changes", params={"since": cursor.value, "limit": 500})
            if (
                answer.status_code == 410 and cursor.value
            ):  # away for longer than changes are listed
                cursor.value = ""
                continue
            page: dict[str, Any] = answer.raise_for_status().json()
            news += sum(Avatar.objects.take(change["data"]) for change in page["changes"])
            cursor.value, more = page["cursor"], page["more"]
            cursor.save()
    for avatar in Avatar.objects.filter(state="unsent"):
        send(avatar)
    return news


@csrf_exempt
@require_POST
def verdict(request: HttpRequest) -> HttpResponse:
    """The address that AVATARMOD_CALLBACK_URL names."""
    try:
        Webhook(connection().secret).verify(request.body, dict(request.headers))
    except WebhookVerificationError:
        return HttpResponse(status=401)
    event = json.loads(request.body)
    if event["type"] == "avatar.moderated":
        Avatar.objects.take(event["data"])
    # The answer to `avatarmod callbacks test`; of other types there is nothing to know yet.
    return HttpResponse(event["data"].get("nonce", ""), content_type="text/plain")
