"""Variables: the environment, and one file that every command, worker and page reads alike.

The file is what `AVATARMOD_ENV_FILE` names (empty: none), else `.env` in the working folder. A
variable in the environment goes before the file, the file before the folder of secrets.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from dotenv import dotenv_values

from producer.errors import ConfigurationError

ENV_PREFIX = "AVATARMOD_"

#: Names the file.
ENV_FILE = f"{ENV_PREFIX}ENV_FILE"


def env_file() -> Path | None:
    """The file that holds here; None where there is none.

    Raises:
        ConfigurationError: the one that is named cannot be read.
    """
    named = os.environ.get(ENV_FILE)
    if named is None:
        # os.path: a working folder that we may not look into holds no file for us.
        found = Path.cwd() / ".env"
        return found if os.path.isfile(found) and not foreign(found) else None
    if not named:
        return None
    try:
        Path(named).open().close()
    except OSError as error:
        raise ConfigurationError(
            f"{ENV_FILE}: {named} cannot be read ({error.strerror}); name a file of lines such as "
            f"{ENV_PREFIX}REDIS_URL=redis://host:6379/0"
        ) from None
    return Path(named).absolute()


def foreign(path: Path) -> bool:
    """Whether somebody else could have written a file that nobody named, or it cannot be read."""
    found = path.stat()
    ours = found.st_uid in (0, os.geteuid())
    return not ours or bool(found.st_mode & 0o002) or not os.access(path, os.R_OK)


def from_file() -> dict[str, str]:
    """The variables of the file that have a value."""
    file = env_file()
    # A password may hold `${`: a value is what is written.
    found = dotenv_values(file, interpolate=False) if file else {}
    return {name: value for name, value in found.items() if value}


def variable(name: str) -> str:
    """One variable, with our prefix; empty where nobody gives it."""
    return os.environ.get(f"{ENV_PREFIX}{name}") or from_file().get(f"{ENV_PREFIX}{name}", "")


def adopt() -> None:
    """Give the file's other variables to this process and its children.

    Proxies, certificates and tracing are set by variables that are not ours.
    """
    for name, value in from_file().items():
        if not name.upper().startswith(ENV_PREFIX):
            os.environ.setdefault(name, value)


def write(path: Path, values: dict[str, str]) -> None:
    """Set variables in a file that only this user can read; its other lines stay as they are.

    Raises:
        OSError: it cannot be written.
    """
    left, lines = dict(values), []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        name = line.removeprefix("export ").partition("=")[0].strip()
        if name in left:
            line = f"{name}={_quoted(left.pop(name))}"
        elif name in values:
            continue
        lines.append(line)
    lines += [f"{name}={_quoted(value)}" for name, value in left.items()]
    text, new = "\n".join(lines) + "\n", path.with_name(f"{path.name}.new")
    try:
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
    except PermissionError:
        # A service's file is its own, in a folder of root's.
        if not path.exists():
            raise
        path.write_text(text, encoding="utf-8")
        return
    os.replace(new, path)


def _quoted(value: str) -> str:
    """A value that reads the same for us, for a shell and for systemd."""
    return value if re.fullmatch(r"[\w@%+=:,./*-]*", value, re.ASCII) else f"'{value}'"
