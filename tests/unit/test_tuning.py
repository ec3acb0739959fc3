"""The search against brute force over every cut-off, on cases small enough for it."""

from __future__ import annotations

import dataclasses
import itertools
import tomllib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worker.moderation.policy import CutOffs, Policy, parse_policy
from worker.tools.tuning import (
    Limits,
    Sample,
    Setting,
    Traffic,
    apply,
    candidates,
    frontier,
    lacking,
    policy_toml,
    search,
)


@pytest.fixture(autouse=True)
def _few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brute force bears only small samples."""
    monkeypatch.setattr("worker.tools.tuning.FEWEST", 1)


TRAFFIC = Traffic(
    uploads_per_day=5000,
    explicit_share=0.02,
    yuan_per_1000={"tencent": 1.5, "cloudflare": 0.15},
    route_yuan_per_1000=1.5,
)

ROWS = st.lists(
    st.tuples(
        st.integers(0, 10).map(lambda n: n / 10), st.booleans(), st.booleans(), st.booleans()
    ),
    min_size=2,
    max_size=14,
).filter(lambda rows: len({row[1] for row in rows}) == 2)


def make(rows: list[tuple[float, bool, bool, bool]]) -> Sample:
    columns = list(zip(*rows, strict=True))
    none = dict.fromkeys(
        ("vetoed", "cleared", "joint", "disputed"), np.zeros(len(rows), dtype=bool)
    )
    return Sample(
        **none,
        probability=np.asarray(columns[0], dtype=float),
        explicit=np.asarray(columns[1], dtype=bool),
        drawn=np.asarray(columns[2], dtype=bool),
        decided=np.asarray(columns[3], dtype=bool),
    )


def test_a_second_model_is_heard_whatever_the_cut_offs_are() -> None:
    """As the policy says: a veto, a clearing, a joint block and a disagreement, one row each."""
    only = [np.arange(6) == n for n in range(6)]
    plain = make([(p, True, False, False) for p in (0.0, 0.0, 0.5, 0.5, 0.99, 0.99)])
    sample = dataclasses.replace(
        plain, vetoed=only[1], cleared=only[2], joint=only[3], disputed=only[4]
    )
    cut = CutOffs(approve_below=0.1, block_from=0.9)
    found = apply(sample, cut, cut, TRAFFIC)
    assert found.misses.hits == 2  # the plain low one and the cleared one
    assert round(found.gray_share * 6 / TRAFFIC.explicit_share) == 2  # the vetoed, the disputed


@given(
    ROWS,
    st.lists(st.tuples(*[st.booleans()] * 4), min_size=14, max_size=14),
    st.sampled_from([0.0, 0.2, 0.5]),
)
def test_no_limit_is_passed_with_a_second_model(
    rows: list[tuple[float, bool, bool, bool]],
    said: list[tuple[bool, bool, bool, bool]],
    limit: float,
) -> None:
    """Whatever it vetoes, clears, blocks or disputes."""
    vetoed, cleared, joint, disputed = np.asarray(said[: len(rows)]).T
    joint, vetoed = joint & ~cleared, vetoed & ~cleared
    sample = dataclasses.replace(
        make(rows), vetoed=vetoed, cleared=cleared, joint=joint, disputed=disputed & ~joint
    )
    limits = Limits(false_blocks=limit, misses=limit)
    found = search(sample, Policy(), TRAFFIC, limits)
    if found is not None:
        assert found.misses.hits <= limit * found.misses.total + 1e-9
        assert found.false_blocks.hits <= limit * found.false_blocks.total + 1e-9


def test_a_policy_file_keeps_the_second_model_that_it_names() -> None:
    """And says nothing of one that nobody named."""
    cut = CutOffs(approve_below=0.1, block_from=0.9)
    named = parse_policy({"second": {"veto_from": 0.2, "bundle": "mine"}}, "test")
    found = apply(make([(0.5, True, False, False)]), cut, cut, TRAFFIC)
    written = policy_toml(found, named, [])
    assert parse_policy(tomllib.loads(written), "written").second == named.second
    assert "[second]" not in policy_toml(found, parse_policy({}, "test"), [])


def brute_force(sample: Sample, limits: Limits) -> float | None:
    """Least gray over every pair of pairs of cut-offs within the limits."""
    cuts = candidates(sample.probability)

    def pairs(style: np.ndarray, present: CutOffs) -> list[CutOffs]:
        mine = style & ~sample.decided
        both = [present.approve_below, present.block_from, *cuts]
        lows = both if (mine & sample.explicit).any() else [present.approve_below]
        highs = both if (mine & ~sample.explicit).any() else [present.block_from]
        return [CutOffs(approve_below=a, block_from=b) for a in lows for b in highs if a <= b]

    best = None
    choices = (pairs(~sample.drawn, Policy().photo), pairs(sample.drawn, Policy().drawn))
    for photo, drawn in itertools.product(*choices):
        one = apply(sample, photo, drawn, TRAFFIC)
        if one.false_blocks.hits > limits.false_blocks * one.false_blocks.total + 1e-9:
            continue
        if one.misses.hits > limits.misses * one.misses.total + 1e-9:
            continue
        best = one.gray_share if best is None else min(best, one.gray_share)
    return best


@settings(max_examples=200, deadline=None)
@example(
    [
        (0.0, False, False, False),
        (0.1, False, False, False),
        (0.1, False, True, False),
        (0.6, True, False, False),
    ],
    0.5,
    0.0,
)
@given(ROWS, st.sampled_from([0.0, 0.2, 0.5]), st.sampled_from([0.0, 0.2, 0.5]))
def test_search_finds_what_brute_force_finds(
    rows: list[tuple[float, bool, bool, bool]], false_blocks: float, misses: float
) -> None:
    """Least gray within both limits, or none where there is none."""
    sample = make(rows[:9])
    if len(set(sample.explicit.tolist())) < 2:
        return
    limits = Limits(false_blocks=false_blocks, misses=misses)
    found = search(sample, Policy(), TRAFFIC, limits)
    best = brute_force(sample, limits)
    if best is None:
        assert found is None
        return
    assert found is not None
    assert found.gray_share == pytest.approx(best)
    assert found.false_blocks.hits <= false_blocks * found.false_blocks.total + 1e-9
    assert found.misses.hits <= misses * found.misses.total + 1e-9


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_nothing_on_the_frontier_is_beaten(rows: list[tuple[float, bool, bool, bool]]) -> None:
    """Less gray is paid for with misses or false blocks."""
    points = frontier(make(rows), Policy(), TRAFFIC)

    def merits(one: Setting) -> tuple[float, int, int]:
        return one.gray_share, one.misses.hits, one.false_blocks.hits

    for one, other in itertools.permutations(points, 2):
        assert not all(a <= b for a, b in zip(merits(one), merits(other), strict=True))


def test_a_case_done_by_hand() -> None:
    """10 harmless at 0.0 ... 0.9, 2 explicit at 0.55 and 0.95; no mistake allowed."""
    sample = make(
        [(n / 10, False, False, False) for n in range(10)]
        + [(0.55, True, False, False), (0.95, True, False, False)]
    )
    found = search(sample, Policy(), TRAFFIC, Limits(false_blocks=0.0, misses=0.0))
    assert found is not None
    assert 0.5 < found.photo.approve_below <= 0.55
    assert 0.9 < found.photo.block_from <= 0.95
    assert found.gray_share == pytest.approx(0.98 * 4 / 10 + 0.02 * 1 / 2)
    assert found.calls_per_day == pytest.approx(5000 * 0.402)
    assert found.yuan_per_month["tencent"] == pytest.approx(5000 * 0.402 * 30 * 1.5 / 1000)


def test_too_little_money_is_no_solution() -> None:
    """The limits hold together or not at all."""
    sample = make([(0.5, False, False, False), (0.5, True, False, False)])
    enough = Limits(false_blocks=0.0, misses=0.0, yuan_per_month=225)
    assert search(sample, Policy(), TRAFFIC, enough) is not None
    little = Limits(false_blocks=0.0, misses=0.0, yuan_per_month=224)
    assert search(sample, Policy(), TRAFFIC, little) is None


def test_money_is_what_the_route_costs_not_what_the_cheapest_would() -> None:
    """Cloudflare would take a tenth, but the uploads do not go there."""
    sample = make([(0.5, False, False, False), (0.5, True, False, False)])
    one = apply(sample, Policy().photo, Policy().drawn, TRAFFIC)
    assert one.yuan_per_month["cloudflare"] == pytest.approx(22.5)
    assert one.route_yuan_per_month == one.yuan_per_month["tencent"] == pytest.approx(225)


def test_what_labels_are_too_few_for_is_said() -> None:
    """Rule of three; no number of pictures verifies zero, and nothing verifies everything."""
    sample = make([(0.1, False, False, False)] * 59 + [(0.9, True, False, False)] * 60)

    def lacks(**limits: float) -> list[tuple[str, str, int, int | None]]:
        found = lacking(sample, Limits(**limits))  # type: ignore[arg-type]
        return [(lack.limit, lack.label, lack.have, lack.need) for lack in found]

    assert lacks(false_blocks=1, misses=0.05) == []
    assert lacks(false_blocks=0.05, misses=0.05) == [("5% false blocks", "harmless", 59, 60)]
    assert lacks(false_blocks=0.1, misses=0) == [("0% missed", "explicit", 60, None)]


def test_cautious_limits_hold_for_the_interval() -> None:
    """100 pictures without a mistake do not prove 1 %; 400 do."""
    for count, possible in ((100, False), (400, True)):
        rows = [(0.1, False, False, False)] * count + [(0.9, True, False, False)] * count
        limits = Limits(false_blocks=0.01, misses=0.01, cautious=True)
        assert (search(make(rows), Policy(), TRAFFIC, limits) is not None) == possible


def test_without_explicit_pictures_the_approve_cut_offs_stay() -> None:
    """Nothing is known of misses, so nothing is changed about them."""
    sample = make([(n / 20, False, n % 2 == 0, False) for n in range(20)])
    found = search(sample, Policy(), TRAFFIC, Limits(false_blocks=0.0))
    assert found is not None
    assert found.photo.approve_below == Policy().photo.approve_below
    assert found.misses.value is None


def test_what_is_written_reads_back() -> None:
    """The file is a policy with these cut-offs."""
    photo = CutOffs(approve_below=0.0421, block_from=0.9)
    drawn = CutOffs(approve_below=0.01, block_from=1.0)
    found = apply(make([(0.5, True, False, False)]), photo, drawn, TRAFFIC)
    text = policy_toml(found, Policy(frames_to_block=3), ["made by a test"])
    policy = parse_policy(tomllib.loads(text), "test")
    assert (policy.photo, policy.drawn, policy.frames_to_block) == (photo, drawn, 3)


def test_a_style_without_labels_keeps_its_cut_offs(monkeypatch: pytest.MonkeyPatch) -> None:
    """No photograph was given: photographs are judged as before, not all blocked."""
    monkeypatch.setattr("worker.tools.tuning.FEWEST", 20)
    rows = [(n / 60, False, True, False) for n in range(30)]
    rows += [(0.7 + n / 100, True, True, False) for n in range(19)]
    found = search(make(rows), Policy(), TRAFFIC, Limits())
    assert found is not None
    assert found.photo == Policy().photo
    assert found.drawn.approve_below == Policy().drawn.approve_below
    assert 0.48 < found.drawn.block_from < 0.71
