"""Calibrated probabilities and the operator's rules in, one judgement out. Pure.

The policy file is TOML; its hash is the policy version in every record it decided:

    [photo]
    approve_below = 0.05
    block_from = 0.95
    [drawn]                        # pictures that are drawn rather than photographed
    block_from = 0.98
    [region.domestic.photo]        # optional: other cut-offs for one region
    approve_below = 0.02
    block_from = 0.90
    [animation]
    frames_to_block = 2            # fewer frames over the block cut-off are gray
    [second]                       # a second model looks too; without this table, if it is there
    bundle = "image-safety-s"      # every number: docs/models.md and panel.SecondLook
    ask = "always"                 # or "gray", or "off"
    veto_from = 0.35
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any, get_args

from producer.contract import Region, Verdict
from producer.errors import PolicyError
from producer.plain import plain
from worker.moderation.panel import Ask, SecondLook, SecondScore, combine


@dataclasses.dataclass(frozen=True, kw_only=True)
class CutOffs:
    """Probabilities below `approve_below` are approved, from `block_from` on blocked."""

    approve_below: float
    block_from: float

    def verdict(self, probability: float) -> Verdict:
        """The answer to one probability, 0..1."""
        if probability < self.approve_below:
            return Verdict.APPROVED
        return Verdict.BLOCKED if probability >= self.block_from else Verdict.GRAY


#: Start values of the design; on a probability calibrated for label smoothing they are 0.095 and
#: 0.905 of Marqo's raw score.
PHOTO = CutOffs(approve_below=0.05, block_from=0.95)

#: Drawings are where false alarms come from (99th percentile of harmless graphics: 0.83 raw), so
#: fewer of them are blocked by the models alone. They are approved as photographs are: a lower
#: cut-off made a third of all gray pictures and never kept one from being blocked.
DRAWN = CutOffs(approve_below=0.05, block_from=0.98)

#: One model alone; also what a policy of before there was a second one meant.
ALONE = SecondLook(ask="off")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How probabilities are judged. `version` is the first 8 hex digits of its content's hash.

    Attributes:
        second: what a second model's word changes; `load_policy` asks it unless a file says no.
        names_second: the file has a table `[second]`: without that model nothing may pass.
    """

    photo: CutOffs = PHOTO
    drawn: CutOffs = DRAWN
    regions: tuple[tuple[Region, CutOffs, CutOffs], ...] = ()
    frames_to_block: int = 2
    second: SecondLook = ALONE
    names_second: bool = dataclasses.field(default=False, compare=False)

    @property
    def version(self) -> str:
        """Changes whenever a rule changes."""
        rules = dataclasses.asdict(self)
        del rules["names_second"]
        if self.second.ask == "off":
            rules["second"] = "off"
        content = json.dumps(rules, sort_keys=True, default=str)
        return hashlib.sha256(content.encode()).hexdigest()[:8]

    def cut_offs(self, region: Region) -> tuple[CutOffs, CutOffs]:
        """(photo, drawn) for a region."""
        for name, photo, drawn in self.regions:
            if name == region:
                return photo, drawn
        return self.photo, self.drawn

    def boundaries(self) -> tuple[float, ...]:
        """Every probability at which some verdict changes, ascending; for the guard band."""
        sets = [self.photo, self.drawn, *(c for _, *pair in self.regions for c in pair)]
        edges = {edge for c in sets for edge in (c.approve_below, c.block_from)}
        return tuple(sorted({*edges, *self.second.boundaries()}))

    def with_cut_offs(self, region: Region, photo: CutOffs, drawn: CutOffs) -> Policy:
        """The same with other cut-offs for a region: its own if it has some, else everybody's."""
        if region not in {name for name, *_ in self.regions}:
            return dataclasses.replace(self, photo=photo, drawn=drawn)
        regions = tuple((region, photo, drawn) if one[0] == region else one for one in self.regions)
        return dataclasses.replace(self, regions=regions)

    def to_toml(self, comment: Sequence[str] = ()) -> str:
        """As a policy file; the second model's numbers where a file named them."""
        lines = [f"# {plain(line)}" for line in comment]
        tables = [("photo", self.photo), ("drawn", self.drawn)]
        for name, photo, drawn in self.regions:
            tables += [(f"region.{name}.photo", photo), (f"region.{name}.drawn", drawn)]
        for table, cut in tables:
            lines += ["", f"[{table}]", f"approve_below = {cut.approve_below:.6g}"]
            lines += [f"block_from = {cut.block_from:.6g}"]
        lines += ["", "[animation]", f"frames_to_block = {self.frames_to_block}", ""]
        if self.names_second:
            rules = dataclasses.asdict(self.second)
            lines += ["[second]", *(f"{n} = {json.dumps(rule)}" for n, rule in rules.items()), ""]
        return "\n".join(lines)

    def alone(self) -> Policy:
        """The same for one model."""
        return dataclasses.replace(self, second=ALONE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewScore:
    """What the model said of one view of a picture.

    Args:
        raw_score: the model's own number, 0..1.
        probability: calibrated, 0..1.
        frame: index of the animation frame, 0 for a still picture.
        background: what its transparency was put over; empty for an opaque picture. Behind a slash,
            in which of several ways the file was read; see `worker/image/views.py`.
        crop: `whole`, `square` or `round`.
    """

    raw_score: float
    probability: float
    frame: int = 0
    background: str = ""
    crop: str = "whole"

    @property
    def rank(self) -> tuple[float, float]:
        """The view with the highest one counts; where a calibration is level, the raw score."""
        return self.probability, self.raw_score

    @property
    def label(self) -> str:
        """Which view it is, in words, for example `frame 3 over black, round crop`."""
        ground, _, rendition = self.background.partition("/")
        over = {"": "", "dropped": ", transparency dropped"}.get(ground, f" over {ground}")
        crop = "" if self.crop == "whole" else f", {self.crop} crop"
        read = f", read as {rendition}" if rendition else ""
        return f"frame {self.frame}{over}{crop}{read}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on one picture, a reason code, and the view that caused it.

    Args:
        worst: all zero where a rule decided without the model.
        style: whose cut-offs decided: `photo`, `drawn`, `small`; empty where it made no difference.
        second: what the second model said, where it was asked and answered.
    """

    verdict: Verdict
    reason: str
    worst: ViewScore = ViewScore(raw_score=0.0, probability=0.0)
    style: str = ""
    by_rule: bool = False
    second: SecondScore | None = None

    @property
    def decided_by(self) -> str:
        """As the record has it."""
        return "rule" if self.by_rule else "model"


def judge(
    scores: Sequence[ViewScore],
    policy: Policy,
    region: Region,
    drawn_probability: Callable[[ViewScore], float],
    *,
    is_small: bool = False,
    flat: str = "",
    doubt: str = "",
    second: Callable[[], SecondScore | None] = lambda: None,
) -> Judgement:
    """Judge one picture by its views; the worst view counts.

    Args:
        scores: at least one view, unless the picture is flat.
        policy: the rules.
        region: whose cut-offs apply.
        drawn_probability: asked only when the cut-offs for photos and for drawings would decide
            differently; gives 0..1 for a view.
        is_small: the picture is so small that neither the model nor the style head sees much
            (measured in docs/quality.md): judged by the wider cut-offs of drawings.
        flat: why no model is needed, for example `single colour`.
        doubt: why some of what people may see was not scored: such a picture is never approved.
        second: asked only where the second model's word may change the verdict; gives its worst,
            or None where it cannot answer.

    Returns:
        Reason codes: `clear`, `explicit`, `gray`, `single_frame` (one frame of an animation alone
        is over the block cut-off: somebody must look), `flat: ...`, those of `panel.combine`, or
        what `doubt` says.
    """
    if flat:
        found = Judgement(verdict=Verdict.APPROVED, reason=f"flat: {flat}", by_rule=True)
    else:
        found = _judge_views(scores, policy, region, drawn_probability, is_small)
        if policy.second.is_needed(found.verdict):
            found = _judge_both(found, second(), policy, drawn_probability, is_small)
    if doubt and found.verdict == Verdict.APPROVED:
        return dataclasses.replace(found, verdict=Verdict.GRAY, reason=doubt)
    return found


def _judge_views(
    scores: Sequence[ViewScore],
    policy: Policy,
    region: Region,
    drawn_probability: Callable[[ViewScore], float],
    is_small: bool,
) -> Judgement:
    worst = max(scores, key=lambda score: score.rank)
    photo, drawn = policy.cut_offs(region)
    style = ""
    cut_offs = photo
    if photo.verdict(worst.probability) != drawn.verdict(worst.probability):
        style = "small" if is_small else style_name(drawn_probability(worst))
        cut_offs = photo if style == "photo" else drawn
    verdict = cut_offs.verdict(worst.probability)
    reason = {Verdict.APPROVED: "clear", Verdict.BLOCKED: "explicit", Verdict.GRAY: "gray"}[verdict]
    if verdict == Verdict.BLOCKED:
        frames = {score.frame for score in scores}
        over = {s.frame for s in scores if s.probability >= cut_offs.block_from}
        if len(over) < min(policy.frames_to_block, len(frames)):
            verdict, reason = Verdict.GRAY, "single_frame"
    return Judgement(verdict=verdict, reason=reason, worst=worst, style=style)


def _judge_both(
    first: Judgement,
    second: SecondScore | None,
    policy: Policy,
    drawn_probability: Callable[[ViewScore], float],
    is_small: bool,
) -> Judgement:
    """What the second model's word makes of the first one's verdict."""

    def combined(*, is_drawn: bool) -> tuple[Verdict, str]:
        probability = first.worst.probability
        return combine(first.verdict, probability, second, policy.second, is_drawn=is_drawn)

    style = first.style
    verdict, reason = combined(is_drawn=style != "photo")
    if not style and combined(is_drawn=False) != (verdict, reason):
        style = "small" if is_small else style_name(drawn_probability(first.worst))
        verdict, reason = combined(is_drawn=style != "photo")
    return dataclasses.replace(
        first, verdict=verdict, reason=reason or first.reason, style=style, second=second
    )


def style_name(drawn_probability: float) -> str:
    """`drawn` or `photo`."""
    return "drawn" if drawn_probability >= 0.5 else "photo"


def load_policy(path: Path | None) -> Policy:
    """Read a policy file; None gives the built-in policy.

    Raises:
        PolicyError: the file is missing or not TOML, a key is unknown, or a value is out of range.
    """
    if path is None:
        return Policy(second=SecondLook())
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"policy file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"policy file {path} is not TOML: {error}") from error
    return parse_policy(data, str(path))


def parse_policy(data: dict[str, Any], source: str) -> Policy:
    """Build a policy from parsed TOML; see `load_policy`."""
    _known(data, {"photo", "drawn", "region", "animation", "second"}, source)
    photo = _cut_offs(data.get("photo"), PHOTO, f"{source} [photo]")
    drawn = _cut_offs(data.get("drawn"), DRAWN, f"{source} [drawn]")
    regions = []
    for name, tables in _known(data.get("region", {}), set(Region), f"{source} [region]").items():
        _known(tables, {"photo", "drawn"}, f"{source} [region.{name}]")
        regions.append(
            (
                Region(name),
                _cut_offs(tables.get("photo"), photo, f"{source} [region.{name}.photo]"),
                _cut_offs(tables.get("drawn"), drawn, f"{source} [region.{name}.drawn]"),
            )
        )
    animation = _known(data.get("animation", {}), {"frames_to_block"}, f"{source} [animation]")
    frames = animation.get("frames_to_block", Policy.frames_to_block)
    if type(frames) is not int or not 1 <= frames <= 8:
        raise PolicyError(f"{source} [animation] frames_to_block is {frames!r}; use 1 to 8")
    return Policy(
        photo=photo,
        drawn=drawn,
        regions=tuple(regions),
        frames_to_block=frames,
        second=_second_look(data.get("second", {}), f"{source} [second]"),
        names_second="second" in data,
    )


def _second_look(table: Any, where: str) -> SecondLook:
    known = dataclasses.asdict(SecondLook())
    values = {**known, **_known(table, set(known), where)}
    bundle, ask = values.pop("bundle"), values.pop("ask")
    if not isinstance(bundle, str) or not bundle:
        raise PolicyError(f"{where} bundle is {bundle!r}; use the name of a bundle")
    if ask not in get_args(Ask):
        raise PolicyError(f"{where} ask is {ask!r}; use {', '.join(get_args(Ask))}")
    for name, value in values.items():
        _check_share(value, f"{where} {name}")
    look = SecondLook(bundle=bundle, ask=ask, **values)
    if problem := look.problem():
        raise PolicyError(f"{where}: {problem}")
    return look


def _check_share(value: Any, where: str) -> None:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise PolicyError(f"{where} is {value!r}; use a number from 0 to 1")


def _cut_offs(table: dict[str, Any] | None, default: CutOffs, where: str) -> CutOffs:
    table = _known(table or {}, {"approve_below", "block_from"}, where)
    values = {**dataclasses.asdict(default), **table}
    for name, value in values.items():
        _check_share(value, f"{where} {name}")
    if values["approve_below"] > values["block_from"]:
        raise PolicyError(
            f"{where}: approve_below {values['approve_below']} is above block_from "
            f"{values['block_from']}; nothing could be gray"
        )
    return CutOffs(**values)


def _known(table: Any, names: Set[str], where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise PolicyError(f"{where}: expected a table, found {table!r}")
    unknown = set(table) - names
    if unknown:
        raise PolicyError(
            f"{where}: unknown key {sorted(unknown)[0]!r}; known: {', '.join(sorted(names))}"
        )
    return table
