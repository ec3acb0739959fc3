"""Who has which picture in front of them: short claims, so that two people see other pictures.

A claim is a courtesy, not a lock: what a decision changes is guarded by the record itself. It ends
with the decision, or by itself when nobody renews it: a person who went away holds nothing up.
"""

from __future__ import annotations

from collections.abc import Sequence

from producer.contract import AvatarState
from producer.record.store import Store

#: Seconds that a picture stays with a person who does nothing; an open page renews it.
CLAIM_S = 60.0

#: Waiting pictures that are looked at for some that nobody has.
LOOKS = 2000


class Claims:
    """Gives pictures to people. Safe to share between threads; shared through Redis."""

    def __init__(self, store: Store) -> None:
        self._base = store.base

    def take(self, by: str, lane: str, count: int, *, at: str = "") -> list[str]:
        """The longest waiting pictures that nobody else has, at most `count`.

        Args:
            by: the person's name.
            lane: `held`, `reviewing`, `appeals` or `audits`; what is appealed is not in `held`.
            count: 1 or more.
            at: the upload to begin with; those that wait longer are passed over.
        """
        return self._run(by, lane, count=count, looks=LOOKS, at=at or None)

    def renew(self, by: str, lane: str, upload_ids: Sequence[str]) -> list[str]:
        """Keep these for another minute; returns those that are theirs, without others' ones."""
        return self._run(by, lane, count=len(upload_ids), ids=list(upload_ids), looks=0)

    def release(self, by: str, upload_ids: Sequence[str]) -> None:
        """Let go of these; what somebody else has stays theirs."""
        mine = [one for one, who in self.holders(upload_ids).items() if who == by]
        if mine:
            keys, pipe = self._base.keys, self._base.redis.pipeline(transaction=True)
            pipe.hdel(keys.claims, *mine)
            pipe.zrem(keys.claims_until, *mine)
            pipe.execute()

    def holders(self, upload_ids: Sequence[str]) -> dict[str, str]:
        """Who has each of these; those that nobody has are left out."""
        if not upload_ids:
            return {}
        keys, now = self._base.keys, self._base.now()
        pipe = self._base.redis.pipeline(transaction=True)
        pipe.hmget(keys.claims, list(upload_ids))
        pipe.zmscore(keys.claims_until, list(upload_ids))
        who, until = pipe.execute()
        return {
            one: str(name)
            for one, name, end in zip(upload_ids, who, until, strict=True)
            if name and end is not None and float(end) > now
        }

    def _run(self, by: str, lane: str, **argument: object) -> list[str]:
        keys = self._base.keys
        found = self._base.run(
            "claim_pictures",
            [keys.waiting(lane), keys.claims, keys.claims_until, keys.appeals],
            by=by,
            for_s=CLAIM_S,
            leaves_appeals=lane == AvatarState.HELD,
            **argument,
        )
        return [str(upload_id) for upload_id in found]
