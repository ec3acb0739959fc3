"""Write `.env.example` from the settings, so that it never falls behind them.

Run: .venv/bin/python scripts/make_env_example.py
"""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from producer.environment import ENV_PREFIX
from worker.settings import WorkerSettings

HEADER = """\
# Every setting of avatar-moderation, with its default. Copy to .env and change what you need.
# Made by scripts/make_env_example.py from the settings' own descriptions.
"""


def render() -> str:
    """The whole file."""
    blocks = [HEADER]
    for name, field in WorkerSettings.model_fields.items():
        lines = textwrap.wrap(field.description or "", 96)
        value = text_of_default(field.get_default(call_default_factory=False))
        blocks.append(
            "\n".join([*(f"# {line}" for line in lines), f"#{ENV_PREFIX}{name.upper()}={value}"])
        )
    return "\n\n".join(blocks) + "\n"


def text_of_default(default: Any) -> str:
    """A default as it would stand in the environment."""
    if default in (None, PydanticUndefined):
        return ""
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple | list):
        return ",".join(str(part) for part in default)
    return f"{default:g}" if isinstance(default, float) and default < 1e6 else str(default)


if __name__ == "__main__":
    (Path(__file__).parents[1] / ".env.example").write_text(render(), encoding="utf-8")
