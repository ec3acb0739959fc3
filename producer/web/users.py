"""The console's people: names, roles, passwords and sessions.

Passwords are stored as Argon2id hashes; sessions live in Redis under the hash of their token, so
that what leaks from Redis opens nothing, and signing out or removing a user ends them at once.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
import secrets
import threading
from typing import Any

import argon2

from producer.errors import ConfigurationError
from producer.fields import known_fields
from producer.record.store import Store
from producer.web.limits import Slots

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,39}")

#: Those whom a proxy names may also be an address with a plus sign, and longer.
_PROXY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")

#: Shortest password that is accepted, in characters.
MIN_PASSWORD_CHARS = 10

#: Longest, so that hashing cannot be made slow.
MAX_PASSWORD_CHARS = 200

#: 19 MiB, two passes, one lane: fits the smallest machine.
#: Source: OWASP Password Storage Cheat Sheet, Argon2id.
_HASHER = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)

#: One hash at a time: a flood of sign-ins must not take the machine's memory.
_ONE_AT_A_TIME = threading.Lock()

#: Checks that run or wait for their turn; each takes a thread of those that answer requests.
MAX_CHECKS = 4

#: Longest life of a session, in seconds, however often it is used.
MAX_SESSION_S = 86400


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
    """One signed-in browser.

    `is_trusted`: by a proxy, so it is nothing without the proxy's word in each request.
    """

    user: User
    csrf: str = dataclasses.field(repr=False)
    created_at: float
    is_trusted: bool = False


def is_user_name(text: str) -> bool:
    """Whether a proxy may name a person so."""
    return _PROXY_NAME.fullmatch(text) is not None


class Users:
    """Makes, changes and checks users. Safe to share between threads.

    Args:
        store: where they are.
        trusted_role: of people whom a proxy names and who are not known here; None: they are
            nobody.
    """

    def __init__(self, store: Store, trusted_role: Role | None = None) -> None:
        self._store = store
        self.trusted_role = trusted_role
        self._nobody = ""
        self._checks = Slots(MAX_CHECKS)

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
        self._store.users.put(name, dataclasses.asdict(user))
        return user

    def get(self, name: str) -> User | None:
        """One user, or None."""
        fields = self._store.users.get(name)
        return _read(fields) if fields else None

    def trusted(self, name: str) -> User | None:
        """The user whom a proxy has signed in under this name; None: they have no role here."""
        user = self.get(name)
        if user is None and self.trusted_role is not None:
            user = User(name=name, role=self.trusted_role, created_at=0.0)
        return user

    def all(self) -> list[User]:
        """Everybody, by name."""
        stored = self._store.users.all().values()
        return sorted(map(_read, stored), key=lambda user: user.name)

    def remove(self, name: str) -> bool:
        """Remove a user, whose sessions end at once; False when there is none."""
        return self._store.users.remove(name)

    def check(self, name: str, password: str) -> User | None:
        """The user with this name and password, or None; both cases take as long.

        Raises:
            NoSlot: too many passwords are being checked.
        """
        with self._checks.take():
            return self._check(name, password)

    def _check(self, name: str, password: str) -> User | None:
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
        self._ttl_s = min(int(ttl_s), MAX_SESSION_S)

    def start(self, user: User, *, is_trusted: bool = False) -> str:
        """A new session; returns its token, which never existed before this moment.

        Args:
            user: whose.
            is_trusted: a proxy has signed them in, not a password.
        """
        token = secrets.token_urlsafe(32)
        content = {
            "user": user.name,
            "password": "" if is_trusted else _mark(user),
            "trusted": is_trusted,
            "csrf": secrets.token_urlsafe(24),
            "created_at": self._store.now(),
        }
        self._store.put_session(_digest(token), content, ttl_s=self._ttl_s)
        return token

    def find(self, token: str) -> Session | None:
        """The session of a token, made to last on; None when it ended, or its user changed.

        It ends a day after it began, whatever is done with it.
        """
        if not 20 <= len(token) <= 100:
            return None
        content = self._store.get_session(_digest(token), ttl_s=self._ttl_s)
        if content is None:
            return None
        if self._store.now() - content["created_at"] > MAX_SESSION_S:
            self.end(token)
            return None
        is_trusted = content.get("trusted", False)
        find = self._users.trusted if is_trusted else self._users.get
        user = find(content["user"])
        if user is None or not (is_trusted or content["password"] == _mark(user)):
            return None
        return Session(
            user=user,
            csrf=content["csrf"],
            created_at=content["created_at"],
            is_trusted=is_trusted,
        )

    def end(self, token: str) -> None:
        """End a session; nothing happens when it has ended."""
        self._store.end_session(_digest(token))


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


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


def _read(fields: dict[str, Any]) -> User:
    values = known_fields(User, fields)
    return User(**{**values, "role": Role(values["role"])})
