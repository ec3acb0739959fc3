"""What every part of the record stands on: the connections, the names of keys, the atomic steps.

A step is a Lua script in `lua/`. It gets the keys that it touches as KEYS, as Redis Cluster wants,
the clock last, and all else as one JSON object. It takes the time from `clock.lua`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
import secrets
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, ClassVar

import redis

from producer.record.keyspace import Keyspace

#: Seconds since the epoch from which the first seq of a record is counted: 2026-01-01. Receivers
#: that keep seqs in 32 bits can do so until 2094.
SEQ_FROM = 1_767_225_600

_INCLUDE = re.compile(r"^-- include (\w+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Step:
    """One run of a script: the name of its file in `lua/`, its keys, its argument.

    A value of None is left out of the argument, for Lua's JSON has no nil.
    """

    script: str
    keys: Sequence[str]
    argument: dict[str, Any]


class Base:
    """Connections, keys and steps of one namespace. Safe to share between threads.

    Redis errors pass through as `redis.RedisError`.
    """

    #: Where seqs are counted from.
    seq_from: ClassVar[float] = SEQ_FROM

    def __init__(self, client: redis.Redis, namespace: str, *, record_ttl_s: float) -> None:
        self.redis = client
        self.keys = Keyspace(namespace)
        self.record_ttl_s = record_ttl_s
        self._highest_seq = 0

    def run(self, script: str, keys: Sequence[str], **argument: Any) -> Any:
        """Run one step; returns the script's answer."""
        return self.run_all([Step(script, keys, argument)])[0]

    def run_all(
        self, steps: Sequence[Step], beside: Callable[[Any], object] | None = None
    ) -> list[Any]:
        """Run steps, each atomic by itself, in one round trip; order is kept.

        Args:
            steps: what to run.
            beside: adds plain commands to the same pipeline; their answers follow those of steps.
        """
        answers = self._try(steps, beside)
        unknown = [
            n for n, a in enumerate(answers) if isinstance(a, redis.exceptions.NoScriptError)
        ]
        if unknown:
            # A new server, or one that forgot its scripts. Only what did not run is run again.
            for script in {steps[n].script for n in unknown}:
                self.redis.script_load(_source(script)[0])
            again = self._try([steps[n] for n in unknown], beside)
            for n, answer in zip(unknown, again, strict=False):
                answers[n] = answer
            answers[len(steps) :] = again[len(unknown) :]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _try(self, steps: Sequence[Step], beside: Callable[[Any], object] | None) -> list[Any]:
        pipe = self.redis.pipeline(transaction=False)
        for step in steps:
            argument = {k: v for k, v in step.argument.items() if v is not None}
            digest = _source(step.script)[1]
            keys = [*step.keys, self.keys.clock]
            pipe.evalsha(digest, len(keys), *keys, json.dumps(argument))
        if beside is not None:
            beside(pipe)
        return pipe.execute(raise_on_error=False)

    def now(self) -> float:
        """Seconds since the epoch by the Redis server's clock, the only clock that counts.

        It never goes back; see `lua/clock.lua`.
        """
        return self.clock()[1]

    def clock(self) -> tuple[float, float]:
        """(what the server's clock tells, what time it is for us), seconds since the epoch."""
        now, told = map(float, self.run("now", []))
        self.note_seq(int(now - self.seq_from))
        return told, now

    def note_seq(self, seq: int) -> None:
        """Remember the highest seq that this process saw, should Redis forget it."""
        self._highest_seq = max(self._highest_seq, seq)

    def beginning(self) -> dict[str, Any]:
        """What a step needs that may begin a record; see `lua/data_set.lua`."""
        return {"seq_from": self.seq_from, "seen": self._highest_seq, "spare": secrets.token_hex(8)}


@functools.cache
def _source(script: str) -> tuple[str, str]:
    """Text and SHA-1 of a script; a line `-- include NAME` stands for another file."""
    text = with_clock(_INCLUDE.sub(lambda found: _read(found[1]), _read(script)))
    return text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def with_clock(text: str) -> str:
    """A script that can tell the time; the clock is the last of its keys."""
    return _read("clock") + text


def _read(script: str) -> str:
    return (resources.files("producer.record") / "lua" / f"{script}.lua").read_text("utf-8")
