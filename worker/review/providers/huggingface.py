"""Hugging Face image classification: a dedicated endpoint, or the serverless road, by plain HTTP.

`huggingface_hub` sends raw bytes without a content type, which endpoints refuse, so the request is
made here.

Source: huggingface.co/docs (Inference Endpoints; Inference Providers, hf-inference, image
classification), August 2026.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar, Self

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
from producer.findings import Decision
from producer.texts import say
from worker.review.providers.base import Reply, ReviewProvider, by_cut_offs
from worker.review.providers.fields import check_cut_offs, needed
from worker.review.providers.huggingface_settings import HuggingFaceSettings
from worker.review.providers.wire import Answer, number, send

SERVERLESS = "https://router.huggingface.co/hf-inference/models"

#: How far the scores of one answer may be from adding up to one; they are rounded.
SUM_TOLERANCE = 0.05

#: HTTP statuses that only the operator can mend.
ADVICE = {
    401: say("AVATARMOD_HUGGINGFACE_TOKEN is refused: copy it again"),
    402: say("the account's credits are used up: add some, or use a dedicated endpoint"),
    403: say("the token may not call Inference Providers, or the model is gated"),
    404: say("the model is not served there: check AVATARMOD_HUGGINGFACE_MODEL and _ENDPOINT"),
}


class HuggingFaceProvider(ReviewProvider):
    """An image classifier served by Hugging Face."""

    name: ClassVar[str] = "huggingface"

    def __init__(self, settings: HuggingFaceSettings, token: str) -> None:
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

    @classmethod
    def from_settings(cls, settings: HuggingFaceSettings) -> Self:
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

    def _ask(self, jpeg: bytes, data_id: str) -> Reply:
        answer = send("POST", self._url, self._headers, jpeg)
        if answer.status != 200:
            raise _failure(answer)
        raw = answer.json()
        scores = _scores(raw)
        score = scores.get(self._label)
        if score is None:
            raise ProviderMisconfigured(
                say(
                    "{provider}: the model has the labels {scores}, not {label!r}: set "
                    "AVATARMOD_HUGGINGFACE_NSFW_LABEL",
                    provider="huggingface",
                    scores=", ".join(sorted(scores)),
                    label=self._label,
                )
            )
        return Reply(
            decision=self._decide(score, sum(scores.values())),
            score=score,
            labels=tuple(sorted(scores, key=scores.__getitem__, reverse=True)),
            request_id=answer.headers.get("x-request-id", ""),
            model_version=f"{self._model} {answer.headers.get('x-sha', '')}".strip(),
            raw=raw,
        )

    def _decide(self, score: float, total: float) -> Decision:
        decision = by_cut_offs(score, self._approve_to, self._block_from)
        # The scores of a whole answer add up to one; what is missing could be anything.
        if decision is Decision.APPROVE and abs(total - 1.0) > SUM_TOLERANCE:
            return Decision.UNCERTAIN
        return decision


def _scores(entries: Any) -> dict[str, float]:
    """Score by label in lower case; accepts `[{label, score}]` and the older `[[...]]`."""
    if isinstance(entries, list) and len(entries) == 1 and isinstance(entries[0], list):
        entries = entries[0]
    scores: dict[str, float] = {}
    for entry in entries if isinstance(entries, list) else ():
        label = entry.get("label") if isinstance(entry, dict) else None
        score = number(entry.get("score"), 1.0) if isinstance(entry, dict) else None
        if not isinstance(label, str) or score is None or label.casefold() in scores:
            raise ProviderAnswerUnknown(
                say(
                    "{provider} answered a label twice or without its score", provider="huggingface"
                )
            )
        scores[label.casefold()] = score
    if not scores:
        raise ProviderAnswerUnknown(
            say("{provider} answered without labels and scores", provider="huggingface")
        )
    return scores


def _failure(answer: Answer) -> ModerationError:
    status = answer.status
    if status in ADVICE:
        return ProviderMisconfigured(
            say(
                "{provider} {code}: {advice}",
                provider="huggingface",
                code=status,
                advice=ADVICE[status],
            )
        )
    after_s = answer.pause_s
    if status == 429:
        return ProviderRateLimited(
            say("{provider} {code}: too many calls", provider="huggingface", code=status),
            retry_after_s=after_s,
        )
    if status in (413, 422):
        return ProviderRejectedImage(
            say(
                "{provider} {code}: it does not take this picture",
                provider="huggingface",
                code=status,
            )
        )
    if status >= 500:
        # 503: the endpoint scales up from zero, or the model is loading.
        after_s = _estimated_s(answer) if after_s is None else after_s
        return ProviderUnavailable(
            say("{provider} answered {code}", provider="huggingface", code=status),
            retry_after_s=after_s,
        )
    # A dedicated endpoint answers 400 to every error of its handler, even when it is out of memory.
    return ProviderAnswerUnknown(
        say("{provider} answered {code}", provider="huggingface", code=status)
    )


def _estimated_s(answer: Answer) -> float | None:
    try:
        return min(120.0, max(0.0, float(answer.json_object()["estimated_time"])))
    except (ProviderAnswerUnknown, ValueError, KeyError, TypeError, OverflowError):
        return None
