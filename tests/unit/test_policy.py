"""Probabilities and rules in, one judgement out."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from producer.contract import Region, Verdict
from producer.errors import PolicyError
from worker.moderation.panel import SecondLook, SecondScore
from worker.moderation.policy import (
    CutOffs,
    Judgement,
    Policy,
    ViewScore,
    judge,
    load_policy,
    parse_policy,
)

ORDER = [Verdict.APPROVED, Verdict.GRAY, Verdict.BLOCKED]
probabilities = st.floats(0, 1)
cut_offs = st.tuples(probabilities, probabilities).map(
    lambda pair: CutOffs(approve_below=min(pair), block_from=max(pair))
)
policies = st.builds(Policy, photo=cut_offs, drawn=cut_offs, frames_to_block=st.integers(1, 3))


def view(probability: float, frame: int = 0, **fields: Any) -> ViewScore:
    """One view; its raw score is not what a policy looks at."""
    return ViewScore(raw_score=0.5, probability=probability, frame=frame, **fields)


def photo(_: ViewScore) -> float:
    """Every view is a photo."""
    return 0.0


def never_asked(_: ViewScore) -> float:
    """Fails a test in which the style must not matter."""
    raise AssertionError("the style was asked for")


class TestCutOffs:
    @pytest.mark.parametrize(
        ("probability", "verdict"),
        [
            (0.0, "approved"),
            (0.0999999, "approved"),
            (0.1, "gray"),
            (0.8999999, "gray"),
            (0.9, "blocked"),
            (1.0, "blocked"),
            (float("nan"), "gray"),
        ],
    )
    def test_boundaries_belong_to_the_stricter_side(self, probability: float, verdict: str) -> None:
        """Below approves, from blocks, and what is no number is never clear."""
        assert CutOffs(approve_below=0.1, block_from=0.9).verdict(probability) == verdict

    @given(cut_offs, probabilities, probabilities)
    def test_a_higher_probability_is_never_judged_milder(
        self, rule: CutOffs, one: float, other: float
    ) -> None:
        """The verdict is monotone."""
        low, high = sorted((one, other))
        assert ORDER.index(rule.verdict(low)) <= ORDER.index(rule.verdict(high))


class TestJudge:
    @given(policies, st.lists(probabilities, min_size=1, max_size=5), probabilities, probabilities)
    def test_one_more_or_one_worse_view_is_never_judged_milder(
        self, policy: Policy, others: list[float], one: float, drawn: float
    ) -> None:
        """The worst view counts, whatever the style."""

        def judged(values: list[float]) -> int:
            views = [view(value) for value in values]
            result = judge(views, policy, Region.DOMESTIC, lambda _: drawn)
            assert result.worst.probability == max(values)
            return ORDER.index(result.verdict)

        assert judged(others) <= judged([*others, one])

    @given(policies, probabilities, st.booleans())
    def test_the_style_is_asked_only_where_it_matters(
        self, policy: Policy, probability: float, drawn: bool
    ) -> None:
        """Where photo and drawing get the same verdict, nobody looks at the style."""
        same = policy.photo.verdict(probability) == policy.drawn.verdict(probability)
        asked = []
        result = judge(
            [view(probability)],
            policy,
            Region.DOMESTIC,
            lambda seen: asked.append(seen) or float(drawn),  # type: ignore[func-returns-value]
        )
        rule = policy.drawn if drawn else policy.photo
        assert result.verdict == rule.verdict(probability)
        assert bool(asked) != same
        assert result.style == ("" if same else "drawn" if drawn else "photo")

    @pytest.mark.parametrize(("drawn", "style"), [(0.49, "photo"), (0.5, "drawn")])
    def test_half_is_drawn(self, drawn: float, style: str) -> None:
        """The style's own cut-off is one half."""
        policy = Policy(
            photo=CutOffs(approve_below=0.1, block_from=0.5),
            drawn=CutOffs(approve_below=0.1, block_from=0.9),
        )
        result = judge([view(0.7)], policy, Region.DOMESTIC, lambda _: drawn)
        assert result.style == style

    def test_a_tiny_picture_is_judged_as_a_drawing_without_asking(self) -> None:
        """Its style cannot be told; the wider cut-offs leave more to a second opinion."""
        policy = Policy(
            photo=CutOffs(approve_below=0.1, block_from=0.5),
            drawn=CutOffs(approve_below=0.1, block_from=0.9),
        )
        result = judge([view(0.7)], policy, Region.DOMESTIC, never_asked, is_small=True)
        assert (result.verdict, result.style) == (Verdict.GRAY, "small")

    @pytest.mark.parametrize(
        ("probability", "reason"), [(0.01, "clear"), (0.5, "gray"), (0.99, "explicit")]
    )
    def test_each_verdict_has_its_reason(self, probability: float, reason: str) -> None:
        """Reason codes are what the web tier and the ledger read."""
        result = judge([view(probability)], Policy(), Region.DOMESTIC, never_asked)
        assert result.reason == reason

    def test_one_frame_alone_does_not_block_an_animation(self) -> None:
        """A single frame over the cut-off is gray; two are blocked; a still picture has one."""
        rule = Policy(frames_to_block=2)

        def judged(*views: ViewScore) -> tuple[str, str]:
            result = judge(views, rule, Region.DOMESTIC, never_asked)
            return result.verdict, result.reason

        assert judged(view(0.99)) == ("blocked", "explicit")
        assert judged(view(0.99, 0), view(0.1, 1)) == ("gray", "single_frame")
        assert judged(view(0.99, 0), view(0.99, 1), view(0.1, 2)) == ("blocked", "explicit")

    def test_two_views_of_one_frame_are_one_frame(self) -> None:
        """The same frame over white and over black does not corroborate itself."""
        views = [
            view(0.99, 0, background="white"),
            view(0.99, 0, background="black"),
            view(0.1, 1),
        ]
        assert judge(views, Policy(), Region.DOMESTIC, never_asked).verdict == Verdict.GRAY
        assert judge(views[:2], Policy(), Region.DOMESTIC, never_asked).verdict == Verdict.BLOCKED

    def test_a_region_has_its_own_cut_offs(self) -> None:
        """Where a region has none, the general ones apply."""
        strict = CutOffs(approve_below=0.0, block_from=0.3)
        policy = Policy(regions=((Region.OVERSEAS, strict, strict),))
        for region, verdict in ((Region.OVERSEAS, "blocked"), (Region.DOMESTIC, "gray")):
            assert judge([view(0.5)], policy, region, never_asked).verdict == verdict


class TestSecond:
    """A second model's word, where it may change something; see test_panel.py for the rule."""

    POLICY = Policy(second=SecondLook())

    def judged(self, p: float, s: float | None, **fields: Any) -> Judgement:
        second = None if s is None else SecondScore(probability=s, raw_score=s)
        asked = {"drawn_probability": never_asked, **fields}
        return judge([view(p)], self.POLICY, Region.DOMESTIC, second=lambda: second, **asked)

    def test_it_vetoes_clears_and_disagrees(self) -> None:
        """The reason says so, and the judgement keeps what it said."""
        assert self.judged(0.01, 0.7).reason == "second_veto"
        assert self.judged(0.3, 0.01).reason == "second_clear"
        assert self.judged(0.99, 0.01).reason == "second_disagrees"
        found = self.judged(0.01, 0.01)
        assert (found.verdict, found.reason) == (Verdict.APPROVED, "clear")
        assert found.second == SecondScore(probability=0.01, raw_score=0.01)

    def test_without_its_word_nothing_passes(self) -> None:
        """It could not answer: a person or a provider must."""
        assert self.judged(0.0, None).reason == "second_missing"
        assert self.judged(0.0, None).verdict == Verdict.GRAY
        assert self.judged(0.99, None).verdict == Verdict.BLOCKED

    def test_the_style_is_asked_only_between_the_two_vetoes(self) -> None:
        """0.4 is enough against a photograph and not against a drawing; a small one counts so."""
        for drawn, verdict in ((0.0, Verdict.GRAY), (1.0, Verdict.APPROVED)):
            found = self.judged(0.01, 0.4, drawn_probability=lambda _, d=drawn: d)
            assert found.verdict == verdict
            assert found.style == ("drawn" if drawn else "photo")
        assert self.judged(0.01, 0.4, is_small=True).style == "small"

    def test_a_rule_or_a_doubt_stands(self) -> None:
        """What needs no model needs no second one; what was not scored is not cleared by it."""
        assert self.judged(0.0, None, flat="identicon").verdict == Verdict.APPROVED
        assert self.judged(0.3, 0.0, doubt="unseen_frames").reason == "unseen_frames"

    def test_it_is_not_asked_where_it_changes_nothing(self) -> None:
        """Only of gray pictures, if the policy says so."""
        policy = Policy(second=SecondLook(ask="gray"))
        for probability, verdict in ((0.01, Verdict.APPROVED), (0.99, Verdict.BLOCKED)):
            found = judge(
                [view(probability)],
                policy,
                Region.DOMESTIC,
                never_asked,
                second=lambda: pytest.fail("the second model was asked"),
            )
            assert (found.verdict, found.second) == (verdict, None)


class TestPolicy:
    def test_the_version_follows_every_rule(self) -> None:
        """Different rules, different versions; the same rules, the same one."""
        other = CutOffs(approve_below=0.2, block_from=0.8)
        versions = [
            Policy().version,
            Policy(photo=other).version,
            Policy(drawn=other).version,
            Policy(frames_to_block=3).version,
            Policy(regions=((Region.DOMESTIC, other, other),)).version,
            Policy(regions=((Region.OVERSEAS, other, other),)).version,
            Policy(second=SecondLook()).version,
            Policy(second=SecondLook(veto_from=0.3)).version,
            Policy(second=SecondLook(bundle="other")).version,
        ]
        assert len(set(versions)) == len(versions)
        assert Policy().version == Policy().version
        assert Policy(second=SecondLook(ask="off", veto_from=0.3)).version == Policy().version
        assert all(len(version) == 8 for version in versions)

    @given(policies, st.lists(probabilities, min_size=2, max_size=2))
    def test_no_verdict_changes_between_two_boundaries(
        self, policy: Policy, pair: list[float]
    ) -> None:
        """So a score that is far from every boundary needs no second, exact one."""
        edges = policy.boundaries()
        low, high = sorted(pair)
        assume(not any(low < edge <= high for edge in edges))
        for drawn in (0.0, 1.0):
            verdicts = {
                judge([view(p)], policy, Region.DOMESTIC, lambda _, d=drawn: d).verdict  # type: ignore[misc]
                for p in (low, high)
            }
            assert len(verdicts) == 1
        assert all(one < other for one, other in itertools.pairwise(edges))


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({}, "frame 0"),
        ({"frame": 3, "background": "black", "crop": "round"}, "frame 3 over black, round crop"),
        ({"background": "dropped"}, "frame 0, transparency dropped"),
        ({"background": "white/stored"}, "frame 0 over white, read as stored"),
    ],
)
def test_a_view_says_which_it_is(fields: dict[str, Any], label: str) -> None:
    """In words, for the ledger and the console."""
    assert view(0.5, **fields).label == label


class TestFile:
    def test_no_file_is_the_built_in_policy(self) -> None:
        """The defaults need no file, and a second model looks."""
        assert load_policy(None) == Policy(second=SecondLook())
        assert load_policy(None).alone() == Policy()

    def test_a_file_without_a_second_model_asks_the_default_one(self) -> None:
        """A file of before there was one must not lose it; one that names it may not pass alone."""
        silent = parse_policy({"photo": {"approve_below": 0.1}}, "test")
        named = parse_policy({"second": {"veto_from": 0.2, "ask": "gray"}}, "test")
        assert (silent.second, silent.names_second) == (SecondLook(), False)
        assert (named.second, named.names_second) == (SecondLook(veto_from=0.2, ask="gray"), True)

    def test_drawings_are_approved_as_photographs_are(self) -> None:
        """Their own rule only asks for more before a block; a file may still say otherwise."""
        built_in = load_policy(None)
        assert built_in.drawn.approve_below == built_in.photo.approve_below == 0.05
        assert built_in.drawn.block_from > built_in.photo.block_from
        assert parse_policy({"drawn": {"approve_below": 0.03}}, "t").drawn.approve_below == 0.03

    def test_a_file_is_read(self, tmp_path: Path) -> None:
        """A region inherits what it does not say."""
        path = tmp_path / "policy.toml"
        path.write_text(
            "[photo]\napprove_below = 0\nblock_from = 0.9\n"
            "[region.overseas.photo]\napprove_below = 0.2\n"
            "[animation]\nframes_to_block = 1\n"
        )
        policy = load_policy(path)
        photo_rule = CutOffs(approve_below=0, block_from=0.9)
        assert (policy.photo, policy.frames_to_block) == (photo_rule, 1)
        assert policy.cut_offs(Region.OVERSEAS)[0] == CutOffs(approve_below=0.2, block_from=0.9)
        assert policy.cut_offs(Region.OVERSEAS)[1] == policy.drawn
        assert policy.cut_offs(Region.DOMESTIC) == (photo_rule, policy.drawn)

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("photo", "is not TOML"),
            ("[foto]", "unknown key 'foto'; known: animation, drawn"),
            ("photo = 1", r"\[photo\]: expected a table"),
            ("[photo]\nblock = 1", "unknown key 'block'"),
            ("[photo]\nblock_from = 1.01", "block_from is 1.01; use a number from 0 to 1"),
            ("[photo]\nblock_from = nan", "block_from is nan"),
            ("[photo]\nblock_from = '1'", "block_from is '1'"),
            ("[photo]\napprove_below = true", "approve_below is True"),
            ("[photo]\napprove_below = 0.96", "approve_below 0.96 is above block_from 0.95"),
            ("region = 1", r"\[region\]: expected a table"),
            ("[region.moon]", "unknown key 'moon'; known: domestic, overseas"),
            ("[region.domestic]\nx = 1", "unknown key 'x'"),
            ("[region]\ndomestic = 1", r"\[region.domestic\]: expected a table"),
            ("[animation]\nframes = 1", "unknown key 'frames'"),
            ("[animation]\nframes_to_block = 0", "frames_to_block is 0; use 1 to 8"),
            ("[animation]\nframes_to_block = 9", "frames_to_block is 9"),
            ("[animation]\nframes_to_block = true", "frames_to_block is True"),
            ("[animation]\nframes_to_block = 1.5", "frames_to_block is 1.5"),
            ("second = 1", r"\[second\]: expected a table"),
            ("[second]\nveto = 0.3", "unknown key 'veto'; known: ask, block_first"),
            ("[second]\nbundle = ''", "bundle is ''; use the name of a bundle"),
            ("[second]\nask = 'never'", "ask is 'never'; use always, gray, off"),
            ("[second]\nveto_from = 2", r"\[second\] veto_from is 2; use a number from 0 to 1"),
            ("[second]\nhold_from = true", "hold_from is True"),
            ("[second]\nclear_below = 0.5", "clear_below 0.5 is above the veto at 0.35"),
            (
                "[second]\nblock_first = 0.8\nblock_second = 0.5\nblock_needs = 0.6",
                "block_needs 0.6 is above block_second 0.5",
            ),
        ],
    )
    def test_a_bad_file_says_what_is_wrong_where(
        self, tmp_path: Path, text: str, words: str
    ) -> None:
        """The file, the table, the value and what would be right."""
        path = tmp_path / "policy.toml"
        path.write_text(text)
        with pytest.raises(PolicyError, match=words) as caught:
            load_policy(path)
        assert str(path) in str(caught.value)

    def test_a_file_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        """Missing, or not text."""
        with pytest.raises(PolicyError, match=r"gone.toml: No such file"):
            load_policy(tmp_path / "gone.toml")
        (tmp_path / "latin.toml").write_bytes(b"# \xff")
        with pytest.raises(PolicyError, match="is not TOML"):
            load_policy(tmp_path / "latin.toml")

    def test_equal_cut_offs_leave_nothing_gray(self) -> None:
        """A policy without a gray zone is allowed."""
        policy = parse_policy({"photo": {"approve_below": 0.5, "block_from": 0.5}}, "test")
        assert {policy.photo.verdict(p) for p in (0.0, 0.5, 1.0)} == {"approved", "blocked"}
