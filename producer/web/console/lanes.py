"""What waits for people, in lanes; who is given which of it, and how much there is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from producer.contract import Avatar, AvatarState
from producer.record.claims import Claims
from producer.record.dead_letters import DeadLetters
from producer.record.decisions import APPEALED
from producer.record.store import Store
from producer.web.console.context import Context
from producer.web.users import Role

#: Approvals drawn for an audit, which nobody but a person can answer.
AUDITS = "audits"

#: Blocked pictures whose owners object.
APPEALS = "appeals"

#: What waits for people, each with a page of its own.
LANES = ("held", "reviewing", APPEALS, AUDITS)

#: Pictures with the same content that are passed over for one that is shown, at most.
MOST_TWINS = 500


@dataclasses.dataclass(frozen=True)
class Given:
    """Pictures that one person has in front of them.

    Attributes:
        fresh: those that they did not have, each content once.
        kept: those of before that still wait and are still theirs.
        lost: those of before that are not, as they stand now; None where the record is gone.
    """

    fresh: list[Avatar]
    kept: list[Avatar]
    lost: dict[str, Avatar | None]


def counts_of(store: Store) -> dict[str, int]:
    """How much waits in each lane, and how many dead letters there are."""
    counts = {**store.open_counts(), AUDITS: store.audits.count(), APPEALS: store.appeals_count()}
    counts["held"] -= counts[APPEALS]
    return {**counts, "dead": DeadLetters(store).count()}


def oldest_of(store: Store) -> dict[str, float | None]:
    """Since when the longest waiting of each kind waits, seconds since the epoch."""
    states = (AvatarState.QUEUED, AvatarState.REVIEWING, AvatarState.HELD)
    found = {str(state): store.oldest_at(state) for state in states}
    return {**found, "dead": DeadLetters(store).oldest_at()}


def to_decide(context: Context, lane: str, count: int, at: str = "") -> list[Avatar]:
    """The next pictures of a lane for this person, each content once; the longest waiting first.

    Whoever may not decide looks at what there is, and takes nothing away from others.
    """
    store = context.store
    if not context.may(Role.MODERATOR):
        start = (store.open_rank(lane, at) if at else 0) or 0
        return waiting(store, store.open_ids(lane, start, count), lane)
    return _take(context, lane, count, at=at)


def keep_and_take(context: Context, lane: str, have: Sequence[str], count: int) -> Given:
    """Renew what a page has, and give it more.

    Args:
        context: of a moderator.
        lane: of `LANES`.
        have: uploads on the page that are not decided there yet.
        count: how many more, at most.
    """
    store = context.store
    mine = set(Claims(store).renew(context.name, lane, have)) if have else set()
    found = dict(zip(have, store.get_many(have), strict=True)) if have else {}
    kept = waiting(store, [one for one in have if one in mine], lane, found)
    lost = {one: found[one] for one in found.keys() - {avatar.upload_id for avatar in kept}}
    fresh = _take(context, lane, count, known=found, kept=len(kept)) if count else []
    return Given(fresh, kept, lost)


def _take(
    context: Context,
    lane: str,
    count: int,
    *,
    known: Mapping[str, Avatar | None] = MappingProxyType({}),
    kept: int = 0,
    at: str = "",
) -> list[Avatar]:
    """Up to `count` more for this person, each content once, and none of what is `known`."""
    store, claims = context.store, Claims(context.store)
    # Of what was decided a moment ago, pictures with the same content may not have followed yet.
    here = [avatar for avatar in known.values() if avatar]
    asked = kept + count
    while True:
        ids = claims.take(context.name, lane, asked, at=at)
        others = [one for one in ids if one not in known]
        fresh = _once(_allowed(context, waiting(store, others, lane), lane), here)
        if len(fresh) >= count or len(ids) < asked or asked >= kept + MOST_TWINS:
            break
        asked *= 2
    claims.release(context.name, [avatar.upload_id for avatar in fresh[count:]])
    return fresh[:count]


def waiting(
    store: Store,
    ids: Sequence[str],
    lane: str,
    known: dict[str, Avatar | None] | None = None,
) -> list[Avatar]:
    """Records that still are what their lane says; `known` ones are not read again."""
    records = [known[one] for one in ids] if known is not None else store.get_many(ids)
    found = [avatar for avatar in records if avatar]
    if lane == AUDITS:
        return [avatar for avatar in found if avatar.audit == "person"]
    # An approval that waits for its safe copy is decided; who doubts it opens its own page.
    found = [avatar for avatar in found if store.approval_of(avatar) is None]
    if lane == APPEALS:
        return [a for a in found if a.state == AvatarState.HELD and a.reason == APPEALED]
    return [a for a in found if a.state == lane and a.reason != APPEALED]


def _allowed(context: Context, avatars: list[Avatar], lane: str) -> list[Avatar]:
    """Without the appeals against this person's own blocks, where somebody else could decide."""
    own = [a.upload_id for a in avatars if is_own_appeal(context, a)] if lane == APPEALS else []
    if not own:
        return avatars
    Claims(context.store).release(context.name, own)
    return [avatar for avatar in avatars if avatar.upload_id not in own]


def is_own_appeal(context: Context, avatar: Avatar) -> bool:
    """Whether its owner objects to this person's block, and somebody else could decide."""
    waits = avatar.state == AvatarState.HELD and avatar.reason == APPEALED
    return waits and avatar.appealed_from == f"operator:{context.name}" and _has_others(context)


def _once(avatars: Sequence[Avatar], known: Sequence[Avatar] = ()) -> list[Avatar]:
    """Of those with the same content the first, and none of what is known."""
    seen = {avatar.sha256 for avatar in known if avatar.sha256}
    found: dict[str, Avatar] = {}
    for avatar in avatars:
        if avatar.sha256 not in seen:
            found.setdefault(avatar.sha256 or avatar.upload_id, avatar)
    return list(found.values())


def _has_others(context: Context) -> bool:
    """Whether another person may decide, too; those behind a proxy are not counted."""
    role = context.console.users.trusted_role
    if role is not None and role.includes(Role.MODERATOR):
        return True
    return sum(user.role.includes(Role.MODERATOR) for user in context.console.users.all()) > 1
