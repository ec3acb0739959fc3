"""Cloudflare Workers AI: a Clef decision model, whose answer is a probability and not prose.

Source: developers.cloudflare.com/workers-ai (Clef models, REST API, limits, errors), October 2026.
"""

from __future__ import annotations

import base64
import json
import re
from typing import ClassVar, Self

from producer.contract import Region
from producer.errors import (
    ConfigurationError,
    ModerationError,
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRateLimited,
    ProviderRejectedImage,
    ProviderUnavailable,
)
from producer.texts import say
from worker.review.providers.base import Reply, ReviewProvider, by_cut_offs
from worker.review.providers.cloudflare_settings import CloudflareSettings
from worker.review.providers.fields import check_cut_offs, needed
from worker.review.providers.wire import Answer, number, send

DEFAULT_ENDPOINT = "https://api.cloudflare.com/client/v4"

#: (HTTP status, code) that only the operator can mend; None: any code. 5012 is ours with 422 and
#: theirs with 529, so the pair decides.
ADVICE: dict[tuple[int, int | None], str] = {
    (401, None): say("AVATARMOD_CLOUDFLARE_API_TOKEN is refused: copy it again"),
    (403, 10000): say("the token lacks the permissions Workers AI Read and Edit"),
    (403, 9109): say("the token lacks the permissions Workers AI Read and Edit"),
    (403, 5016): say("the model's licence must be agreed to once in this account"),
    (403, 5035): say("the model needs a paid plan"),
    (403, None): say("the account may not use this model"),
    (404, 7003): say("AVATARMOD_CLOUDFLARE_ACCOUNT_ID is not an account of this token"),
    (400, 7003): say("AVATARMOD_CLOUDFLARE_ACCOUNT_ID is not an account of this token"),
    (400, 5007): say("AVATARMOD_CLOUDFLARE_MODEL does not exist"),
    (404, None): say("AVATARMOD_CLOUDFLARE_MODEL or the endpoint does not exist"),
    (405, None): say("AVATARMOD_CLOUDFLARE_ENDPOINT is not the Workers AI API"),
    # The free allocation is spent; the documents say 3036, the live service says 4006.
    (429, 3036): say("the free daily allocation is spent: wait for 00:00 UTC or upgrade the plan"),
    (429, 4006): say("the free daily allocation is spent: wait for 00:00 UTC or upgrade the plan"),
}

#: (HTTP status, code) that mean: never this picture.
REJECTED = frozenset(
    {(400, 5004), (400, 3003), (400, 6003), (422, 5012), (413, 3006), (413, 5021), (413, None)}
)


class CloudflareProvider(ReviewProvider):
    """Workers AI with a Clef model."""

    name: ClassVar[str] = "cloudflare"
    #: The documents say 4 MiB; bodies over some 492 KB were refused in tests by others, and over
    #: 260 KB at times. A 512 px JPEG has about 60 KB.
    max_image_bytes: ClassVar[int] = 180_000

    def __init__(self, settings: CloudflareSettings, account_id: str, token: str) -> None:
        super().__init__(settings)
        self._model = settings.cloudflare_model
        self._state = settings.cloudflare_state
        self._question = settings.cloudflare_question
        self._block_from = settings.cloudflare_block_from
        self._approve_to = settings.cloudflare_approve_to
        base = settings.cloudflare_endpoint or DEFAULT_ENDPOINT
        self._url = f"{base}/accounts/{account_id}/ai/run/{self._model}"
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "application/json",
        }

    @classmethod
    def from_settings(cls, settings: CloudflareSettings) -> Self:
        """See `ReviewProvider.from_settings`."""
        account_id, token = needed(settings, "cloudflare_account_id", "cloudflare_api_token")
        if not re.fullmatch(r"[0-9a-f]{32}", account_id):
            raise ConfigurationError(
                f"AVATARMOD_CLOUDFLARE_ACCOUNT_ID={account_id!r} is not 32 hexadecimal digits; "
                "it stands on the overview page of the account"
            )
        if not re.fullmatch(r"@cf/cloudflare/clef[a-z0-9-]*", settings.cloudflare_model):
            raise ConfigurationError(
                f"AVATARMOD_CLOUDFLARE_MODEL={settings.cloudflare_model!r} is not a Clef decision "
                "model; use @cf/cloudflare/clef-flash, @cf/cloudflare/clef or "
                "@cf/cloudflare/clef-omni"
            )
        check_cut_offs(cls.name, settings.cloudflare_approve_to, settings.cloudflare_block_from)
        return cls(settings, account_id, token)

    @property
    def home(self) -> Region | None:
        """Overseas."""
        return Region.OVERSEAS

    def _rules(self) -> tuple[str, ...]:
        cut_offs = f"{self._approve_to}:{self._block_from}"
        return (self._model, self._state, self._question, cut_offs)

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        body = {
            "model": self._model.rpartition("/")[2],
            "state": self._state,
            "questions": {"explicit": {"type": "noul", "instructions": self._question}},
            "images": [f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"],
        }
        answer = send("POST", self._url, self._headers, json.dumps(body))
        if answer.status != 200:
            raise _failure(answer)
        return self._read(answer)

    def _read(self, answer: Answer) -> Reply:
        reply = answer.json_object()
        result = reply.get("result")
        answers = result.get("answers") if isinstance(result, dict) else None
        found = answers.get("explicit") if isinstance(answers, dict) else None
        is_whole = reply.get("success") is True and not reply.get("errors")
        score = None
        if isinstance(found, dict) and found.get("type") == "noul":
            score = number(found.get("noul"), 1.0)
        if not is_whole or score is None:
            raise ProviderAnswerUnknown(
                say("{provider} answered without the probability asked for", provider="cloudflare")
            )
        return Reply(
            decision=by_cut_offs(score, self._approve_to, self._block_from),
            score=score,
            labels=("explicit",) if score >= self._block_from else (),
            request_id=answer.headers.get("cf-ray") or answer.headers.get("cf-ai-req-id", ""),
            model_version=str(result.get("model", "")) if isinstance(result, dict) else "",
            raw=reply,
        )


def _failure(answer: Answer) -> ModerationError:
    status, code = answer.status, _code(answer)
    for pair in ((status, code), (status, None)):
        if pair in ADVICE:
            return ProviderMisconfigured(
                say(
                    "{provider} {code}: {advice}",
                    provider="cloudflare",
                    code=f"{status}/{code}",
                    advice=ADVICE[pair],
                )
            )
        if pair in REJECTED:
            return ProviderRejectedImage(
                say(
                    "{provider} {code}: it does not take this picture",
                    provider="cloudflare",
                    code=f"{status}/{code}",
                )
            )
    if status == 429:
        return ProviderRateLimited(
            say(
                "{provider} {code}: too many calls or no capacity",
                provider="cloudflare",
                code=f"{status}/{code}",
            ),
            retry_after_s=answer.pause_s,
        )
    if status == 408 or status >= 500:
        return ProviderUnavailable(
            say(
                "{provider} {code}: it could not judge the picture now",
                provider="cloudflare",
                code=f"{status}/{code}",
            )
        )
    return ProviderAnswerUnknown(
        say("{provider} answered {code}", provider="cloudflare", code=f"{status}/{code}")
    )


def _code(answer: Answer) -> int | None:
    try:
        return int(answer.json_object()["errors"][0]["code"])
    except (ProviderAnswerUnknown, ValueError, KeyError, IndexError, TypeError, OverflowError):
        return None
