"""Cloudflare Workers AI: a Clef decision model, whose answer is a probability and not prose.

Source: developers.cloudflare.com/workers-ai (Clef models, REST API, limits, errors), October 2026.
"""

from __future__ import annotations

import base64
import re
from typing import ClassVar, Self

import httpx

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
from worker.review.base import Reply, ReviewProvider, by_cut_offs, check_cut_offs, needed
from worker.review.settings import ReviewSettings
from worker.review.wire import as_json_object, http_client, number, retry_after_s, send

DEFAULT_ENDPOINT = "https://api.cloudflare.com/client/v4"

#: (HTTP status, code) that only the operator can mend; None: any code. 5012 is ours with 422 and
#: theirs with 529, so the pair decides.
ADVICE: dict[tuple[int, int | None], str] = {
    (401, None): "AVATARMOD_CLOUDFLARE_API_TOKEN is refused: copy it again",
    (403, 10000): "the token lacks the permissions Workers AI Read and Edit",
    (403, 9109): "the token lacks the permissions Workers AI Read and Edit",
    (403, 5016): "the model's licence must be agreed to once in this account",
    (403, 5035): "the model needs a paid plan",
    (403, None): "the account may not use this model",
    (404, 7003): "AVATARMOD_CLOUDFLARE_ACCOUNT_ID is not an account of this token",
    (400, 7003): "AVATARMOD_CLOUDFLARE_ACCOUNT_ID is not an account of this token",
    (400, 5007): "AVATARMOD_CLOUDFLARE_MODEL does not exist",
    (404, None): "AVATARMOD_CLOUDFLARE_MODEL or the endpoint does not exist",
    (405, None): "AVATARMOD_CLOUDFLARE_ENDPOINT is not the Workers AI API",
    # The free allocation is spent; the documents say 3036, the live service says 4006.
    (429, 3036): "the free daily allocation is spent: wait for 00:00 UTC or upgrade the plan",
    (429, 4006): "the free daily allocation is spent: wait for 00:00 UTC or upgrade the plan",
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

    def __init__(self, settings: ReviewSettings, account_id: str, token: str) -> None:
        super().__init__(settings)
        self._model = settings.cloudflare_model
        self._state = settings.cloudflare_state
        self._question = settings.cloudflare_question
        self._block_from = settings.cloudflare_block_from
        self._approve_to = settings.cloudflare_approve_to
        base = settings.cloudflare_endpoint or DEFAULT_ENDPOINT
        self._url = f"{base}/accounts/{account_id}/ai/run/{self._model}"
        self._headers = {"Authorization": f"Bearer {token}"}
        self._client = http_client(self.connect_timeout_s, self.timeout_s)

    @classmethod
    def from_settings(cls, settings: ReviewSettings) -> Self:
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

    def close(self) -> None:
        """Close the connection pool."""
        self._client.close()

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        body = {
            "model": self._model.rpartition("/")[2],
            "state": self._state,
            "questions": {"explicit": {"type": "noul", "instructions": self._question}},
            "images": [f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"],
        }
        request = self._client.build_request("POST", self._url, json=body, headers=self._headers)
        response = send(self.name, self._client, request)
        if response.status_code != 200:
            raise _failure(response)
        return self._read(response)

    def _read(self, response: httpx.Response) -> Reply:
        reply = as_json_object(self.name, response.content)
        result = reply.get("result")
        answers = result.get("answers") if isinstance(result, dict) else None
        answer = answers.get("explicit") if isinstance(answers, dict) else None
        score = number(answer.get("noul"), 1.0) if isinstance(answer, dict) else None
        if reply.get("success") is not True or score is None:
            raise ProviderAnswerUnknown("cloudflare answered without the probability asked for")
        return Reply(
            decision=by_cut_offs(score, self._approve_to, self._block_from),
            score=score,
            labels=("explicit",) if score >= self._block_from else (),
            request_id=response.headers.get("cf-ray") or response.headers.get("cf-ai-req-id", ""),
            model_version=str(result.get("model", "")) if isinstance(result, dict) else "",
            raw=reply,
        )


def _failure(response: httpx.Response) -> ModerationError:
    status, code = response.status_code, _code(response)
    for pair in ((status, code), (status, None)):
        if pair in ADVICE:
            return ProviderMisconfigured(f"cloudflare {status}/{code}: {ADVICE[pair]}")
        if pair in REJECTED:
            return ProviderRejectedImage(f"cloudflare {status}/{code}: it takes no such picture")
    if status == 429:
        return ProviderRateLimited(
            f"cloudflare {status}/{code}: too many calls or no capacity",
            retry_after_s=retry_after_s(response.headers.get("retry-after")),
        )
    if status == 408 or status >= 500:
        return ProviderUnavailable(f"cloudflare {status}/{code}: it could not answer now")
    return ProviderAnswerUnknown(f"cloudflare answered {status}/{code}")


def _code(response: httpx.Response) -> int | None:
    try:
        return int(response.json()["errors"][0]["code"])
    except (ValueError, KeyError, IndexError, TypeError):
        return None
