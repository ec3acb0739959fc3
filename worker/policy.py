"""Calibrated probabilities and the operator's rules in, one judgement out. Pure.

The policy file is TOML; its hash is the policy version in every record it decided:

    [photo]
    approve_below = 0.05
    block_from = 0.95
    [drawn]
    approve_below = 0.03
    block_from = 0.98
    [region.domestic.photo]        # optional: other cut-offs for one region
    approve_below = 0.02
    block_from = 0.90
    [animation]
    frames_to_block = 2            # fewer frames over the block cut-off are gray
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import tomllib
from collections.abc import Callable, Sequence, Set
from pathlib import Path
from typing import Any

from producer.contract import Region, Verdict
from producer.errors import PolicyError


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
#: fewer of them are decided by the model alone.
DRAWN = CutOffs(approve_below=0.03, block_from=0.98)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Policy:
    """How probabilities are judged. `version` is the first 8 hex digits of its content's hash."""

    photo: CutOffs = PHOTO
    drawn: CutOffs = DRAWN
    regions: tuple[tuple[Region, CutOffs, CutOffs], ...] = ()
    frames_to_block: int = 2

    @property
    def version(self) -> str:
        """Changes whenever a rule changes."""
        content = json.dumps(dataclasses.asdict(self), sort_keys=True, default=str)
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
        return tuple(sorted({edge for c in sets for edge in (c.approve_below, c.block_from)}))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViewScore:
    """What the model said of one view of a picture.

    Args:
        raw_score: the model's own number, 0..1.
        probability: calibrated, 0..1.
        frame: index of the animation frame, 0 for a still picture.
        background: what its transparency was put over; empty for an opaque picture.
        crop: `whole`, `square` or `round`.
    """

    raw_score: float
    probability: float
    frame: int = 0
    background: str = ""
    crop: str = "whole"

    @property
    def label(self) -> str:
        """Which view it is, in words, for example `frame 3 over black, round crop`."""
        over = {"": "", "dropped": ", transparency dropped"}.get(
            self.background, f" over {self.background}"
        )
        crop = "" if self.crop == "whole" else f", {self.crop} crop"
        return f"frame {self.frame}{over}{crop}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on one picture, the view that caused it and a reason code."""

    verdict: Verdict
    reason: str
    worst: ViewScore
    style: str = ""


def judge(
    scores: Sequence[ViewScore],
    policy: Policy,
    region: Region,
    drawn_probability: Callable[[ViewScore], float],
    *,
    is_small: bool = False,
) -> Judgement:
    """Judge one picture by its views; the worst view counts.

    Args:
        scores: at least one view.
        policy: the rules.
        region: whose cut-offs apply.
        drawn_probability: asked only when the cut-offs for photos and for drawings would decide
            differently; gives 0..1 for a view.
        is_small: the picture is so small that neither the model nor the style head sees much
            (measured in docs/quality.md): judged by the wider cut-offs of drawings.

    Returns:
        Reason codes: `clear`, `explicit`, `gray`, `single_frame` (one frame of an animation alone
        is over the block cut-off: somebody must look).
    """
    worst = max(scores, key=lambda score: score.probability)
    photo, drawn = policy.cut_offs(region)
    style = ""
    cut_offs = photo
    if photo.verdict(worst.probability) != drawn.verdict(worst.probability):
        style = "small" if is_small else _style(drawn_probability(worst))
        cut_offs = photo if style == "photo" else drawn
    verdict = cut_offs.verdict(worst.probability)
    reason = {
        Verdict.APPROVED: "clear",
        Verdict.BLOCKED: "explicit",
        Verdict.GRAY: "gray",
    }[verdict]
    if verdict == Verdict.BLOCKED:
        frames = {score.frame for score in scores}
        over = {s.frame for s in scores if s.probability >= cut_offs.block_from}
        if len(over) < min(policy.frames_to_block, len(frames)):
            verdict, reason = Verdict.GRAY, "single_frame"
    return Judgement(verdict=verdict, reason=reason, worst=worst, style=style)


def _style(drawn_probability: float) -> str:
    return "drawn" if drawn_probability >= 0.5 else "photo"


def load_policy(path: Path | None) -> Policy:
    """Read a policy file; None gives the built-in policy.

    Raises:
        PolicyError: the file is missing or not TOML, a key is unknown, or a value is out of range.
    """
    if path is None:
        return Policy()
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"policy file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PolicyError(f"policy file {path} is not TOML: {error}") from error
    return parse_policy(data, str(path))


def parse_policy(data: dict[str, Any], source: str) -> Policy:
    """Build a policy from parsed TOML; see `load_policy`."""
    _known(data, {"photo", "drawn", "region", "animation"}, source)
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
    )


def _cut_offs(table: dict[str, Any] | None, default: CutOffs, where: str) -> CutOffs:
    table = _known(table or {}, {"approve_below", "block_from"}, where)
    values = {**dataclasses.asdict(default), **table}
    for name, value in values.items():
        if type(value) not in (int, float) or not 0 <= value <= 1:
            raise PolicyError(f"{where} {name} is {value!r}; use a number from 0 to 1")
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
