"""The console's languages: every sentence is there, and numbers, money and times read well."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po

from producer.contract import AvatarState, Stage
from producer.texts import of_json, say
from producer.web.console.languages import Language, iso_time, load_languages, preferred
from producer.web.console.words import REASONS, WORDS

ROOT = Path(__file__).parents[2]
CONSOLE = ROOT / "producer" / "web" / "console"
CHINESE = CONSOLE / "locale" / "zh_CN" / "LC_MESSAGES" / "console.po"

#: A place for a value, of either kind.
PLACE = re.compile(r"%\(\w+\)\w|{\w+(?:!r)?(?::[^}]*)?}")


@pytest.fixture(scope="module")
def english() -> Language:
    return load_languages(timezone="Asia/Shanghai", currency="CNY")["en"]


@pytest.fixture(scope="module")
def chinese() -> Language:
    return load_languages(timezone="Asia/Shanghai", currency="CNY")["zh-CN"]


@pytest.fixture(scope="module")
def sentences(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """What the documented command finds in the code and the templates."""
    target = tmp_path_factory.mktemp("babel") / "console.pot"
    command = ["extract", "-F", "babel.toml", "-k", "say", "-k", "N_", "-o", str(target), "."]
    subprocess.run(
        [sys.executable, "-m", "babel.messages.frontend", "-q", *command],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    with target.open("rb") as file:
        return read_po(file)


def texts_of(message: Message) -> tuple[str, ...]:
    return tuple(map(str, message.id if isinstance(message.id, tuple) else (message.id,)))


def strings_of(message: Message) -> tuple[str, ...]:
    found = message.string if isinstance(message.string, tuple) else (message.string,)
    return tuple(text or "" for text in map(str, found))


def messages(catalogue: Catalog) -> Iterator[Message]:
    return (message for message in catalogue if message.id)


@pytest.mark.process
def test_every_sentence_is_translated_and_none_is_left_over(sentences: Catalog) -> None:
    """The catalogue has exactly the sentences of the code, each with its Chinese."""
    with CHINESE.open("rb") as file:
        catalogue = read_po(file, locale="zh_CN")
    used = {texts_of(message)[0] for message in messages(sentences)}
    assert len(used) > 250
    assert used ^ {texts_of(message)[0] for message in messages(catalogue)} == set()
    assert [m.id for m in messages(catalogue) if m.fuzzy or not all(strings_of(m))] == []


def test_translations_keep_their_values() -> None:
    """A translation has the places for values that its sentence has."""
    with CHINESE.open("rb") as file:
        for message in messages(read_po(file, locale="zh_CN")):
            for text in strings_of(message):
                assert sorted(PLACE.findall(text)) == sorted(PLACE.findall(texts_of(message)[-1]))


def test_no_template_holds_a_sentence_that_is_not_marked() -> None:
    """Text between tags stands in the catalogue; only names and codes need no translation."""
    free = {"avatarmod", "SHA-256", "seq", "avatarmod users add", "English", "中文", "A", "B"}
    for path in CONSOLE.glob("templates/*.html"):
        source = re.sub(r"{%.*?%}|{{.*?}}|{#.*?#}", "\x00", path.read_text(), flags=re.DOTALL)
        for text in re.findall(r">([^<>]+)<", source):
            for part in text.split("\x00"):
                words = part.strip(" ·:–#/␣\n")
                assert not re.search(r"[A-Za-z]{2}", words) or words in free, (path.name, words)


def test_every_code_has_its_word() -> None:
    """States and stages are words for people, not codes."""
    assert {str(code) for code in (*AvatarState, *Stage)} <= WORDS.keys()
    assert all(text[0].islower() or text[0] in "`" for text in REASONS.values())


@pytest.mark.parametrize(
    "name", ["producer/health.py", "worker/duties/alarms.py", "worker/duties/alarms_redis.py"]
)
def test_every_alarm_and_its_remedy_can_be_translated(name: str) -> None:
    """Their sentences are made by `say`, which the catalogue is collected from."""
    bare = [
        f"{name}:{argument.lineno}"
        for call in ast.walk(ast.parse((ROOT / name).read_text()))
        if isinstance(call, ast.Call) and getattr(call.func, "id", "").endswith("Alarm")
        for argument in call.args[2:4]
        if isinstance(argument, ast.Constant | ast.JoinedStr)
    ]
    assert bare == []


def test_an_alarm_is_shown_in_chinese(chinese: Language) -> None:
    """With its values, also after it went through Redis as JSON; an old one stays as it is."""
    text = say(
        "the oldest upload has waited {age_s} for the model (limit: {limit_s})",
        age_s=7200,
        limit_s=600,
    )
    kept = of_json(str(text), json.loads(json.dumps(text.to_json())))
    assert chinese.text(kept) == "最早的上传已等待模型 2小时（上限 10分钟）"
    assert chinese.text("as an old version wrote it") == "as an old version wrote it"


def test_a_text_is_an_ordinary_sentence_to_others() -> None:
    """Lengths of time are put in as words, and what Redis holds may be old or broken."""
    text = say("it has waited for {age_s} (limit: {limit_s})", age_s=4000.4, limit_s=600)
    assert text == "it has waited for 1 hour and 6 minutes (limit: 10 minutes)"
    assert of_json("as it was", text.to_json()) == text
    others: list[Any] = [None, {}, [], {"template": "{x}", "values": {}}, {"template": 3}]
    for broken in others:
        assert of_json("as it was", broken) == "as it was"


def test_ages_and_lengths_are_in_the_readers_words(english: Language, chinese: Language) -> None:
    """The largest whole unit, in the right number."""
    assert [english.ago(s) for s in (0, 60, 200, 90_000)] == [
        "1 second ago",
        "1 minute ago",
        "3 minutes ago",
        "1 day ago",
    ]
    assert chinese.ago(200) == "3分钟前"
    assert [english.span(s) for s in (None, 0.25, 1.26, 600, 9000)] == [
        "–",
        "250 ms",
        "1.3 sec",
        "10 min",
        "2.5 hr",
    ]
    assert chinese.span(600) == "10分钟"


def test_money_has_its_currency_and_two_digits(english: Language, chinese: Language) -> None:
    """In the reader's way, of the configured currency; a tiny amount is not shown as nothing."""
    assert english.money(1234.5) == "CN¥1,234.50"
    assert chinese.money(0) == "¥0.00"
    assert english.money(0.0015) == "< CN¥0.01"
    euro = load_languages(timezone="UTC", currency="EUR")["en"]
    assert euro.money(3) == "€3.00"


def test_times_name_their_zone(english: Language) -> None:
    """For people in the configured zone, for scripts in UTC."""
    assert english.time(1_700_000_000) == "2023-11-15 06:13:20 CST"
    assert iso_time(1_700_000_000) == "2023-11-14T22:13:20+00:00"


def test_a_language_is_chosen_by_the_browser() -> None:
    """Chinese for every Chinese browser, English for the others."""
    assert [preferred(header) for header in ("zh-TW,en", "ZH", "de", "")] == [
        "zh-CN",
        "zh-CN",
        "en",
        "en",
    ]


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0.26, "26%"),
        (0.004, "0.4%"),
        (0.0004, "0.04%"),
        (0.00001, "< 0.01%"),
        (0.99999, "> 99.99%"),
        (0.0, "0%"),
        (1.0, "100%"),
    ],
)
def test_a_doubt_is_never_rounded_away(english: Language, share: float, shown: str) -> None:
    """What is nearly certain does not read as certain."""
    assert english.sure(share) == shown
