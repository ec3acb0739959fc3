"""How the pipeline judges harmless pictures: approved, gray, blocked, refused; views and cost.

Redoes docs/quality.md. The pictures come from Debian packages and stay in a folder of yours:

    python -m benchmarks.quality fetch /tmp/pictures
    python -m benchmarks.quality measure /tmp/pictures /tmp/scores.jsonl
    python -m benchmarks.quality report /tmp/scores.jsonl
"""

from __future__ import annotations

import dataclasses
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np

from benchmarks import quality_pictures as pictures
from benchmarks.quality_pictures import KINDS
from producer.contract import Region, Verdict
from producer.errors import InvalidInput
from worker.image.decoder import DecodeLimits, Decoder, Picture, ViewOptions
from worker.model.bundle import Bundle, is_installed
from worker.model.engine import Engine
from worker.model.style import StyleHead
from worker.moderation import road
from worker.moderation.policy import Policy, load_policy
from worker.moderation.scored import Scored
from worker.moderation.second import SecondModel

Line = dict[str, Any]

_VERDICTS = (Verdict.APPROVED, Verdict.GRAY, Verdict.BLOCKED)

#: Kinds whose pictures come near a cut-off, for what is asked of them alone.
_NEAR = ("cut-outs", "paintings", "portraits", "clip art")


@click.group()
def main() -> None:
    """Fetch, measure, report."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def fetch(folder: Path) -> None:
    """Unpack the Debian packages into FOLDER and make generated avatars; installs nothing."""
    pictures.fetch(folder)


# -- measure -------------------------------------------------------------------------------------


@main.command()
@click.argument("folder", type=click.Path(exists=True, path_type=Path))
@click.argument("scores", type=click.Path(path_type=Path))
@click.option("--bundle", default="open-nsfw", show_default=True)
@click.option("--models", type=click.Path(path_type=Path), default=Path("models"))
@click.option("--per-kind", default=250, show_default=True)
@click.option("--kind", "kinds", multiple=True, help="Only kinds with this in their name.")
@click.option("--pad-to-square", is_flag=True)
@click.option("--served-crop", default="none")
@click.option("--side-px", type=int, help="Shrink every picture to this short side first.")
def measure(
    folder: Path,
    scores: Path,
    bundle: str,
    models: Path,
    per_kind: int,
    kinds: tuple[str, ...],
    pad_to_square: bool,
    served_crop: Any,
    side_px: int | None,
) -> None:
    """Decode and judge a sample of every kind; write one JSON line a picture.

    The second model of the built-in policy looks too where it is installed.
    """
    judge = _Judge(Bundle.load(bundle, models), models)
    options = dataclasses.replace(
        judge.options, pad_to_square=pad_to_square, served_crop=served_crop
    )
    with Decoder(DecodeLimits(), options) as decoder, scores.open("w") as output:
        decoder.start()
        for kind, path in pictures.sample(folder, per_kind, kinds):
            data = path.read_bytes() if side_px is None else pictures.shrunk(path, side_px)
            line: Line = {"kind": kind, "path": str(path.relative_to(folder)), "bytes": len(data)}
            start_s = time.perf_counter()
            try:
                picture = decoder.decode(data)
            except InvalidInput as error:
                output.write(json.dumps({**line, "rejected": f"{error.code}: {error}"}) + "\n")
                continue
            line["decode_s"] = time.perf_counter() - start_s
            output.write(json.dumps(line | judge.line(picture)) + "\n")


class _Judge:
    """Scores and judges as a worker does, with one model, with two, with and without a rule."""

    def __init__(self, bundle: Bundle, models: Path) -> None:
        self._engine = Engine(bundle, threads=1, micro_batch=1)
        self._style = StyleHead()
        policy = load_policy(None)
        self._policies: dict[str, Policy] = {"one": policy.alone()}
        self._second: SecondModel | None = None
        if is_installed(policy.second.bundle, models):
            other = Bundle.load(policy.second.bundle, models)
            self._second = SecondModel(
                policy.second, other, lambda found: Engine(found, threads=1, micro_batch=1)
            )
            self._policies["two"] = policy
        other_spec = self._second.spec if self._second else None
        self.options = ViewOptions(
            spec=bundle.input, second_spec=None if other_spec == bundle.input else other_spec
        )

    def line(self, picture: Picture) -> Line:
        """What is measured of one picture; scored also where a rule needs no model."""
        unruled = dataclasses.replace(picture, flat=None)
        found = road.score(self._engine, {"": unruled}, ())[""]
        if isinstance(found, BaseException):
            raise found
        scored = road.ask_second(self._second, found, unruled)
        drawn = self._style.drawn_probability(picture.views[scored.worst].pixels)
        second = scored.second or [None] * len(scored.views)
        views = [
            {"frame": v.frame, "background": v.background, "crop": v.crop, "p": v.probability}
            | ({"second": s.probability} if s else {})
            for v, s in zip(scored.views, second, strict=True)
        ]
        return {
            "size": (picture.width_px, picture.height_px),
            "frames": picture.frame_count,
            "flat": picture.flat,
            "unseen": picture.unseen,
            "drawn": drawn,
            "views": views,
            "verdicts": dict(self._verdicts(scored, picture.flat or "", drawn)),
        }

    def _verdicts(self, scored: Scored, flat: str, drawn: float) -> Iterator[tuple[str, str]]:
        for name, policy in self._policies.items():
            for rule, word in (("", flat), (" without rule", "")):
                of = dataclasses.replace(scored, flat=word)
                yield name + rule, of.judge(policy, Region.OVERSEAS, lambda: drawn).verdict


# -- report --------------------------------------------------------------------------------------


@main.command()
@click.argument("scores", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--first",
    type=click.Path(exists=True, path_type=Path),
    help="Scores of the same pictures by an older version, to compare views with.",
)
def report(scores: Path, first: Path | None) -> None:
    """Print the tables of docs/quality.md from measured scores."""
    lines = _read(scores)
    _report_verdicts(lines)
    _report_generated(lines)
    _report_transparency(lines)
    _report_frames(lines)
    _report_style(lines)
    _report_views(lines, {line["path"]: line for line in _read(first)} if first else {})
    for line in lines:
        if "rejected" in line or line["unseen"]:
            print(f"not approved: {line['path']}: {line.get('rejected') or line['unseen']}")


def _read(path: Path) -> list[Line]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _by_kind(lines: list[Line]) -> Iterator[tuple[str, list[Line]]]:
    for kind in KINDS:
        of_kind = [line for line in lines if line["kind"] == kind and "views" in line]
        if of_kind:
            yield kind, of_kind
    yield "all", [line for line in lines if "views" in line]


def _table(title: str, *columns: str) -> None:
    print(f"\n{title}\n| {' | '.join(columns)} |\n|---|{'--:|' * (len(columns) - 1)}")


def _share(count: int, of: int) -> str:
    return f"{100 * count / max(1, of):.1f}"


def _report_verdicts(lines: list[Line]) -> None:
    ways = [way for way in ("one without rule", "one", "two") if way in _some(lines)["verdicts"]]
    _table("approved / gray / blocked, %", "kind", "n", *ways)
    for kind, found in _by_kind(lines):
        cells = []
        for way in ways:
            counts = Counter(line["verdicts"][way] for line in found)
            cells.append(" / ".join(_share(counts[verdict], len(found)) for verdict in _VERDICTS))
        print(f"| {kind} | {len(found)} | {' | '.join(cells)} |")
    refused = sum("rejected" in line for line in lines)
    doubts = Counter(line["unseen"] for line in lines if line.get("unseen"))
    print(f"\nrefused: {refused} of {len(lines)}; gray because of: {dict(doubts)}")


def _some(lines: list[Line]) -> Line:
    return next(line for line in lines if "views" in line)


def _report_generated(lines: list[Line]) -> None:
    made = [line for line in lines if line["kind"] == "generated avatars" and "views" in line]
    _table("generated", "made by the script", "n", "taken %", "gray before %", "gray after %")
    for name in ("single", "letter", "identicon", "quarters"):
        found = [line for line in made if f"/{name}-" in line["path"]]
        before, after = (
            sum(line["verdicts"][way] == Verdict.GRAY for line in found)
            for way in ("one without rule", "one")
        )
        taken = sum(line["flat"] is not None for line in found)
        shares = (_share(count, len(found)) for count in (taken, before, after))
        print(f"| {name} | {len(found)} | {' | '.join(shares)} |")


def _report_transparency(lines: list[Line]) -> None:
    _table("gray, one model, %", "kind", "white only", "black only", "all")
    for kind, found in _by_kind(lines):
        if any(name in kind for name in _NEAR):
            cells = (_gray(found, ground) for ground in ("white", "black", ""))
            print(f"| {kind} | {' | '.join(cells)} |")


def _gray(lines: list[Line], ground: str) -> str:
    cut_offs = load_policy(None).photo
    opposite = {"white": "black", "black": "white", "": "-"}[ground]
    kept = [
        [view["p"] for view in line["views"] if not view["background"].startswith(opposite)]
        for line in lines
    ]
    gray = sum(cut_offs.verdict(max(each, default=0.0)) == Verdict.GRAY for each in kept)
    return _share(gray, len(lines))


def _report_frames(lines: list[Line], draws: int = 20_000) -> None:
    """What slideshows of eight pictures would be taken for: real frames resemble each other."""
    _table("above 0.5, one model, %", "kind", "single", "worst of eight", "second worst of eight")
    dice = random.Random(0)
    for kind, found in _by_kind(lines):
        if any(name in kind for name in _NEAR):
            worst = [max(view["p"] for view in line["views"]) for line in found]
            shows = [sorted(dice.choices(worst, k=8)) for _ in range(draws)]
            counts = [sum(show[at] > 0.5 for show in shows) for at in (-1, -2)]
            single = _share(sum(each > 0.5 for each in worst), len(worst))
            print(f"| {kind} | {single} | {' | '.join(_share(n, draws) for n in counts)} |")


def _report_style(lines: list[Line]) -> None:
    _table("style head", "kind", "said to be drawn %")
    for kind, found in _by_kind(lines):
        drawn = sum(line["drawn"] >= 0.5 for line in found)
        print(f"| {kind} | {_share(drawn, len(found))} |")


def _report_views(lines: list[Line], first: dict[str, Line]) -> None:
    """Views scored a picture: none where a rule needs no model."""
    _table("views a picture", "kind", "n", "first version", "views", "decode ms, median", "p95")
    read = [line for line in lines if "views" in line]
    stills = [line for line in read if line["frames"] == 1]
    moving = [line for line in read if line["frames"] > 1]
    groups = [*_by_kind(lines), ("still", stills), ("animated", moving)]
    for kind, found in [*groups, *_by_shape(stills)]:
        before = [first[line["path"]] for line in found if line["path"] in first]
        ms = np.array([line["decode_s"] for line in found]) * 1000
        if len(ms):
            print(
                f"| {kind} | {len(found)} | {_views(before)} | {_views(found)} "
                f"| {np.median(ms):.1f} | {np.quantile(ms, 0.95):.1f} |"
            )


def _by_shape(lines: list[Line]) -> Iterator[tuple[str, list[Line]]]:
    for label, low, high in (("to 1.5", 0, 1.5), ("to 2", 1.5, 2), ("over 2", 2, 99)):
        ratios = [max(line["size"]) / min(line["size"]) for line in lines]
        yield (
            f"still, {label} to 1",
            [line for line, ratio in zip(lines, ratios, strict=True) if low < ratio <= high],
        )


def _views(lines: list[Line]) -> str:
    counts = [0 if line.get("flat") else len(line.get("views", ())) for line in lines]
    return f"{np.mean(counts):.2f}" if counts else ""


if __name__ == "__main__":
    sys.exit(main())
