"""Whatever looks at a picture says the same of it: the worker as it is built, and every tool.

300 odd pictures go through the worker's own drain, then through what evaluation, tuning,
calibration, rescans, shadows, forecasts and what-ifs are made of, under combinations of options,
with one model and with two. All is real but the networks, which would take minutes: sums over the
same pixels stand for them, spread over all verdicts. Some pictures go through the networks
themselves.
"""

from __future__ import annotations

import dataclasses
import io
import json
import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import redis
from PIL import Image, ImageDraw

from producer.contract import Avatar, AvatarState, Region, Verdict
from producer.record.store import Store, Transition
from tests.support import events
from worker.app import Worker
from worker.demo.pictures import cartoon_face, dunes, encode, identicon, landscape, letter_tile
from worker.ledger.writer import Ledger
from worker.model.bundle import DESCRIPTION_FILE, SHIPPED_FOLDER
from worker.model.engine import Engine
from worker.model.style import StyleHead
from worker.moderation.batch import ModerateDrain
from worker.moderation.road import policy_in_use
from worker.settings import WorkerSettings
from worker.tools.backfill import Item
from worker.tools.dataset import Labelled
from worker.tools.evaluation import evaluate
from worker.tools.forecast import forecast
from worker.tools.rescan import Rescan
from worker.tools.scoring import Scorer, open_scorers
from worker.tools.shadow import Shadow
from worker.tools.what_if import judge_row

#: Cut-offs in the midst of what the default bundle says of harmless pictures, wide apart for the
#: two styles, so that verdicts, styles and rules of animations all occur.
POLICY = """
[photo]
approve_below = 0.02
block_from = 0.2
[drawn]
approve_below = 0.005
block_from = 0.5
"""

OPTIONS: dict[str, dict[str, str]] = {
    "default": {},
    "hidden colours": {"HIDDEN_COLOURS": "true"},
    "served crops, no flat rule": {"SERVED_CROP": "both", "FLAT_RULE": "false"},
    "padded, two frames": {"PAD_TO_SQUARE": "true", "SCORED_FRAMES": "2"},
    "strict limits": {"HIDDEN_COLOURS": "true", "MAX_SIDE_PX": "200", "SERVED_CROP": "square"},
}

#: A second model, which wants other pixels than the first.
SECOND = """
[second]
bundle = "second"
ask = "{ask}"
veto_from = 0.2
drawn_veto_from = 0.6
clear_below = 0.1
clear_up_to = 0.4
block_needs = 0.02
hold_from = 0.9
"""

#: Combinations with a second model: when it is asked, and other options.
ASKED = {
    "second always": {"ASK": "always"},
    "second always, served crops, padded": {
        "ASK": "always",
        "SERVED_CROP": "both",
        "PAD_TO_SQUARE": "true",
    },
    "second if gray": {"ASK": "gray", "HIDDEN_COLOURS": "true"},
    "second missing": {"ASK": "always"},
}

KINDS = 12

#: The combination in which the real networks look, at every eighth picture.
REAL = "default, real networks"


def picture(number: int) -> bytes:
    """One odd picture; twelve kinds by turns."""
    dice = random.Random(number)
    drawings = (landscape, dunes, cartoon_face)
    image = drawings[number % 3](number).convert("RGB").resize((120, 120))
    kind = number // 3 % KINDS
    if kind == 0:
        return encode(image, "JPEG")
    if kind == 1:  # small
        return encode(image.resize((dice.randint(8, 79), dice.randint(8, 79))), "PNG")
    if kind in (2, 3):  # wide, tall
        long_px = dice.randint(190, 400)
        return encode(image.resize((long_px, 100) if kind == 2 else (100, long_px)), "JPEG")
    if kind in (4, 5):  # animations
        frames = [
            drawings[dice.randrange(3)](dice.randrange(99)) for _ in range(dice.randint(2, 5))
        ]
        out = io.BytesIO()
        small = [frame.convert("RGB").resize((100, 100)) for frame in frames]
        form = "GIF" if kind == 4 else "WEBP"
        small[0].save(out, form, save_all=True, append_images=small[1:], duration=100)
        return out.getvalue()
    if kind in (6, 7):  # transparent, with other colours where nothing shows
        mask = Image.new("L", image.size, 255 if kind == 6 else 0)
        box = [dice.randint(0, 40), 10, 100, 110]
        ImageDraw.Draw(mask).ellipse(box, fill=0 if kind == 6 else 255)
        image.putalpha(mask)
        return encode(image, "PNG")
    if kind == 8:  # flat
        return encode(letter_tile() if dice.random() < 0.3 else identicon(number), "PNG")
    if kind == 9:  # one colour
        return encode(Image.new("RGB", (64, 64), (number % 256, 90, 7)), "PNG")
    data = encode(image, "PNG")
    if kind == 10:  # damaged
        return data[: len(data) // 2]
    return encode(image.resize((300, 300)).convert("L"), "WEBP")


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """By upload id; no content twice."""
    found = {f"p{number}": picture(number) for number in range(300)}
    return {name: data for data, name in {data: name for name, data in found.items()}.items()}


def output(
    self: Engine, _session: object, pixels: npt.NDArray[np.uint8]
) -> npt.NDArray[np.float32]:
    """Most pictures score low, as with the real model; a visible difference changes the score."""
    spec = self.bundle.input
    assert pixels.shape[1:] == (spec.height_px, spec.width_px, 3)
    weights = (0.7, 1.3, 2.9) if self.bundle.name != "second" else (1.9, 0.3, 1.1)
    colours = pixels.astype(np.float64).mean(axis=(1, 2)) @ weights
    explicit = np.asarray((np.sin(colours) / 2 + 0.5) ** 4, dtype=np.float32)
    columns = [explicit if label == "nsfw" else 1 - explicit for label in self.bundle.labels]
    return np.stack(columns, axis=1)


def write_second(models_folder: Path) -> None:
    """A bundle of the shipped file under another name, with another input rule."""
    data = json.loads((SHIPPED_FOLDER / "open-nsfw" / DESCRIPTION_FILE).read_text())
    rule = {"width_px": 160, "height_px": 160, "resize_px": 160, "interpolation": "bicubic"}
    data |= {"name": "second", "input": {**data["input"], **rule, "resize": "short_side"}}
    (models_folder / "second").mkdir(parents=True)
    (models_folder / "second" / DESCRIPTION_FILE).write_text(json.dumps(data))


def drawn_probability(_self: StyleHead, pixels: npt.NDArray[np.uint8]) -> float:
    """By the same pixels, independent of the score."""
    return float(np.cos(pixels.astype(np.float64).mean() * 3) / 2 + 0.5)


@dataclasses.dataclass
class Road:
    """A worker's parts under one combination of options."""

    settings: WorkerSettings
    store: Store
    drain: ModerateDrain
    every: int
    name: str


@pytest.fixture(params=[*OPTIONS, *ASKED, REAL])
def road(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    valkey_url: str,
    redis_server: redis.Redis,
) -> Iterator[Road]:
    """Built by the composition root of the worker process, from its environment."""
    options = {**OPTIONS, **ASKED}.get(request.param, {})
    ask = options.get("ASK")
    (tmp_path / "policy.toml").write_text(POLICY + (SECOND.format(ask=ask) if ask else ""))
    if ask and request.param != "second missing":
        write_second(tmp_path / "data" / "models")
    namespace = f"road{random.getrandbits(32):x}"
    for name, value in {
        "DATA_FOLDER": str(tmp_path / "data"),
        "REDIS_URL": valkey_url,
        "NAMESPACE": namespace,
        "POLICY_FILE": str(tmp_path / "policy.toml"),
        "REVIEW_DOMESTIC": "fake",
        "MICRO_BATCH": "4",
        **{name: value for name, value in options.items() if name != "ASK"},
    }.items():
        monkeypatch.setenv(f"AVATARMOD_{name}", value)
    if request.param != REAL:
        monkeypatch.setattr(Engine, "_run", output)
        monkeypatch.setattr(StyleHead, "drawn_probability", drawn_probability)
    drains: list[ModerateDrain] = []

    def make_drain(**parts: Any) -> ModerateDrain:
        drains.append(ModerateDrain(**parts))
        return drains[-1]

    monkeypatch.setattr("worker.roles.moderate.ModerateDrain", make_drain)
    settings = WorkerSettings()
    Path(settings.image_folder).mkdir(parents=True)
    worker = Worker("moderate", settings)
    yield Road(
        settings,
        Store(redis_server, namespace, record_ttl_s=3600.0),
        drains[0],
        8 if request.param == REAL else 1,
        request.param,
    )
    for close in worker.parts.closers:
        close()


Said = tuple[str, str, str, int, str, Any, Any]


def said(fields: Any) -> Said:
    """State, reason, style, worst view, its probability and the second model's, of a record."""
    probability = getattr(fields, "probability", None)
    return (
        str(fields.state),
        fields.reason,
        fields.style,
        int(fields.frame or 0),
        fields.background,
        float(probability or 0),
        float(fields.second_probability or 0),
    )


def test_every_tool_says_what_the_worker_says(road: Road, pictures: dict[str, bytes]) -> None:
    """Same verdict, reason, style and worst view, picture by picture."""
    settings, store = road.settings, road.store
    pictures = dict(list(pictures.items())[:: road.every])
    for name, data in pictures.items():
        (Path(settings.image_folder) / name).write_bytes(data)
        store.submit(Avatar(upload_id=name, state=AvatarState.QUEUED, seq=1), max_backlog=999)
    assert road.drain.drain(threading.Event()) == len(pictures)
    live = {a.upload_id: said(a) for a in store.get_many(list(pictures)) if a}
    judged = {name: row for name, row in live.items() if row[0] != "rejected"}
    states = Counter(row[0] for row in live.values())
    everything = {"approved", "blocked", "reviewing", "rejected"}
    assert set(states) == (everything if road.every == 1 else everything - {"blocked"}), states
    check_second(road, live)

    policy = policy_in_use(settings)
    with open_scorers(settings, [settings.bundle], policy) as [scorer]:
        check_evaluation(scorer, pictures, live, judged)
        check_rescan(road, scorer, pictures, judged)
        check_shadow(road, scorer, pictures, judged)
    if road.name != "second missing":  # what it would have said cannot be told
        check_what_if(road, judged)
    items = [Item(name, name) for name in pictures]
    found = forecast(settings, items[:60], 60, lambda item: pictures[item.upload_id])
    assert found.verdicts == Counter(verdict_of(live[item.upload_id][0]) for item in items[:60])


def check_second(road: Road, live: dict[str, Said]) -> None:
    """Every word that the second model has is heard somewhere among these pictures."""
    reasons = {row[1] for row in live.values()}
    said = {reason for reason in reasons if reason.startswith("second_")}
    expected = {
        "second always": {"second_veto", "second_clear", "second_disagrees"},
        "second always, served crops, padded": {"second_veto", "second_clear", "second_disagrees"},
        "second if gray": {"second_clear"},
        "second missing": {"second_missing"},
    }
    assert said == expected.get(road.name, set())
    if road.name == "second missing":
        # Only what a rule explains is approved without it.
        assert {row[1].partition(":")[0] for row in live.values() if row[0] == "approved"} == {
            "flat"
        }


def verdict_of(state: str) -> str:
    """`gray` for what goes to review."""
    return "gray" if state == "reviewing" else state


def check_evaluation(
    scorer: Scorer, pictures: dict[str, bytes], live: dict[str, Said], judged: dict[str, Said]
) -> None:
    """`evaluate`, `tune` and `calibrate` judge by this one function."""
    samples = [
        Labelled(name=name, read=lambda data=data: data, explicit=False)  # type: ignore[misc]
        for name, data in pictures.items()
    ]
    policy = policy_in_use(scorer._settings)
    one = evaluate(scorer, samples, policy, Region.DOMESTIC)
    found = {}
    for each in one.judged:
        worst, second = each.judgement.worst, each.judgement.second
        state = "reviewing" if each.verdict == Verdict.GRAY else str(each.verdict)
        found[each.labelled.name] = (
            state,
            each.judgement.reason,
            each.judgement.style,
            worst.frame,
            worst.background,
            pytest.approx(worst.probability, abs=1e-5),
            pytest.approx(second.probability if second else 0.0, abs=1e-5),
        )
    assert found == judged
    assert sum(one.skipped.values()) == len(live) - len(judged)


def check_rescan(
    road: Road, scorer: Scorer, pictures: dict[str, bytes], judged: dict[str, Said]
) -> None:
    """Records that an older bundle decided otherwise become what the worker would make of them."""
    store, policy = road.store, policy_in_use(road.settings)
    before = {}
    for name, row in judged.items():
        state = AvatarState.BLOCKED if row[0] != "blocked" else AvatarState.APPROVED
        before[f"old-{name}"] = state
        store.submit(
            Avatar(upload_id=f"old-{name}", state=AvatarState.QUEUED, seq=1), max_backlog=999
        )
    old = {
        "decided_by": "model",
        "bundle": "old@1",
        "policy": "old",
        "frame": "7",
        "style": "drawn",
    }
    store.advance(
        [
            Transition(avatar=a, to=before[a.upload_id], fields={**old, "background": "black"})
            for a in store.get_many(list(before))
            if a
        ]
    )
    work = Rescan(
        store=store,
        fetch=lambda _image, upload_id: pictures[upload_id.removeprefix("old-")],
        scorer=scorer,
        policy=policy,
        has_reviewers=lambda _region: True,
        dry_run=False,
    )
    assert set(work.run(before)) == {"changed"}
    for avatar in store.get_many(list(before)):
        assert avatar is not None
        expected = judged[avatar.upload_id.removeprefix("old-")]
        numbers = [pytest.approx(number, abs=1e-5) for number in expected[-2:]]
        assert said(avatar) == (*expected[:-2], *numbers)


def check_shadow(
    road: Road, scorer: Scorer, pictures: dict[str, bytes], judged: dict[str, Said]
) -> None:
    """What a shadow with the live bundle and policy would have said is what live said."""
    rows = [
        {
            "id": number,
            "upload_id": name,
            "sha256": "",
            "region": "domestic",
            "to_state": row[0],
            "probability": 0.0,
            "seq": 2,
        }
        for number, (name, row) in enumerate(judged.items(), 1)
    ]
    ledger = SimpleNamespace(
        judged_after=lambda last, most: [row for row in rows if row["id"] > last][:most],
        image_of=lambda upload_id: upload_id,
    )
    shadow = Shadow(
        ledger=ledger,  # type: ignore[arg-type]
        store=road.store,
        fetch=lambda _image, upload_id: pictures[upload_id],
        scorer=scorer,
        policy=policy_in_use(road.settings),
        share=1.0,
        position_file=Path(road.settings.data_folder) / "position",
    )
    while shadow.step():
        continue
    looks = [event for event in events(road.store) if event["kind"] == "shadow"]
    assert len(looks) == len(judged)
    assert all(look["from"] == look["to"] for look in looks)


def check_what_if(road: Road, judged: dict[str, Said]) -> None:
    """The ledger's rows, judged again by the same policy, keep their verdicts."""
    policy = policy_in_use(road.settings)
    ledger = Ledger.open(road.settings)
    try:
        while ledger.drain(road.store):
            continue
        rows = [row for row in ledger.judged() if row["upload_id"] in judged]
        assert len(rows) > 100 // road.every
        for row in rows:
            verdict = judge_row(row, policy, lambda _row: pytest.fail("the style was asked for"))
            assert verdict_of(judged[row["upload_id"]][0]) == str(verdict)
    finally:
        ledger.close()
