"""Write `docs/configuration.md` from the settings, so that it never falls behind them.

Run: .venv/bin/python -m scripts.make_configuration
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from producer.environment import ENV_PREFIX
from producer.settings import Settings
from scripts.make_env_example import text_of_default
from worker.review.settings import ReviewSettings
from worker.settings import WorkerSettings

TARGET = Path(__file__).parents[1] / "docs" / "configuration.md"

HEADER = """\
# Configuration

Every setting is a variable `AVATARMOD_...`; each has a default that works on a laptop. They are
read once, when a process starts, so a change needs a restart. A value that cannot be used stops
the process with exit code 2 and one line that names the variable, what is wrong and a good
example; the value itself is never shown.

Every command, worker and page reads them alike, from these places; the first that names a
variable counts:

1. the environment;
2. the file that `AVATARMOD_ENV_FILE` names (empty: none), else `.env` in the working folder, if
   it belongs to you or to root and nobody else can write it. `avatarmod init` writes one; lines
   are `NAME=value`, and a variable that is not ours (`HTTPS_PROXY`, `OTEL_...`) reaches every
   process, too;
3. **Secrets** (marked so below) may come as files: set `AVATARMOD_SECRETS_FOLDER` to a folder
   in which each file is named like its variable in small letters, `avatarmod_callback_secrets`.
   Any other setting can be a file there too.

`avatarmod config show` prints what holds and where it is from, with secrets masked; `avatarmod
config check` says what is wrong (exit code 0: nothing, 1: something has no effect or is unwise,
2: nothing would start). A relative folder is relative to the folder in which a process is
started.

This page is made by `python -m scripts.make_configuration` from the settings' own descriptions;
do not edit it.
"""

#: Title -> the class that declares the settings.
SECTIONS: dict[str, type[Settings]] = {
    "Everywhere: queue, images, callbacks, API, ledger, logs": Settings,
    "Review providers": ReviewSettings,
    "Workers: batch, engine, decoding, policy, alarms": WorkerSettings,
}


def render() -> str:
    """The whole page."""
    blocks = [HEADER]
    known: set[str] = set()
    for title, kind in SECTIONS.items():
        rows = ["| variable | default | what it is |", "|---|---|---|"]
        rows += [
            _row(name, field) for name, field in kind.model_fields.items() if name not in known
        ]
        known |= set(kind.model_fields)
        blocks.append(f"## {title}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(blocks)


def _row(name: str, field: FieldInfo) -> str:
    default = text_of_default(field.get_default(call_default_factory=False))
    notes = [field.description or ""]
    choices = _choices(field.annotation)
    if choices:
        notes.append("One of " + ", ".join(f"`{choice}`" for choice in choices) + ".")
    if _is_secret(field.annotation):
        notes.append("**Secret.**")
    text = " ".join(notes).replace("|", "\\|")
    return f"| `{ENV_PREFIX}{name.upper()}` | {f'`{default}`' if default else ''} | {text} |"


def _parts(annotation: Any) -> tuple[Any, ...]:
    """An optional or repeated type's own types."""
    if get_origin(annotation) in (Union, types.UnionType, tuple):
        return tuple(part for inner in get_args(annotation) for part in _parts(inner))
    return (annotation,)


def _choices(annotation: Any) -> list[str]:
    return [
        str(choice)
        for part in _parts(annotation)
        if get_origin(part) is Literal
        for choice in get_args(part)
    ]


def _is_secret(annotation: Any) -> bool:
    return SecretStr in _parts(annotation)


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
