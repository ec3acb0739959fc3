"""Another address for who hears of uploads: each record says who does, so a change is a command.

Moved are records, callbacks that wait, and callbacks among the dead letters. What is under way just
now goes to the old address once more; run it again then.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import cast

from producer.contract import NO_CALLBACK, Priority
from producer.record.base import Step
from producer.record.keyspace import LANES, callback_line, endpoint_name
from producer.record.store import Store

#: Records read, and changed, in one round trip.
PAGE = 500


@dataclasses.dataclass
class Moved:
    """How much goes elsewhere from now on, and what goes to the old address still."""

    records: int = 0
    callbacks: int = 0
    letters: int = 0
    under_way: int = 0


def move_callbacks(
    store: Store, old: str, new: str, *, seen: Callable[[int], object] = lambda _count: None
) -> Moved:
    """Let `new` hear of everything that `old` hears of; to repeat it changes nothing.

    Args:
        store: the records.
        old: a whole address, as the records have it.
        new: likewise; `none` for nobody: what waits is left then.
        seen: told how many records were looked at.

    Raises:
        redis.RedisError: Redis did not answer; what was moved stays moved, run it again.
    """
    moved, base, keys = Moved(), store.base, store.keys
    looked = 0
    for names in _pages(store):
        answers = base.run_all([Step("move_record", [n], {"from": old, "to": new}) for n in names])
        moved.records += sum(map(int, answers))
        looked += len(names)
        seen(looked)
    if new == NO_CALLBACK:
        return moved
    line, there = callback_line(endpoint_name(old)), endpoint_name(new)

    def step(item: str, *, due: bool) -> Step:
        lanes = [keys.due(line, lane) for lane in LANES]
        into = keys.due(callback_line(there), Priority.NORMAL)
        argument = {"item": item, "from": old, "to": new, "endpoint": there, "due": due}
        return Step("move_callback", [keys.callback(item), *lanes, into, keys.endpoints], argument)

    for lane in LANES:
        found = [str(item) for item in base.redis.zrange(keys.due(line, lane), 0, -1)]
        moved.callbacks += _run(store, [step(item, due=True) for item in found])
    letters = [str(item) for item in base.redis.zrange(keys.dead, 0, -1) if "#" in str(item)]
    moved.letters = _run(store, [step(item, due=False) for item in letters])
    moved.under_way = int(base.redis.zcard(keys.lease(line)))
    return moved


def _run(store: Store, steps: list[Step]) -> int:
    pages = (steps[start : start + PAGE] for start in range(0, len(steps), PAGE))
    return sum(int(answer) for page in pages for answer in store.base.run_all(page))


def _pages(store: Store) -> Iterator[list[str]]:
    """Names of all records, some at a time; one may come twice."""
    cursor, pattern = 0, store.keys.avatar("*")
    while True:
        cursor, found = cast(
            "tuple[int, list[str]]", store.base.redis.scan(cursor, match=pattern, count=PAGE)
        )
        if found:
            yield [str(name) for name in found]
        if not cursor:
            return
