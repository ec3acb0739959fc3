"""Sentences that are written by one process and shown to people by another, in their language."""

from __future__ import annotations

import json
from typing import Any

#: Ending of the names of values that are seconds and are shown as a length of time.
SECONDS = "_s"


def N_(template: str) -> str:
    """Mark a sentence for the catalogues that is said later."""
    return template


class Text(str):
    """An English sentence that remembers how it was made, so that it can be translated.

    It is an ordinary text to whoever does not care; `to_json` and `of_json` keep it over Redis.
    """

    __slots__ = ("template", "values")

    template: str
    values: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready form."""
        values = {
            name: value.to_json() if isinstance(value, Text) else value
            for name, value in self.values.items()
        }
        return {"template": self.template, "values": values}


def say(template: str, **values: Any) -> Text:
    """A sentence with values put in; those whose names end in `_s` are seconds.

    Args:
        template: the sentence for the catalogues, with `{name}` where a value stands.
        values: JSON-ready, or a `Text`.
    """
    shown = {
        name: _length(value) if name.endswith(SECONDS) else value for name, value in values.items()
    }
    text = Text(template.format(**shown))
    text.template, text.values = template, values
    return text


def of_json(text: str, parts: Any) -> str:
    """The `Text` that `to_json` kept; `text` itself where nothing (readable) was kept."""
    try:
        values = {
            name: of_json(str(value), value) if isinstance(value, dict) else value
            for name, value in parts["values"].items()
        }
        return say(parts["template"], **values)
    except (TypeError, KeyError, ValueError, IndexError, AttributeError):
        return text


def of_error(error: BaseException, most: int = 500) -> str:
    """What an error says: the `Text` it was raised with, else that many characters of it."""
    first = error.args[0] if error.args else None
    return first if isinstance(first, Text) else str(error)[:most]


def parts_of(text: str) -> dict[str, Any] | None:
    """What `of_json` wants beside the text; None where it is no `Text`."""
    return text.to_json() if isinstance(text, Text) else None


def told(text: str) -> dict[str, Any]:
    """A sentence as an event keeps it: `message`, and the parts of a `Text` beside it."""
    parts = parts_of(text)
    return {"message": text, "said": parts} if parts else {"message": text}


def pack(text: str) -> str:
    """A sentence as one field of Redis, which `unpack` reads."""
    return json.dumps(text.to_json()) if isinstance(text, Text) else text


def unpack(field: str) -> str:
    """What `pack` wrote; anything else is an ordinary text."""
    if not field.startswith('{"template"'):
        return field
    try:
        return of_json(field, json.loads(field))
    except ValueError:
        return field


def _length(seconds: float) -> str:
    import humanize  # it takes 10 ms that a host which only enqueues need not wait for

    return humanize.precisedelta(_whole(seconds), format="%d")


def _whole(seconds: float) -> float:
    """Two units at most: nobody wants the seconds of an hour."""
    return seconds if seconds < 120 else seconds - seconds % 60
