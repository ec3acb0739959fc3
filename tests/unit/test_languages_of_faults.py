"""What went wrong is said in the reader's language: faults keep how their sentences were made."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from babel.messages.pofile import read_po

from producer import errors
from producer.errors import CallbackFailed, StorageMisconfigured
from producer.image_stores import FolderStore, S3Store
from producer.networks import private_address_message
from producer.record.endpoints import Endpoint
from producer.s3 import S3_REMEDIES
from producer.texts import Text, of_error, of_json, pack, say, unpack
from producer.web.console.languages import Language, load_languages
from tests.unit.test_languages import CHINESE, PLACE, ROOT, messages, strings_of
from worker.duties.alarm import Alarm
from worker.duties.alarms import evaluate
from worker.duties.facts import Facts
from worker.review.leave import ProviderStatus
from worker.review.providers import aliyun, aliyun2, cloudflare, huggingface, rekognition, tencent
from worker.settings import WorkerSettings

#: Names and codes, which stand for themselves.
CODES = re.compile(
    r"`[^`]*`|AVATARMOD_\w+|_KEY|_ENDPOINT|https?://\S*|--[a-z-]+|/v1/\w+|\b\w*[A-Z_:][\w:/.-]*"
    r"|'[^']*'|[\w./-]+@[\w./-]+|(?<![\w/])/[\w./-]+"
)

#: Names that are written small: programs, providers, settings of Redis, forms of data.
NAMES = set(
    re.findall(
        r"\w+",
        """avatarmod tune http https gzip porn float32 seq com blog changes aliyun aliyun2 tencent
        huggingface cloudflare rekognition moderate review copy audit callback domestic overseas
        maxmemory policy noeviction appendonly yes appendfsync always everysec allkeys lru
        virtual required example phash image safety postgresql db""",
    )
)


def english_in(shown: str) -> list[str]:
    """English words in a Chinese sentence that are no names."""
    bare = CODES.sub(" ", PLACE.sub(" ", shown))
    return [word for word in re.findall(r"[a-z]{3,}\d*", bare) if word not in NAMES]


@pytest.fixture(scope="module")
def chinese() -> Language:
    return load_languages(timezone="Asia/Shanghai", currency="CNY")["zh-CN"]


def test_no_translation_holds_english_words() -> None:
    """Only names, codes and commands stay as they are."""
    with CHINESE.open("rb") as file:
        found = {
            text: words
            for message in messages(read_po(file, locale="zh_CN"))
            for text in strings_of(message)
            if (words := english_in(text))
        }
    assert found == {}


# -- every alarm ---------------------------------------------------------------------------------


def endpoint(name: str, **facts: Any) -> Endpoint:
    """One that never took a callback."""
    values: dict[str, Any] = {
        "failing_since": None,
        "last_success_at": None,
        "last_error": "",
        "disabled": "",
    }
    return Endpoint(name=name, server="https://blog.example.com", **{**values, **facts})


def provider(reason: str) -> ProviderStatus:
    """One that is left alone, and whose budget is nearly spent."""
    return ProviderStatus(
        name="tencent",
        regions=("domestic",),
        state="open",
        reason=reason,
        until=2e9,
        rate_per_s=1.0,
        concurrency=1,
        in_flight=0,
        waiting=0,
        latency_s=None,
        calls_today=9,
        daily_calls=10,
        yuan_today=1.0,
        daily_yuan=None,
        yuan_per_1000=1.0,
        low=True,
        last_error=reason,
        last_error_at=1.0,
    )


def everything_wrong(**others: Any) -> Facts:
    """Facts that raise nearly every alarm at once."""
    values: dict[str, Any] = {
        "now": 1e6,
        "oldest_queued_at": 1.0,
        "oldest_reviewing_at": 1.0,
        "backlog": 10**9,
        "last_verdict_at": 2.0,
        "sweeper_alive": False,
        "stages_alive": frozenset(),
        "waiting": {"moderate": 3, "review": 3, "callback:a": 3, "copy": 3, "audit": 3},
        "dead_letters": 10**6,
        "dead_letters_last_hour": 10**6,
        "image_store_fault": said(StorageMisconfigured, store_fault),
        "second_fault": say("{bundle} does not load", bundle="image-safety-s@1"),
        "audits_explicit": 2,
        "endpoints": [
            endpoint("a", failing_since=1.0, last_error=of_error(error_of_a_callback())),
            endpoint("b", disabled=say("no success for {age_s}", age_s=400_000)),
            endpoint("c", is_page=True),
            endpoint("d", failing_since=1.0, last_error=private_address("10.1.2.3")),
        ],
        "providers": [
            provider(say("{who}: {error}", who="x", error=tencent.ERRORS["AuthFailure"][1]))
        ],
        "persistent": False,
        "persisting_fails": True,
        "eviction_policy": "allkeys-lru",
        "memory_share": 0.99,
        "lost_data": True,
        "clock_off_s": 100.0,
        "clock_lead_s": 0.0,
        "events_waiting": 20_000,
        "ledger_fault": say(
            "{why}; nor can {file} take them: {error}",
            why=say("the ledger does not answer: {error}", error="OperationalError"),
            file="/data/spill",
            error="ENOSPC",
        ),
        "look_alikes": {"phash:0123456789abcdef": 1000},
        "intake_oldest_at": 1.0,
    }
    return Facts(**{**values, **others})


def error_of_a_callback() -> CallbackFailed:
    return CallbackFailed(say("no answer: {error}", error="ConnectError"))


def private_address(address: str) -> str:
    import ipaddress

    return private_address_message("blog.example.com", ipaddress.ip_address(address))


def store_fault() -> None:
    FolderStore(Path("/nowhere/at/all"), max_bytes=1).check()


def said(kind: type[Exception], fails: Any) -> str:
    """What is said by the error that a call raises."""
    with pytest.raises(kind) as caught:
        fails()
    return of_error(caught.value)


def alarms() -> list[Alarm]:
    settings = WorkerSettings()
    found = {alarm.code: alarm for alarm in evaluate(everything_wrong(), settings)}
    for other in (
        {"last_verdict_at": None},
        {"clock_lead_s": 100.0},
        {"memory_share": 0.85},
        {"ledger_fault": ""},
    ):
        for alarm in evaluate(everything_wrong(**other), settings):
            found.setdefault(f"{alarm.code} {other}", alarm)
    return list(found.values())


def test_every_alarm_is_chinese_to_the_last_word(chinese: Language) -> None:
    """Also what it quotes of us: endpoints, breakers, ledger, models, stores."""
    every = alarms()
    assert len({alarm.code for alarm in every}) > 25
    for alarm in every:
        for sentence in (alarm.message, alarm.fix):
            assert isinstance(sentence, Text), sentence
            kept = of_json(str(sentence), json.loads(json.dumps(sentence.to_json())))
            shown = chinese.text(kept)
            assert english_in(shown) == [], (alarm.code, shown)


def test_what_another_program_said_is_quoted_as_it_is(chinese: Language) -> None:
    """A database's own words stand in our sentence; an old record has no parts, and is shown so."""
    text = say(
        "the ledger's database ({kind} at {where}) did not do it: {error}: {words}",
        kind="postgresql",
        where="db",
        error="OperationalError",
        words="the server closed the connection unexpectedly",
    )
    shown = chinese.text(unpack(pack(text)))
    assert shown.endswith("the server closed the connection unexpectedly")
    assert shown.startswith("台账的数据库（postgresql，db）")
    for old in ("no answer: ConnectError", '{"template"', '{"template": 3}', ""):
        assert chinese.text(unpack(old)) == old


# -- what errors say -------------------------------------------------------------------------------

#: Errors that end in an alarm, a dead letter, or beside an upload that waits.
LASTING = frozenset(
    name
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, errors.Transient | errors.Permanent)
    and not issubclass(kind, errors.QueueFull | errors.BrokerUnavailable | errors.NeedsLonger)
)

#: Rooms whose errors end so; the web tier answers its callers in English.
ROOMS = ("producer/*.py", "producer/record/*.py", "worker/*.py", "worker/*/*.py", "worker/*/*/*.py")

#: What is said to whoever calls a command.
TO_CALLERS = (
    "producer/client.py",
    "producer/forget.py",
    "producer/doorbell.py",
    "worker/tools/",
    "worker/commands/",
)


def bare_errors() -> Iterator[str]:
    """Where one is made of an English sentence alone."""
    for path in sorted(path for room in ROOMS for path in ROOT.glob(room)):
        name = str(path.relative_to(ROOT))
        if name.startswith(TO_CALLERS):
            continue
        for call in ast.walk(ast.parse(path.read_text())):
            if not isinstance(call, ast.Call) or getattr(call.func, "id", "") not in LASTING:
                continue
            if call.args and isinstance(call.args[0], ast.Constant | ast.JoinedStr | ast.BinOp):
                yield f"{name}:{call.lineno}"


def test_what_errors_say_can_be_translated() -> None:
    """Their sentences are made by `say`, which the catalogue is collected from."""
    assert "CallbackFailed" in LASTING
    assert "StorageMisconfigured" in LASTING
    assert list(bare_errors()) == []


def test_what_a_provider_tells_us_to_do_is_said_in_chinese(chinese: Language) -> None:
    """Every advice of every adapter."""
    tables: list[dict[Any, Any]] = [aliyun.GATEWAY_ADVICE, aliyun.BODY_ADVICE, aliyun2.ADVICE]
    tables += [cloudflare.ADVICE, huggingface.ADVICE, rekognition.ERRORS, tencent.ERRORS]
    found = [one if isinstance(one, str) else one[1] for table in tables for one in table.values()]
    assert len(found) > 60
    for advice in found:
        shown = chinese.text(advice)
        assert shown != advice, advice
        assert english_in(shown) == [], shown


def faults_of_stores(folder: Path) -> Iterator[str]:
    """Everything that stores of pictures say about their configuration."""
    (folder / "empty").mkdir()
    for name in ("none", "empty"):
        yield said(StorageMisconfigured, FolderStore(folder / name, max_bytes=1).check)
    for code in S3_REMEDIES:
        error = type("Refused", (Exception,), {"response": {"Error": {"Code": code}}})()
        store = S3Store(None, "faces", max_bytes=1, setting="AVATARMOD_SAFE_COPIES")
        yield of_error(store._trouble(error, say("does not answer")))


def test_what_is_wrong_with_a_store_is_said_in_chinese(chinese: Language, tmp_path: Path) -> None:
    """With the setting that names it, in the alarm and beside a dead letter."""
    found = list(faults_of_stores(tmp_path))
    assert len(found) > 15
    for fault in found:
        shown = chinese.text(unpack(pack(fault)))
        assert shown != fault, fault
        assert english_in(shown) == [], shown
    assert any("AVATARMOD_SAFE_COPIES" in fault for fault in found)
