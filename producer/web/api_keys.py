"""API keys: who may call the HTTP API, for what, and how often.

A key is `avm_<id>_<secret>`. Only the SHA-256 of the secret is stored: 32 random bytes cannot be
guessed, so a slow password hash would cost time and protect nothing more. Several keys may be valid
at once, so that one can be replaced without a gap.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import hmac
import re
import secrets
import threading
import time
from collections.abc import Iterable
from typing import Any

from producer.errors import ConfigurationError
from producer.fields import known_fields
from producer.record.store import Store

#: Seconds that a process trusts what it read about a key; one that was revoked, or whose time is
#: over by the clock of the server, stops within this time.
CACHE_S = 5.0

#: Most keys remembered by a process; unknown ids are not remembered.
MAX_CACHED = 1000

#: Seconds between two notes of a key's last use.
USED_EVERY_S = 60.0

_TOKEN = re.compile(r"avm_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")

#: Compared with where there is no key of that id, so that both cases take the same steps.
_NO_DIGEST = "0" * 64


class Scope(enum.StrEnum):
    """What a key allows."""

    #: Send uploads and classify pictures.
    ENQUEUE = "enqueue"
    #: Read verdicts and metrics.
    READ = "read"
    #: Decide, replay and discard as an operator does in the console.
    OPERATE = "operate"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ApiKey:
    """One key without its secret; times are seconds since the epoch, 0 for never."""

    id: str
    name: str
    scopes: frozenset[Scope]
    created_at: float
    expires_at: float = 0.0
    digest: str = dataclasses.field(repr=False, default="")


class ApiKeys:
    """Makes, lists, revokes and checks keys. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._cache: dict[str, tuple[float, ApiKey | None]] = {}
        self._used: dict[str, float] = {}
        self._lock = threading.Lock()

    def create(
        self, name: str, scopes: Iterable[str], *, lifetime_s: float = 0.0, token: str = ""
    ) -> tuple[ApiKey, str]:
        """A new key and its token, which is shown nowhere else and never again.

        Args:
            name: for people, 1 to 60 printable characters.
            scopes: at least one of `Scope`.
            lifetime_s: seconds until it expires; 0 for never.
            token: one that `make_token` made, to register it again.

        Raises:
            ConfigurationError: the name or a scope is malformed.
        """
        wanted = _scopes(scopes)
        if not name.strip() or len(name) > 60 or not name.isprintable():
            raise ConfigurationError(f"key name {name[:60]!r}: use 1 to 60 printable characters")
        token = token or make_token()
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise ConfigurationError("this is no key of ours; it should look like avm_..._...")
        now = self._store.now()
        key = ApiKey(
            id=match[1],
            name=name,
            scopes=wanted,
            created_at=now,
            expires_at=now + lifetime_s if lifetime_s else 0.0,
            digest=_digest(match[2]),
        )
        fields = {**dataclasses.asdict(key), "scopes": sorted(key.scopes)}
        self._store.api_keys.put(key.id, fields)
        return key, token

    def all(self) -> list[tuple[ApiKey, float | None]]:
        """Every key with the time of its last use, oldest key first."""
        used = self._store.api_keys_used.all()
        keys = sorted(map(_read, self._store.api_keys.all().values()), key=lambda k: k.created_at)
        return [(key, float(used[key.id]) if key.id in used else None) for key in keys]

    def revoke(self, key_id: str) -> bool:
        """Forget a key; False when there is none of this id."""
        self._cache.pop(key_id, None)
        self._store.api_keys_used.remove(key_id)
        return self._store.api_keys.remove(key_id)

    def check(self, token: str) -> ApiKey | None:
        """The key that a token belongs to, or None; takes the same steps in every case."""
        match = _TOKEN.fullmatch(token)
        key_id, secret = (match[1], match[2]) if match else ("", "")
        key = self._find(key_id)
        right = hmac.compare_digest(_digest(secret), key.digest if key else _NO_DIGEST)
        if key is None or not right:
            return None
        self._note_use(key.id)
        return key

    def _find(self, key_id: str) -> ApiKey | None:
        now_s = time.monotonic()
        read_s, key = self._cache.get(key_id, (-CACHE_S, None))
        if now_s - read_s < CACHE_S:
            return key
        fields = self._store.api_keys.get(key_id)
        key = _read(fields) if fields else None
        if key is not None and 0 < key.expires_at < self._store.now():
            key = None
        with self._lock:
            if key is None:
                self._cache.pop(key_id, None)
            elif len(self._cache) < MAX_CACHED or key_id in self._cache:
                self._cache[key_id] = (now_s, key)
        return key

    def _note_use(self, key_id: str) -> None:
        now_s = time.monotonic()
        if now_s - self._used.get(key_id, -USED_EVERY_S) >= USED_EVERY_S:
            self._used[key_id] = now_s
            self._store.api_keys_used.put(key_id, int(self._store.now()))


class Rates:
    """Shared limits of how often somebody may do something, over all processes."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def take(self, what: str, *, per_s: float, burst: int, places: int = 1) -> float:
        """Take places; returns 0.0, or the seconds to wait when there are none and none was taken.

        Args:
            what: who does what, for example `key:<id>`.
            per_s: places that come back each second.
            burst: most places at once.
            places: how many are wanted.
        """
        return self._store.take_places(what, per_s=per_s, burst=burst, places=places)


def make_token() -> str:
    """A new token; worth nothing until it is registered."""
    return f"avm_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _read(fields: dict[str, Any]) -> ApiKey:
    values = known_fields(ApiKey, fields)
    values["scopes"] = frozenset(Scope(s) for s in values["scopes"] if s in set(Scope))
    return ApiKey(**values)


def _scopes(scopes: Iterable[str]) -> frozenset[Scope]:
    try:
        found = frozenset(Scope(scope) for scope in scopes)
    except ValueError as error:
        raise ConfigurationError(f"{error}; use {', '.join(Scope)}") from None
    if not found:
        raise ConfigurationError(f"a key needs a scope: {', '.join(Scope)}")
    return found
