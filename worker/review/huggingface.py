"""Hugging Face image classification: a dedicated endpoint, or the serverless road, by plain HTTP.

`huggingface_hub` sends raw bytes without a content type, which endpoints refuse, so the request is
made here.

Source: huggingface.co/docs (Inference Endpoints; Inference Providers, hf-inference, image
classification), August 2026.
"""

from __future__ import annotations

import json
import re
from typing import Any, ClassVar, Self

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
from worker.review.wire import http_client, number, retry_after_s, send

SERVERLESS = "https://router.huggingface.co/hf-inference/models"

#: HTTP statuses that only the operator can mend.
ADVICE = {
    401: "AVATARMOD_HUGGINGFACE_TOKEN is refused: copy it again",
    402: "the account's credits are used up: add some, or use a dedicated endpoint",
    403: "the token may not call Inference Providers, or the model is gated",
    404: "the model is not served there: check AVATARMOD_HUGGINGFACE_MODEL and _ENDPOINT",
}


class HuggingFaceProvider(ReviewProvider):
    """An image classifier served by Hugging Face."""

    name: ClassVar[str] = "huggingface"

    def __init__(self, settings: ReviewSettings, token: str) -> None:
        super().__init__(settings)
        self._model = settings.huggingface_model
        self._label = settings.huggingface_nsfw_label.casefold()
        self._block_from = settings.huggingface_block_from
        self._approve_to = settings.huggingface_approve_to
        self._url = settings.huggingface_endpoint or f"{SERVERLESS}/{self._model}"
        self._headers = {
            "Authorization": f"Bearer {token}",
            "Content-Type": "image/jpeg",
            "Accept": "application/json",
        }
        if settings.huggingface_bill_to:
            self._headers["X-HF-Bill-To"] = settings.huggingface_bill_to
        self._client = http_client(self.connect_timeout_s, self.timeout_s)

    @classmethod
    def from_settings(cls, settings: ReviewSettings) -> Self:
        """See `ReviewProvider.from_settings`."""
        (token,) = needed(settings, "huggingface_token")
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", settings.huggingface_model):
            raise ConfigurationError(
                f"AVATARMOD_HUGGINGFACE_MODEL={settings.huggingface_model!r} is not of the form "
                "organisation/name"
            )
        check_cut_offs(cls.name, settings.huggingface_approve_to, settings.huggingface_block_from)
        return cls(settings, token)

    @property
    def home(self) -> Region | None:
        """Overseas."""
        return Region.OVERSEAS

    def _rules(self) -> tuple[str, ...]:
        cut_offs = f"{self._approve_to}:{self._block_from}"
        return (self._url, self._model, self._label, cut_offs)

    def close(self) -> None:
        """Close the connection pool."""
        self._client.close()

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        request = self._client.build_request("POST", self._url, content=jpeg, headers=self._headers)
        response = send(self.name, self._client, request)
        if response.status_code != 200:
            raise _failure(response)
        scores = _scores(response.content)
        score = scores.get(self._label)
        if score is None:
            raise ProviderMisconfigured(
                f"huggingface: the model has the labels {', '.join(sorted(scores))}, not "
                f"{self._label!r}: set AVATARMOD_HUGGINGFACE_NSFW_LABEL"
            )
        return Reply(
            decision=by_cut_offs(score, self._approve_to, self._block_from),
            score=score,
            labels=tuple(sorted(scores, key=scores.__getitem__, reverse=True)),
            request_id=response.headers.get("x-request-id", ""),
            model_version=f"{self._model} {response.headers.get('x-sha', '')}".strip(),
            raw=json.loads(response.content),
        )


def _scores(body: bytes) -> dict[str, float]:
    """Score by label in lower case; accepts `[{label, score}]` and the older `[[...]]`."""
    try:
        entries: Any = json.loads(body)
    except ValueError:
        raise ProviderAnswerUnknown("huggingface answered something that is not JSON") from None
    if isinstance(entries, list) and len(entries) == 1 and isinstance(entries[0], list):
        entries = entries[0]
    scores: dict[str, float] = {}
    for entry in entries if isinstance(entries, list) else ():
        score = number(entry.get("score"), 1.0) if isinstance(entry, dict) else None
        if score is not None and isinstance(entry.get("label"), str):
            scores[entry["label"].casefold()] = score
    if not scores:
        raise ProviderAnswerUnknown("huggingface answered without labels and scores")
    return scores


def _failure(response: httpx.Response) -> ModerationError:
    status = response.status_code
    if status in ADVICE:
        return ProviderMisconfigured(f"huggingface {status}: {ADVICE[status]}")
    after_s = retry_after_s(response.headers.get("retry-after"))
    if status == 429:
        return ProviderRateLimited("huggingface 429: too many calls", retry_after_s=after_s)
    if status in (413, 422):
        return ProviderRejectedImage(f"huggingface {status}: it does not take this picture")
    if status >= 500:
        # 503: the endpoint scales up from zero, or the model is loading.
        after_s = _estimated_s(response) if after_s is None else after_s
        return ProviderUnavailable(f"huggingface answered {status}", retry_after_s=after_s)
    # A dedicated endpoint answers 400 to every error of its handler, even when it is out of memory.
    return ProviderAnswerUnknown(f"huggingface answered {status}")


def _estimated_s(response: httpx.Response) -> float | None:
    try:
        return min(120.0, max(0.0, float(response.json()["estimated_time"])))
    except (ValueError, KeyError, TypeError):
        return None
