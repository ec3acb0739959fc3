"""Random and mutated answers never approve, unless the documented harmless one has come whole.

Each adapter speaks through its real SDK to its stub; what is harmless is written down here a second
time, from the providers' documents, and not read from the adapters.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from producer.errors import (
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRejectedImage,
    ProviderUnavailable,
)
from producer.findings import Decision
from tests.providers.stub import Response, Stub
from tests.providers.support import settings, sha, tiny_jpeg
from tests.providers.wires import WIRES, Wire
from worker.review.providers.base import ReviewProvider
from worker.review.registry import build_providers

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

DATA_ID = sha("x")[:32]

#: What a call may end in besides an opinion.
KNOWN = (
    ProviderAnswerUnknown,
    ProviderMisconfigured,
    ProviderRejectedImage,
    ProviderUnavailable,
)

WORDS = [
    "Pass",
    "Block",
    "Review",
    "pass",
    "block",
    "review",
    "Normal",
    "normal",
    "Porn",
    "porn",
    "Sexy",
    "sexy",
    "Ad",
    "Novelty",
    "nonLabel",
    "nonLabel_lib",
    "pornographic_adultContent",
    "sexual_partialNudity",
    "sexual_underage",
    "ad_qr",
    "something_new",
    "none",
    "low",
    "medium",
    "high",
    "extreme",
    "Explicit",
    "Alcohol",
    "Animated",
    "explicit",
    "noul",
    "score",
    "nsfw",
    "NSFW",
    "sfw",
    "50",
    "0.99",
    "200",
    "²",
]

NAMES = [
    "Suggestion",
    "Label",
    "Scene",
    "Score",
    "LabelResults",
    "ObjectResults",
    "RiskLevel",
    "Result",
    "Data",
    "Code",
    "code",
    "data",
    "results",
    "scene",
    "label",
    "suggestion",
    "rate",
    "dataId",
    "DataId",
    "answers",
    "explicit",
    "noul",
    "type",
    "success",
    "errors",
    "result",
    "ModerationLabels",
    "Name",
    "ParentName",
    "Confidence",
    "ContentTypes",
    "ModerationModelVersion",
    "score",
]

values: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([*WORDS, ""]),
    st.sampled_from([0, 1, -1, 0.01, 0.5, 0.99, 30, 99.9, 100, 101, 200, 408, 500, 588, 1e308]),
    st.sampled_from([None, True, False, [], {}, [[]], [None]]),
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([*WORDS, 99, None]), max_size=3),
)

#: One change of a JSON value: where (a number that picks a path), how, with what.
edits = st.tuples(
    st.integers(0, 10**6),
    st.sampled_from(["replace", "delete", "twice", "append", "add"]),
    st.sampled_from(NAMES),
    values,
)

#: One change of what carries it.
carriers = st.one_of(
    st.just(("whole", None)),
    st.just(("whole", None)),
    st.tuples(st.just("status"), st.sampled_from([201, 204, 206, 302, 400, 403, 404, 429, 500])),
    st.tuples(st.just("encoding"), st.sampled_from(["gzip", "br", "deflate", "x"])),
    st.tuples(st.just("cut"), st.integers(0, 10**6)),
    st.tuples(st.just("short"), st.integers(1, 100)),
    st.tuples(st.just("junk"), st.sampled_from([b"{}", b"]", b"\xff", b"\n\n{}"])),
)


def paths(value: Any, here: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, the whole first."""
    yield here
    inner: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    for key, below in inner:
        yield from paths(below, (*here, key))


def edited(value: Any, where: int, how: str, name: str, new: Any) -> Any:
    """A changed copy."""
    root = [copy.deepcopy(value)]
    found = list(paths(root))[1:]
    path = found[where % len(found)]
    parent: Any = root
    for key in path[:-1]:
        parent = parent[key]
    target = parent[path[-1]]
    if how == "delete" and path != (0,):
        del parent[path[-1]]
    elif how == "twice" and isinstance(parent, list) and parent is not root:
        parent.append(copy.deepcopy(target))
    elif how == "append" and isinstance(target, list):
        target.append(new)
    elif how == "add" and isinstance(target, dict):
        target[name] = new
    else:
        parent[path[-1]] = new
    return root[0]


def carried(clean: Response, kind: str, what: Any) -> Response:
    """A response with another carrier."""
    match kind:
        case "status":
            return dataclasses.replace(clean, status=what)
        case "encoding":
            return dataclasses.replace(clean, headers={**clean.headers, "Content-Encoding": what})
        case "cut":
            return dataclasses.replace(clean, body=clean.body[: what % len(clean.body)])
        case "short":
            return dataclasses.replace(clean, length=len(clean.body) + what)
        case "junk":
            return dataclasses.replace(clean, body=clean.body + what)
    return clean


# -- what the documents call harmless --------------------------------------------------------------


def is_number(value: Any, low: float, high: float) -> bool:
    """A number of that range; some providers quote theirs."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return False
    try:
        return low <= float(value) <= high
    except ValueError:
        return False


def aliyun(reply: Any) -> bool:
    (task,) = reply["data"]
    (result,) = task["results"]
    return (
        reply["code"] == task["code"] == 200
        and task.get("dataId") in (None, "", DATA_ID)
        and result["scene"] == "porn"
        and (result["label"], result["suggestion"]) in (("normal", "pass"), ("sexy", "pass"))
        and is_number(result["rate"], 0, 100)
    )


def aliyun2(reply: Any) -> bool:
    data = reply["Data"]
    found = {entry["Label"]: entry.get("RiskLevel") for entry in data["Result"]}
    levels = {"none": 0, "low": 1, "medium": 2}
    worst = 0
    for label, level in found.items():
        if label in ("nonLabel", "nonLabel_lib"):
            if level not in (None, "none"):
                return False
        elif label != "ad_qr" or level not in ("low", "medium"):
            return False
        worst = max(worst, levels[level or "none"])
    overall = data.get("RiskLevel")
    return (
        reply["Code"] == 200
        and 0 < len(found) == len(data["Result"])
        and data.get("DataId") in (None, "", DATA_ID)
        and (overall is None or levels.get(overall, 9) <= worst)
    )


def tencent(reply: Any) -> bool:
    reply = reply["Response"]
    lists = ("LabelResults", "ObjectResults", "OcrResults", "LibResults")
    findings = [entry for name in lists for entry in reply.get(name) or []]
    return (
        (reply["Suggestion"], reply["Label"]) == ("Pass", "Normal")
        and all(entry["Suggestion"] == "Pass" for entry in findings)
        and reply.get("DataId") in (None, "", DATA_ID)
        and is_number(reply["Score"], 0, 100)
        and not reply.get("Error")
    )


def cloudflare(reply: Any) -> bool:
    found = reply["result"]["answers"]["explicit"]
    return (
        reply["success"] is True
        and not reply.get("errors")
        and found["type"] == "noul"
        and is_number(found["noul"], 0, 0.10)
    )


def huggingface(reply: Any) -> bool:
    if len(reply) == 1 and isinstance(reply[0], list):
        (reply,) = reply
    scores = {entry["label"].casefold(): float(entry["score"]) for entry in reply}
    return (
        len(scores) == len(reply)
        and all(is_number(entry["score"], 0, 1) for entry in reply)
        and scores["nsfw"] <= 0.10
        and 0.9 < sum(scores.values()) < 1.1
    )


def rekognition(reply: Any) -> bool:
    # Of the labels that these tests write in, only this one is harmless by itself.
    return (
        isinstance(reply["ModerationLabels"], list)
        and all(
            entry["Name"] == "Alcohol"
            and is_number(entry["Confidence"], 0, 100)
            and not entry.get("ParentName")
            for entry in reply["ModerationLabels"]
        )
        and len(reply["ModerationLabels"]) < 2
        and bool(reply["ModerationModelVersion"])
    )


HARMLESS: dict[str, Callable[[Any], bool]] = {
    check.__name__: check
    for check in (aliyun, aliyun2, tencent, cloudflare, huggingface, rekognition)
}


def is_harmless(name: str, body: bytes) -> bool:
    """Whether a whole body is the documented harmless answer."""
    try:
        return HARMLESS[name](json.loads(body))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return False


# -- the tests -------------------------------------------------------------------------------------


@dataclasses.dataclass
class Bench:
    """One adapter in front of its stub."""

    wire: Wire
    adapter: ReviewProvider

    def decide(self, edit: Callable[[Response], Response]) -> Decision | None:
        """What becomes of a clean answer that is changed on its way; None: a typed failure."""
        self.wire.edit = edit
        try:
            return self.adapter.review(tiny_jpeg(), data_id=DATA_ID).decision
        except KNOWN:
            return None


@pytest.fixture(scope="module", params=WIRES, ids=lambda wire: wire.name)
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    wire = request.param()
    with pytest.MonkeyPatch.context() as patch, Stub(wire.respond) as stub:
        patch.setenv("NO_PROXY", "127.0.0.1")
        config = settings(
            review_domestic=(wire.name,), review_timeout_s=20.0, **wire.settings(stub.url)
        )
        adapter = build_providers(config)[wire.name]
        yield Bench(wire, adapter)
        adapter.close()


lenient = hypothesis_settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def test_the_harmless_answer_approves(bench: Bench) -> None:
    """Else the tests below would prove nothing."""
    bodies: list[bytes] = []

    def look(clean: Response) -> Response:
        bodies.append(clean.body)
        return clean

    assert bench.decide(look) is Decision.APPROVE
    assert is_harmless(bench.wire.name, bodies[0])


@given(changes=st.lists(edits, max_size=3), carrier=carriers)
@lenient
def test_a_changed_answer_approves_only_if_it_is_still_harmless(
    bench: Bench, changes: list[tuple[int, str, str, Any]], carrier: tuple[str, Any]
) -> None:
    """Labels, scenes, scores, codes, shapes, statuses, encodings, lengths, in any combination."""
    sent: list[Response] = []

    def change(clean: Response) -> Response:
        value = json.loads(clean.body)
        for edit in changes:
            value = edited(value, *edit)
        whole = dataclasses.replace(clean, body=json.dumps(value).encode())
        sent.append(whole)
        return carried(whole, *carrier)

    if bench.decide(change) is Decision.APPROVE:
        assert carrier[0] == "whole" or is_same(sent[0], carrier)
        assert is_harmless(bench.wire.name, sent[0].body)


def is_same(whole: Response, carrier: tuple[str, Any]) -> bool:
    """Whether the carrier changed nothing that counts: blanks at the end of a body."""
    changed = carried(whole, *carrier)
    return (
        (changed.status, changed.length) == (200, None)
        and "Content-Encoding" not in (changed.headers)
        and changed.body.strip() == whole.body.strip()
    )


@given(body=st.binary(max_size=200), status=st.sampled_from([200, 200, 200, 400, 403, 429, 500]))
@example(body=b"", status=200)
@example(body=b'"Pass"', status=200)
@lenient
def test_noise_never_approves(bench: Bench, body: bytes, status: int) -> None:
    """Whatever comes, the end is a typed failure."""
    assert bench.decide(lambda clean: dataclasses.replace(clean, body=body, status=status)) is None


#: Answers that once approved, or nearly: what makes them of the clean one.
CONTRADICTIONS: dict[str, list[Callable[[Any], Any]]] = {
    "aliyun": [
        lambda r: r["data"][0]["results"].append(dict(r["data"][0]["results"][0])),
        lambda r: r["data"][0]["results"][0].update(label="porn"),
        lambda r: r["data"][0].update(dataId="of another picture"),
    ],
    "aliyun2": [
        lambda r: r["Data"]["Result"][0].update(Label="novelty", RiskLevel="low"),
        lambda r: r["Data"]["Result"][0].update(Label="novelty", RiskLevel="medium"),
        lambda r: r["Data"]["Result"].append(
            {"Label": "pornographic_adultContent", "RiskLevel": "none", "Confidence": 9}
        ),
        lambda r: r["Data"].update(RiskLevel="high"),
        lambda r: r["Data"]["Result"][0].update(RiskLevel="high"),
        lambda r: r["Data"]["Result"].append(dict(r["Data"]["Result"][0])),
    ],
    "tencent": [
        lambda r: r["Response"].update(Label="Novelty"),
        lambda r: r["Response"].pop("Label"),
        lambda r: r["Response"].update(Label="Ad"),
        lambda r: r["Response"].update(
            LabelResults=[{"Scene": "Porn", "Suggestion": "Review", "Label": "Porn", "Score": 70}]
        ),
        lambda r: r["Response"].update(ObjectResults=[{"Suggestion": "Block"}]),
    ],
    "cloudflare": [
        lambda r: r.update(errors=[{"code": 3040, "message": "no"}]),
        lambda r: r["result"]["answers"]["explicit"].update(type="score"),
    ],
    "huggingface": [
        lambda r: r.append({"label": "nsfw", "score": 0.99}),
        lambda r: r.insert(0, {"label": "nsfw", "score": 0.99}),
        lambda r: r.pop(),
    ],
    "rekognition": [
        lambda r: r.pop("ModerationModelVersion"),
        lambda r: r["ModerationLabels"].append(
            {"Name": "Alcohol", "ParentName": "Explicit", "Confidence": 95.0}
        ),
    ],
}


def test_what_contradicts_itself_never_approves(bench: Bench) -> None:
    """An unknown or a missing label, a scene on review, one label twice, two levels of risk."""

    def twisted(clean: Response, change: Callable[[Any], Any]) -> Response:
        value = json.loads(clean.body)
        change(value)
        return dataclasses.replace(clean, body=json.dumps(value).encode())

    for change in CONTRADICTIONS[bench.wire.name]:
        decision = bench.decide(functools.partial(twisted, change=change))
        assert decision is not Decision.APPROVE, inspect.getsource(change)
