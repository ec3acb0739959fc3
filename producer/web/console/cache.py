"""Remembers what is expensive to find out, for a few seconds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

#: Seconds that a value is used again before it is computed anew.
KEEP_S = 15.0

#: Most values kept.
MAX_KEPT = 200

T = TypeVar("T")


class TimedCache:
    """Values by name; two threads may compute the same one at once."""

    def __init__(self, keep_s: float = KEEP_S) -> None:
        self._keep_s = keep_s
        self._values: dict[str, tuple[float, Any]] = {}

    def get(self, name: str, compute: Callable[[], T]) -> T:
        """The kept value, or a new one."""
        at_s, value = self._values.get(name, (-math.inf, None))
        if time.monotonic() - at_s > self._keep_s:
            value = compute()
            self.put(name, value)
        return cast("T", value)

    def peek(self, name: str) -> Any:
        """The kept value, or None."""
        at_s, value = self._values.get(name, (-math.inf, None))
        return value if time.monotonic() - at_s <= self._keep_s else None

    def put(self, name: str, value: Any) -> None:
        """Keep a value; the oldest goes where there are too many."""
        self._values.pop(name, None)
        while len(self._values) >= MAX_KEPT:
            self._values.pop(next(iter(self._values)), None)
        self._values[name] = (time.monotonic(), value)
