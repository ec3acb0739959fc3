"""The console's people: names, roles, passwords and sessions.

Passwords are stored as Argon2id hashes; sessions live in Redis under the hash of their token, so
that what leaks from Redis opens nothing, and signing out or removing a user ends them at once.

Keys, behind the store's prefix:

    users               hash    name -> role, password hash, created_at (JSON)
    session:<digest>    string  name, CSRF token, created_at (JSON); expires `session_ttl_s` after
                                the last click
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import re
import secrets
import threading
from typing import cast

import argon2

from producer.errors import ConfigurationError
from producer.store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")

#: Shortest password that is accepted, in characters.
MIN_PASSWORD_CHARS = 10

#: Longest, so that hashing cannot be made slow.
MAX_PASSWORD_CHARS = 200

#: 19 MiB, two passes, one lane: fits the smallest machine.
#: Source: OWASP Password Storage Cheat Sheet, Argon2id.
_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)

#: One hash at a time: a flood of sign-ins must not take the machine's memory.
_ONE_AT_A_TIME = threading.Lock()


class Role(enum.StrEnum):
    """What a person may do; each role may do all that the ones before it may."""

    #: See everything, change nothing.
    VIEWER = "viewer"
    #: Decide about held pictures.
    MODERATOR = "moderator"
    #: Replay and discard dead letters, reset providers.
    OPERATOR = "operator"

    def includes(self, other: Role) -> bool:
        """Whether this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclasses.dataclass(frozen=True, kw_only=True)
class User:
    """One person; `created_at` is seconds since the epoch."""

    name: str
    role: Role
    created_at: float
    password_hash: str = dataclasses.field(repr=False, default="")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """One signed-in browser."""

    user: User
    csrf: str = dataclasses.field(repr=False)
    created_at: float


class Users:
    """Makes, changes and checks users. Safe to share between threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._nobody = ""

    def save(self, name: str, role: str, password: str) -> User:
        """Make a user, or give an existing one this role and password.

        Raises:
            ConfigurationError: name, role or password is not acceptable.
        """
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"user name {name[:40]!r}: use 1 to 40 of A-Z a-z 0-9 . _ @ -, a letter or digit "
                "first"
            )
        if role not in set(Role):
            raise ConfigurationError(f"role {role[:40]!r}: use {', '.join(Role)}")
        if not MIN_PASSWORD_CHARS <= len(password) <= MAX_PASSWORD_CHARS:
            raise ConfigurationError(
                f"a password has {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_CHARS} characters"
            )
        user = User(
            name=name,
            role=Role(role),
            created_at=self._store.now(),
            password_hash=_hash(password),
        )
        self._store.redis.hset(self._store.key("users"), name, json.dumps(dataclasses.asdict(user)))
        return user

    def get(self, name: str) -> User | None:
        """One user, or None."""
        text = cast("str | None", self._store.redis.hget(self._store.key("users"), name))
        return _read(text) if text else None

    def all(self) -> list[User]:
        """Everybody, by name."""
        stored = cast("dict[str, str]", self._store.redis.hgetall(self._store.key("users")))
        return sorted((_read(text) for text in stored.values()), key=lambda user: user.name)

    def remove(self, name: str) -> bool:
        """Remove a user, whose sessions end at once; False when there is none."""
        return bool(self._store.redis.hdel(self._store.key("users"), name))

    def check(self, name: str, password: str) -> User | None:
        """The user with this name and password, or None; both cases take as long."""
        user = self.get(name)
        if user is None and not self._nobody:
            self._nobody = _hash(secrets.token_hex(16))
        try:
            with _ONE_AT_A_TIME:
                _HASHER.verify(
                    user.password_hash if user else self._nobody, password[:MAX_PASSWORD_CHARS]
                )
        except (argon2.exceptions.VerificationError, argon2.exceptions.InvalidHashError):
            return None
        return user


class Sessions:
    """Starts, finds and ends sessions. Safe to share between threads."""

    def __init__(self, store: Store, users: Users, ttl_s: float) -> None:
        self._store = store
        self._users = users
        self._ttl_s = int(ttl_s)

    def start(self, user: User) -> str:
        """A new session; returns its token, which never existed before this moment."""
        token = secrets.token_urlsafe(32)
        content = {
            "user": user.name,
            "password": _mark(user),
            "csrf": secrets.token_urlsafe(24),
            "created_at": self._store.now(),
        }
        self._store.redis.set(self._key(token), json.dumps(content), ex=self._ttl_s)
        return token

    def find(self, token: str) -> Session | None:
        """The session of a token, made to last on; None when it ended, or its user changed."""
        if not 20 <= len(token) <= 100:
            return None
        text = cast("str | None", self._store.redis.getex(self._key(token), ex=self._ttl_s))
        if text is None:
            return None
        content = json.loads(text)
        user = self._users.get(content["user"])
        if user is None or content["password"] != _mark(user):
            return None
        return Session(user=user, csrf=content["csrf"], created_at=content["created_at"])

    def end(self, token: str) -> None:
        """End a session; nothing happens when it has ended."""
        self._store.redis.delete(self._key(token))

    def _key(self, token: str) -> str:
        return self._store.key("session", hashlib.sha256(token.encode()).hexdigest())


def make_password() -> str:
    """A password that is easy to type: 20 characters, 99 bits."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    parts = ["".join(secrets.choice(alphabet) for _ in range(5)) for _ in range(4)]
    return "-".join(parts)


def _hash(password: str) -> str:
    with _ONE_AT_A_TIME:
        return _HASHER.hash(password)


def _mark(user: User) -> str:
    """Changes with the password, so that an old session does not outlive it."""
    return hashlib.sha256(user.password_hash.encode()).hexdigest()[:16]


def _read(text: str) -> User:
    fields = json.loads(text)
    known = {field.name for field in dataclasses.fields(User)}
    values = {name: value for name, value in fields.items() if name in known}
    return User(**{**values, "role": Role(values["role"])})
