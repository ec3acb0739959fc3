"""Upstream of the queue: what a web tier needs to enqueue an upload and read its verdict.

from producer import enqueue
enqueue("user-17@2026-11-22T10:00", image="https://example.org/a/17.png", region="overseas")

Nothing here imports numpy, Pillow or onnxruntime, so an upload host stays small; nothing is printed
and no connection is opened before the first call. Log lines go to the host's logging, under
`producer`. For tests of a web tier: `producer.testing`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from producer.contract import Avatar, AvatarState, Enqueued, Priority, Region, Upload
from producer.enqueue import enqueue, enqueue_many
from producer.errors import (
    ConfigurationError,
    InvalidUpload,
    ModerationError,
    QueueFull,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from producer.client import Producer

__all__ = [
    "Avatar",
    "AvatarState",
    "ConfigurationError",
    "Enqueued",
    "InvalidUpload",
    "ModerationError",
    "Priority",
    "Producer",
    "QueueFull",
    "Region",
    "StorageUnavailable",
    "Upload",
    "enqueue",
    "enqueue_many",
]

# A host without logging of its own must not find our warnings on its standard error.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name == "Producer":
        from producer.client import Producer

        return Producer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
