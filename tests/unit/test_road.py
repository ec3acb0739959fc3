"""What was said of a picture is enough to judge it again, and settings shape one road."""

from __future__ import annotations

import dataclasses
import io
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from producer.contract import Region, Verdict
from producer.errors import BundleError, InferenceFailed
from tests.unit.pictures import STRETCH as SPEC
from worker.image.decoder import DecodeLimits, Decoder, Picture, View, ViewOptions
from worker.model.bundle import Bundle
from worker.model.calibration import Identity, LabelSmoothing
from worker.model.engine import Score
from worker.moderation.panel import Ask, SecondLook, SecondScore
from worker.moderation.policy import CutOffs, Policy, ViewScore
from worker.moderation.road import (
    ask_second,
    lacks_second,
    open_second,
    policy_in_use,
    record_fields,
    score,
    view_options,
    view_score,
)
from worker.moderation.scored import Scored
from worker.moderation.second import SecondModel
from worker.settings import WorkerSettings
from worker.tools.scoring import ScoreMemory, as_pair

POLICY = Policy(
    photo=CutOffs(approve_below=0.1, block_from=0.5),
    drawn=CutOffs(approve_below=0.1, block_from=0.9),
)


def scored(*raw: float, **fields: object) -> Scored:
    views = tuple(ViewScore(raw_score=r, probability=r, frame=n) for n, r in enumerate(raw))
    return Scored(**{"sha256": "a" * 64, "views": views, **fields})  # type: ignore[arg-type]


def never() -> float:
    return pytest.fail("the style was asked for")


def test_a_small_picture_is_judged_as_a_drawing_without_asking() -> None:
    """0.6 blocks a photo; of a small picture a person or provider must say it."""
    found = scored(0.6, is_small=True).judge(POLICY, Region.DOMESTIC, never)
    assert (found.verdict, found.style) == (Verdict.GRAY, "small")
    assert scored(0.6).judge(POLICY, Region.DOMESTIC, lambda: 0.0).verdict == Verdict.BLOCKED


def test_a_rule_names_itself_and_no_model() -> None:
    """A flat picture has neither score nor bundle in its record."""
    found = scored(flat="identicon").judge(POLICY, Region.DOMESTIC, never)
    assert record_fields(found, "b@1", POLICY) == {
        "state": "approved",
        "reason": "flat: identicon",
        "decided_by": "rule",
        "policy": POLICY.version,
    }


@pytest.mark.parametrize("fields", [{}, {"flat": "identicon"}])
def test_what_was_not_scored_is_never_approved(fields: dict[str, str]) -> None:
    """Neither by the model nor by a rule; an explicit view still blocks."""
    found = scored(0.0, doubt="unseen_frames", **fields).judge(POLICY, Region.DOMESTIC, never)
    assert (found.verdict, found.reason) == (Verdict.GRAY, "unseen_frames")
    worst = scored(0.99, doubt="unseen_frames").judge(POLICY, Region.DOMESTIC, lambda: 0.0)
    assert worst.verdict == Verdict.BLOCKED


@pytest.mark.process
def test_what_the_decoder_leaves_out_is_what_the_judge_hears_of() -> None:
    """A film of more different frames than are scored is gray, however harmless each score is."""
    dice = random.Random(7)
    frames = [
        Image.frombytes("RGB", (8, 8), dice.randbytes(192)).resize((96, 96)) for _ in range(80)
    ]
    film = io.BytesIO()
    frames[0].save(
        film, "WEBP", save_all=True, append_images=frames[1:], duration=50, lossless=True
    )
    options = ViewOptions(spec=SPEC, max_frames=8)
    with Decoder(DecodeLimits(), options) as decoder:
        picture = decoder.decode(film.getvalue())
    assert 0 < len({view.frame for view in picture.views}) <= 8
    harmless = [view_score(view, 0.0, 0.0) for view in picture.views]
    found = Scored.of("a" * 64, picture, harmless).judge(POLICY, Region.DOMESTIC, never)
    assert (found.verdict, found.reason) == (Verdict.GRAY, "unseen_frames")


def test_the_worst_view_is_the_same_under_every_calibration(tmp_path: Path) -> None:
    """Where a calibration is level, the raw score tells which view counts."""
    memory = ScoreMemory(tmp_path / "scores.sqlite3")
    memory.put("how", scored(0.96, 0.99, 0.2))
    for calibration in (Identity(), LabelSmoothing(epsilon=0.1)):
        found = memory.get("a" * 64, "how", calibration)
        assert found is not None
        assert found.worst == 1
        assert found.judge(POLICY, Region.DOMESTIC, never).worst.frame == 1
    assert found.probability == 1.0
    memory.close()


def test_what_is_remembered_comes_back_whole(tmp_path: Path) -> None:
    """Everything that a judgement depends on; under another way of scoring nothing is known."""
    memory = ScoreMemory(tmp_path / "scores.sqlite3")
    whole = scored(0.25, 0.125, is_small=True, doubt="ambiguous", drawn=0.75, format="GIF")
    said = SecondScore(probability=0.5, raw_score=0.5, hold=0.25)
    whole = dataclasses.replace(whole, second=(said, said))
    memory.put("how", whole)
    assert memory.get("a" * 64, "how", Identity()) == whole
    other = memory.get("a" * 64, "how", Identity(), LabelSmoothing(epsilon=0.1, classes=3))
    assert other is not None
    assert other.second[0].probability == pytest.approx((0.5 - 1 / 30) / 0.9)
    assert memory.get("a" * 64, "other", Identity()) is None
    memory.close()


class Stub:
    """A second model's engine: the mean level is its score; a white picture breaks it."""

    micro_batch = 2

    def score(self, pixels: Any, cut_offs: Sequence[float] = ()) -> list[Score]:
        means = pixels.mean(axis=(1, 2, 3)) / 255
        if means.max() == 1:
            raise InferenceFailed("white")
        return [Score(float(m), float(m) / 2, hold=1 - float(m)) for m in means]


def second_model(make: Callable[[Any], Any] = lambda _: Stub(), ask: Ask = "always") -> SecondModel:
    bundle = SimpleNamespace(id="second@1", input=None)
    return SecondModel(SecondLook(ask=ask), bundle, make)  # type: ignore[arg-type]


def picture_of(*levels: int) -> Picture:
    views = [
        View(
            pixels=np.full((4, 4, 3), level, np.uint8),
            frame=n,
            background="",
            crop="whole",
        )
        for n, level in enumerate(levels)
    ]
    return Picture(
        format="PNG", width_px=90, height_px=90, frame_count=len(levels), views=views, flat=None
    )


def test_the_second_model_looks_at_the_same_views() -> None:
    """One score a view; the worst of each counts, and the strongest hold."""
    pictures = {"a": picture_of(0, 51, 204), "b": picture_of(102)}
    found = score(Stub(), pictures, (), second_model())
    a, b = found["a"], found["b"]
    assert isinstance(a, Scored)
    assert isinstance(b, Scored)
    assert [round(one.raw_score, 3) for one in a.second] == [0.0, 0.2, 0.8]
    assert a.second_worst == SecondScore(
        probability=pytest.approx(0.4), raw_score=pytest.approx(0.8), hold=1.0
    )
    assert len(b.second) == 1


def test_what_the_second_model_cannot_score_is_left_out_alone() -> None:
    """Its neighbours in the batch keep their word; the picture itself has none, so it is gray."""
    views = {"a": picture_of(51).views, "white": picture_of(0, 255).views}
    assert set(second_model().score(views)) == {"a"}


def test_a_second_model_that_does_not_load_says_nothing_once_and_for_all() -> None:
    """The worker goes on; it is not loaded again for every picture."""
    tries = []

    def make(bundle: Any) -> Any:
        tries.append(bundle)
        raise BundleError("does not fit this CPU")

    second = second_model(make)
    for _ in range(3):
        assert second.score({"a": picture_of(1).views}) == {}
    assert len(tries) == 1
    assert second.fault == "second@1 does not load"


def test_whatever_stops_a_second_model_from_loading_stops_nothing_else() -> None:
    """What needed its word is gray, in a batch and alone; nothing is approved without it."""

    def make(bundle: Any) -> Any:
        raise RuntimeError("an operator that this runtime does not know")

    second = second_model(make)
    found = score(Stub(), {"a": picture_of(0), "b": picture_of(0)}, (), second)
    for one in found.values():
        assert isinstance(one, Scored)
        judged = one.judge(Policy(second=SecondLook()), Region.DOMESTIC, never)
        assert (judged.verdict, judged.reason) == ("gray", "second_missing")


def test_a_second_model_that_fails_says_so_until_it_works_again() -> None:
    """The alarm stands as long as its word is missing."""
    second = second_model()
    second.score({"white": picture_of(255).views})
    assert second.fault == "second@1 fails with InferenceFailed"
    second.score({"a": picture_of(1).views})
    assert second.fault == ""


def test_asked_only_of_gray_it_is_loaded_with_the_first_gray_picture() -> None:
    """Until then its memory is not taken."""
    made = []
    second = second_model(lambda bundle: made.append(bundle) or Stub(), ask="gray")
    found = score(Stub(), {"a": picture_of(51)}, (), second)["a"]
    assert isinstance(found, Scored)
    assert (found.second, made) == ((), [])
    asked = ask_second(second, found, picture_of(51))
    assert (len(asked.second), len(made)) == (1, 1)


def test_a_machine_without_the_default_second_model_goes_on_with_one(tmp_path: Path) -> None:
    """It says how to get it; a file that names one does without it only by letting nothing pass."""
    settings = WorkerSettings(data_folder=tmp_path, models_folder=tmp_path / "models")
    policy = policy_in_use(settings)
    assert policy == Policy()
    assert open_second(settings, policy) is None
    assert lacks_second(settings) == "avatarmod bundle install image-safety-s"
    (tmp_path / "models" / "image-safety-s").mkdir(parents=True)
    damaged = policy_in_use(settings)
    assert damaged == Policy(second=SecondLook())
    found = open_second(settings, damaged)
    assert found is not None
    assert (found.id, found.score({"a": picture_of(1).views})) == ("", {})
    assert lacks_second(settings) == ""


def test_a_policy_file_that_names_a_second_model_insists_on_it(tmp_path: Path) -> None:
    """Or says that it wants none, which is no lack."""
    path = tmp_path / "policy.toml"
    settings = WorkerSettings(data_folder=tmp_path, policy_file=path)
    path.write_text("[second]\nbundle = 'absent'\n")
    policy = policy_in_use(settings)
    assert (policy.second.bundle, policy.second.ask) == ("absent", "always")
    assert open_second(settings, policy) is not None
    path.write_text("[second]\nask = 'off'\n")
    assert open_second(settings, policy_in_use(settings)) is None
    assert lacks_second(settings) == ""


def test_a_record_names_what_both_models_said() -> None:
    """Each with its bundle and both of its numbers; a hold only where there is one."""
    second = SecondScore(probability=0.01, raw_score=0.04, hold=0.00001)
    policy = Policy(second=SecondLook())
    found = scored(0.3).judge(policy, Region.DOMESTIC, never, lambda: second)
    fields = record_fields(found, "b@1", policy, "second@1")
    assert {name: text for name, text in fields.items() if name.startswith("second")} == {
        "second_bundle": "second@1",
        "second_raw": "0.040000",
        "second_probability": "0.010000",
    }
    assert (fields["state"], fields["reason"]) == ("approved", "second_clear")


def test_every_way_of_looking_and_every_limit_comes_from_the_settings(tmp_path: Path) -> None:
    """What has a setting is set by it; only what has none keeps its default."""
    settings = WorkerSettings(
        data_folder=tmp_path,
        scored_frames=5,
        served_crop="both",
        pad_to_square=True,
        flat_rule=False,
        hidden_colours=True,
    )
    spec = Bundle.load("open-nsfw", tmp_path).input
    options, default = view_options(settings, spec), ViewOptions(spec=spec)
    same = {
        field.name
        for field in dataclasses.fields(ViewOptions)
        if getattr(options, field.name) == getattr(default, field.name)
    }
    assert same <= {"spec", "second_spec", "max_views", "backgrounds"}
    assert set(settings.decode_limits()) == {f.name for f in dataclasses.fields(DecodeLimits)}


@pytest.mark.parametrize(
    ("name", "first", "second", "ask"),
    [
        ("a", "a", "image-safety-s", "always"),
        ("a+b", "a", "b", "always"),
        ("a+none", "a", "image-safety-s", "off"),
        ("/models/x+y/a+b", "/models/x+y/a", "b", "always"),
    ],
)
def test_tools_name_a_pair_with_a_plus(name: str, first: str, second: str, ask: str) -> None:
    """Without one the policy says who looks beside; with one it is asked, whatever it says."""
    bundle, policy = as_pair(name, Policy(second=SecondLook()))
    assert (bundle, policy.second.bundle, policy.second.ask) == (first, second, ask)
    assert as_pair("a+b", Policy())[1].second.ask == "always"
