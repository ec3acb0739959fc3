"""Who hears of an upload, and what is said of a transition."""

from __future__ import annotations

import json
import math
import time
from typing import cast

from producer.contract import NO_CALLBACK, Avatar, AvatarState, callback_url_of
from producer.record.base import Base
from producer.record.keyspace import Keyspace, endpoint_name
from producer.record.outbox import describe

#: Seconds for which a process trusts what it read of the default callback address.
DEFAULT_READ_EVERY_S = 5.0


class Hearers:
    """Knows the address of each upload's web tier; for uploads without one, the workers' word."""

    base: Base
    keys: Keyspace
    _default_callback_url: str
    _default_read: tuple[float, str]

    def announce_callback(self, url: str) -> None:
        """Say where callbacks of uploads go that name no address; empty for nowhere.

        To be called by workers as they start: whoever enqueues or decides with other settings, or
        with none, tells the same receiver.
        """
        said = url or NO_CALLBACK
        if self.base.redis.get(self.keys.callback_default) != said:
            self.base.redis.set(self.keys.callback_default, said)
        self._default_read = (-math.inf, "")

    def callback_url(self, avatar: Avatar) -> str:
        """Who hears of this upload; empty for nobody.

        The answer is in the record since it was accepted. One that was accepted without an
        address, as the version before did, goes where the workers say.
        """
        return callback_url_of(avatar, "" if avatar.callback_url else self._default_callback())

    def announced_callback(self) -> str:
        """The address that workers announced last; empty where none did."""
        said = cast("str | None", self.base.redis.get(self.keys.callback_default))
        return "" if said in (None, NO_CALLBACK) else str(said)

    def _default_callback(self) -> str:
        read_s, url = self._default_read
        if time.monotonic() - read_s > DEFAULT_READ_EVERY_S:
            said = cast("str | None", self.base.redis.get(self.keys.callback_default))
            url = self._default_callback_url if said is None else said
            self._default_read = (time.monotonic(), url)
        return "" if url == NO_CALLBACK else url

    def _callback(
        self, avatar: Avatar, to: AvatarState, fields: dict[str, str]
    ) -> dict[str, str] | None:
        """What the web tier is told of a transition; None where nobody hears of it."""
        url = self.callback_url(avatar)
        if not url:
            return None
        seq = avatar.seq + 1
        known = {**avatar.to_hash(), **fields}
        data = describe(avatar.upload_id, str(to), seq, str(avatar.region), known)
        return {
            "item": f"{avatar.upload_id}#{seq}",
            "endpoint": endpoint_name(url),
            "url": url,
            "data": json.dumps(data),
        }
