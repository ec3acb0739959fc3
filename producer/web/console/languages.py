"""The console's languages: its sentences from gettext catalogues, numbers and times by CLDR.

The English sentence is the key. Catalogues lie in `locale/`; after a sentence was added or changed:

    pybabel extract -F babel.toml -k say -k N_ --no-location --sort-output -o console.pot .
    pybabel update -i console.pot -D console -d producer/web/console/locale --no-fuzzy-matching

then fill in what is empty. A test asks for every sentence in every language.
"""

from __future__ import annotations

import datetime as dt
import io
import zoneinfo
from importlib import resources
from typing import Any

import humanize
from babel.dates import format_datetime, format_timedelta
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po
from babel.numbers import format_currency, format_decimal, format_percent
from babel.support import Translations
from babel.units import format_unit

from producer.texts import SECONDS, Text
from producer.web.console.words import REASONS, ROLES, WORDS

#: As browsers and `<html lang>` write them -> what people call them.
LANGUAGES = {"en": "English", "zh-CN": "中文"}

#: Largest amount that two digits would show as nothing.
LEAST_SHOWN = 0.005


#: Nearer to certainty two digits of a percentage would say that there is no doubt.
LEAST_SURE = 0.0001


def preferred(accept_language: str) -> str:
    """The language to use where none was chosen, from the header `Accept-Language`."""
    return "zh-CN" if accept_language.lower().startswith("zh") else "en"


def load_languages(*, timezone: str, currency: str) -> dict[str, Language]:
    """Every language of the console.

    Args:
        timezone: IANA name; of times before a script turns them into the reader's own.
        currency: ISO 4217 code of all prices.
    """
    return {tag: Language(tag, timezone=timezone, currency=currency) for tag in LANGUAGES}


class Language:
    """Says things in one language. Safe to share between threads."""

    def __init__(self, tag: str, *, timezone: str, currency: str) -> None:
        self.tag = tag
        self.translations = _read_catalogue(tag.replace("-", "_"))
        self._locale = tag.replace("-", "_")
        self._zone = zoneinfo.ZoneInfo(timezone)
        self._currency = currency

    def gettext(self, text: str, **values: object) -> str:
        """The sentence in this language, with values put in; English where none is known."""
        return str(self.translations.ugettext(text)) % values

    def word(self, code: str) -> str:
        """A state, stage, tier, action or outcome; what is not known stays as it is."""
        return self.gettext(WORDS[code]) if code in WORDS else code

    def role(self, name: str) -> str:
        """What a person may do, in one word."""
        return self.gettext(ROLES[name]) if name in ROLES else name

    def reason(self, code: str) -> str:
        """What a reason code means; an unknown one, such as a provider's label, as it is."""
        if code.startswith("flat: "):
            return f"{self.word('rule')}: {code.removeprefix('flat: ')}"
        return self.gettext(REASONS[code]) if code in REASONS else code

    def decided_by(self, who: str) -> str:
        """Who decided, such as `model` or `operator:ann`."""
        tier, _, name = who.partition(":")
        return f"{self.word(tier)}: {name}" if name else self.word(tier)

    def text(self, text: str) -> str:
        """A `Text` with its seconds in words; any other as it is."""
        if not isinstance(text, Text):
            return text
        values = {name: self._value(name, value) for name, value in text.values.items()}
        return str(self.translations.ugettext(text.template)).format(**values)

    def _value(self, name: str, value: Any) -> Any:
        if name.endswith(SECONDS):
            return self.span(value)
        return self.text(value) if isinstance(value, Text) else value

    def ago(self, seconds: float) -> str:
        """How long ago, in the largest whole unit."""
        return format_timedelta(
            -dt.timedelta(seconds=max(seconds, 1)), add_direction=True, locale=self._locale
        )

    def span(self, seconds: float | None) -> str:
        """A length of time; a dash where there is none."""
        if seconds is None:
            return "–"
        for limit_s, unit, factor, form in (
            (1, "millisecond", 1000.0, "0"),
            (120, "second", 1.0, "0.#"),
            (7200, "minute", 1 / 60, "0"),
            (2 * 86400, "hour", 1 / 3600, "0.#"),
        ):
            if seconds < limit_s:
                return format_unit(seconds * factor, unit, "short", form, locale=self._locale)
        return format_unit(seconds / 86400, "day", "short", "0", locale=self._locale)

    def time(self, at: float) -> str:
        """A moment in the configured zone, which it names."""
        moment = dt.datetime.fromtimestamp(at, self._zone)
        shown = format_datetime(moment, "yyyy-MM-dd HH:mm:ss", tzinfo=self._zone)
        return f"{shown} {moment.tzname()}"

    def number(self, value: float) -> str:
        """A count."""
        return format_decimal(value, locale=self._locale)

    def percent(self, share: float | None) -> str:
        """A share from 0 to 1; a dash where there is none."""
        return "–" if share is None else format_percent(share, "0.0%", locale=self._locale)

    def sure(self, share: float) -> str:
        """How sure a model is, 0..1: near both ends as many digits as tell it from certainty."""
        distance = min(share, 1 - share)
        form = "0%" if distance >= 0.01 or share in (0, 1) else "0.0%"
        form = "0.00%" if 0 < distance < 0.001 else form
        if 0 < distance < LEAST_SURE:
            sign, share = ("<", LEAST_SURE) if share < 0.5 else (">", 1 - LEAST_SURE)
            return f"{sign} {format_percent(share, form, locale=self._locale)}"
        return format_percent(share, form, locale=self._locale)

    def money(self, amount: float) -> str:
        """An amount with its currency and two digits; what is less than the last digit says so."""
        is_tiny = 0 < amount < LEAST_SHOWN
        shown = format_currency(
            2 * LEAST_SHOWN if is_tiny else amount, self._currency, locale=self._locale
        )
        return f"< {shown}" if is_tiny else shown

    def size(self, size_bytes: float) -> str:
        """An amount of memory."""
        return humanize.naturalsize(size_bytes, format="%.0f")


def iso_time(at: float) -> str:
    """A moment for programs."""
    return dt.datetime.fromtimestamp(at, dt.UTC).isoformat(timespec="seconds")


def _read_catalogue(locale: str) -> Any:
    if locale == "en":
        return Translations()
    folder = resources.files("producer.web.console") / "locale" / locale / "LC_MESSAGES"
    compiled = io.BytesIO()
    with (folder / "console.po").open("rb") as source:
        write_mo(compiled, read_po(source, locale=locale))
    compiled.seek(0)
    return Translations(compiled, "console")
