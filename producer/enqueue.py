"""The way into the queue for a web tier, on a producer made from the environment once per process.

What it takes is imported with the first call, so that importing costs a host nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from producer.contract import Enqueued as Enqueued
from producer.contract import Priority, Region
from producer.contract import Upload as Upload
from producer.errors import ModerationError

if TYPE_CHECKING:
    from producer.client import Producer as Producer


@functools.cache
def _shared_producer() -> Producer:
    from producer.client import Producer

    return Producer.connect()


def enqueue(
    upload_id: str,
    image: str | None = None,
    *,
    region: Region | str | None = None,
    priority: Priority | str = Priority.NORMAL,
    callback_url: str | None = None,
    subject: str | None = None,
    language: str | None = None,
) -> Enqueued:
    """Accept one upload; see `Producer.enqueue` for arguments and errors.

    Raises:
        ConfigurationError: a setting is unusable or Redis does not answer at the first call.
    """
    return _shared_producer().enqueue(
        upload_id,
        image,
        region=region,
        priority=priority,
        callback_url=callback_url,
        subject=subject,
        language=language,
    )


def enqueue_many(uploads: Sequence[Upload]) -> list[Enqueued | ModerationError]:
    """Accept several uploads in one round trip; see `Producer.enqueue_many`.

    Raises:
        ConfigurationError: a setting is unusable or Redis does not answer at the first call.
    """
    return _shared_producer().enqueue_many(uploads)


def __getattr__(name: str) -> Any:
    if name == "Producer":
        from producer.client import Producer

        return Producer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
