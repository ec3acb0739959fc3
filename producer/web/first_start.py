"""The first start: one API key and one console password, made once, never open to anybody else.

Both are written into the data folder, readable by this user alone, and are used again when Redis
starts empty. Where keys or users exist already, nothing is made.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from producer.record.store import Store
from producer.web.api_keys import ApiKeys, Scope, make_token
from producer.web.users import Role, Users, make_password

#: Files in the data folder.
KEY_FILE, PASSWORD_FILE = "api-key", "console-password"

#: Name of the first user of the console.
FIRST_USER = "admin"


@dataclasses.dataclass(frozen=True)
class Access:
    """What was made just now; empty texts where something existed already."""

    api_key: str = dataclasses.field(repr=False, default="")
    password: str = dataclasses.field(repr=False, default="")


def ensure_access(store: Store, data_folder: Path) -> Access:
    """Make the first key and the first user if there is none.

    Args:
        store: where keys and users are registered.
        data_folder: where their secrets are kept, in files of mode 0600.
    """
    api_key = password = ""
    keys, users = ApiKeys(store), Users(store)
    if not keys.all():
        api_key, is_new_key = _kept(data_folder / KEY_FILE, make_token)
        keys.create("first key", list(Scope), token=api_key)
        api_key = api_key if is_new_key else ""
    if not users.all():
        password, is_new_password = _kept(data_folder / PASSWORD_FILE, make_password)
        users.save(FIRST_USER, Role.OPERATOR, password)
        password = password if is_new_password else ""
    return Access(api_key, password)


def _kept(path: Path, make: Callable[[], str]) -> tuple[str, bool]:
    """(the secret in a file, whether it was made now)."""
    try:
        return path.read_text().strip(), False
    except FileNotFoundError:
        secret = make()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret + "\n")
    return secret, True
