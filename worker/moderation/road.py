"""The one road from bytes to judgement; workers, tools, forecasts and the console judge by it.

A decoded picture's views are scored, which gives a `Scored`: all that any policy needs to know of
one content, so that it can be judged again without the picture. The policy's word on it becomes
fields of the record. How settings shape the road is said here too, and nowhere else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import structlog

from producer.contract import Avatar, AvatarState, Region, Stage, Verdict
from producer.errors import BundleError
from producer.record.store import Transition
from worker.image.decoder import DecodeLimits, Decoder, Picture, View, ViewOptions
from worker.image.preprocess import InputSpec
from worker.moderation.panel import SecondScore
from worker.moderation.policy import Judgement, Policy, ViewScore, load_policy
from worker.moderation.scored import Scored
from worker.moderation.second import Engine, SecondModel

if TYPE_CHECKING:
    from worker.model.bundle import Bundle
    from worker.model.engine import Engine as BundleEngine
    from worker.settings import WorkerSettings

log = structlog.get_logger()


def score(
    engine: Engine,
    pictures: Mapping[str, Picture],
    cut_offs: Sequence[float],
    second: SecondModel | None = None,
) -> dict[str, Scored | BaseException]:
    """Score pictures in one micro-batch; one that fails, fails alone.

    Args:
        engine: the model.
        pictures: decoded contents by sha256.
        cut_offs: probabilities near which an int8 bundle scores again in float32.
        second: looks too where it is asked always; else see `ask_second`.
    """
    found = _score_first(engine, pictures, cut_offs)
    if second is None or not second.asks_always:
        return found
    views = {
        sha256: pictures[sha256].views
        for sha256, scored in found.items()
        if isinstance(scored, Scored) and scored.views
    }
    for sha256, said in second.score(views).items():
        scored = found[sha256]
        assert isinstance(scored, Scored)
        found[sha256] = dataclasses.replace(scored, second=said)
    return found


def ask_second(second: SecondModel | None, scored: Scored, picture: Picture) -> Scored:
    """Have the second model look at what it has not seen yet; what it cannot say stays unsaid."""
    if second is None or scored.second or not scored.views:
        return scored
    said = second.score({scored.sha256: picture.views})
    return dataclasses.replace(scored, second=said.get(scored.sha256, ()))


def _score_first(
    engine: Engine, pictures: Mapping[str, Picture], cut_offs: Sequence[float]
) -> dict[str, Scored | BaseException]:
    views = [(sha256, view) for sha256, p in pictures.items() if not p.flat for view in p.views]
    rows: dict[str, list[ViewScore]] = {sha256: [] for sha256 in pictures}
    try:
        pixels = [view.pixels for _, view in views]
        results = engine.score(np.stack(pixels), cut_offs) if views else ()
    except Exception as error:  # noqa: BLE001 - one picture's error must not end the batch
        if len(pictures) == 1:
            return dict.fromkeys(pictures, error)
        alone = [_score_first(engine, {sha256: p}, cut_offs) for sha256, p in pictures.items()]
        return {sha256: found for each in alone for sha256, found in each.items()}
    for (sha256, view), result in zip(views, results, strict=True):
        rows[sha256].append(view_score(view, result.raw_score, result.probability))
    return {sha256: Scored.of(sha256, p, rows[sha256]) for sha256, p in pictures.items()}


def view_score(view: View, raw_score: float, probability: float) -> ViewScore:
    """What was said of one view, with its place in the picture."""
    return ViewScore(
        raw_score=raw_score,
        probability=probability,
        frame=view.frame,
        background=view.background,
        crop=view.crop,
    )


def record_fields(
    judgement: Judgement, bundle_id: str, policy: Policy, second_id: str = ""
) -> dict[str, str]:
    """A judgement as the record keeps it, with the verdict under `state`; no field is empty.

    Args:
        judgement: of one picture.
        bundle_id: of the first model.
        policy: by which it was judged.
        second_id: of the second model.
    """
    fields = {
        "state": judgement.verdict.value,
        "reason": judgement.reason,
        "decided_by": judgement.decided_by,
        "policy": policy.version,
    }
    worst = judgement.worst
    if not judgement.by_rule:
        fields |= {
            "raw_score": f"{worst.raw_score:.6f}",
            "probability": f"{worst.probability:.6f}",
            "style": judgement.style,
            "bundle": bundle_id,
            "frame": str(worst.frame or ""),
            "background": worst.background,
        }
    if judgement.second is not None:
        fields |= second_fields(judgement.second, second_id)
    return {name: value for name, value in fields.items() if value}


def second_fields(second: SecondScore, second_id: str) -> dict[str, str]:
    """What a second model said, as the record keeps it."""
    hold = f"{second.hold:.4f}"
    return {
        "second_bundle": second_id,
        "second_raw": f"{second.raw_score:.6f}",
        "second_probability": f"{second.probability:.6f}",
        "second_hold": "" if float(hold) == 0 else hold,
    }


def make_transition(
    avatar: Avatar,
    fields: dict[str, str],
    detail: dict[str, Any],
    *,
    has_reviewers: Callable[[Region], bool],
    leaves: Stage | None = None,
    asks_person: bool = False,
) -> Transition:
    """The change that a verdict's fields lead to; gray goes to review, or to a person.

    Args:
        avatar: the record.
        fields: of it, with the verdict under `state`.
        detail: for the ledger.
        has_reviewers: whether a cloud provider is configured for a region.
        leaves: the stage that ends with this.
        asks_person: what is gray is not for providers.
    """
    fields = dict(fields)
    verdict = Verdict(fields.pop("state"))
    to, enters = AvatarState.HELD, None
    if verdict != Verdict.GRAY:
        to = AvatarState(verdict.value)
    elif asks_person:
        pass
    elif has_reviewers(avatar.region):
        to, enters = AvatarState.REVIEWING, Stage.REVIEW
    else:
        fields["reason"] = "no_provider"
    return Transition(
        avatar=avatar,
        to=to,
        fields=fields,
        leaves=leaves,
        enters=enters,
        detail={**fields, **detail},
    )


# -- from settings -------------------------------------------------------------------------------


def policy_in_use(settings: WorkerSettings, file: Path | None = None) -> Policy:
    """The policy that this process judges by.

    A second model that no file asks for, and that is not installed, is not asked: a machine without
    it goes on with one.

    Args:
        settings: where policy and models lie.
        file: instead of the policy file of the settings.

    Raises:
        PolicyError: see `load_policy`.
    """
    from worker.model.bundle import is_installed

    policy = load_policy(file or settings.policy_path())
    name = policy.second.bundle
    if policy.names_second or policy.second.ask == "off":
        return policy
    is_there = name != settings.bundle and is_installed(name, settings.models_folder)
    return policy if is_there else policy.alone()


def lacks_second(settings: WorkerSettings) -> str:
    """How to get the second model that `policy_in_use` left out; empty where it did not."""
    if policy_in_use(settings).second.ask != "off":
        return ""
    wanted = load_policy(settings.policy_path()).second
    if wanted.ask == "off" or wanted.bundle == settings.bundle:
        return ""
    return f"avatarmod bundle install {wanted.bundle}"


def open_second(
    settings: WorkerSettings, policy: Policy, micro_batch: int | None = None
) -> SecondModel | None:
    """The second model of a policy in use, not loaded yet; None where it asks none.

    One that is missing or altered is said and then says nothing itself, so that what needs it is
    gray.

    Args:
        settings: where models lie.
        policy: the rules.
        micro_batch: the first model's, so that nothing is measured again; None: as for the first.

    Raises:
        ConfigurationError: it has random weights.
    """
    from worker.model.bundle import Bundle, check_weights

    rules = policy.second
    if rules.ask == "off":
        return None
    bundle = None
    try:
        bundle = Bundle.load(rules.bundle, settings.models_folder)
    except BundleError as error:
        log.error("second_model_missing", bundle=rules.bundle, message=str(error)[:300])
    if bundle is not None:
        check_weights(bundle, allowed=settings.allow_random_weights)
    return SecondModel(rules, bundle, lambda found: make_engine(settings, found, micro_batch))


def make_decoder(
    settings: WorkerSettings,
    spec: InputSpec,
    second: SecondModel | None = None,
    *,
    first_look: bool = False,
) -> Decoder:
    """The decoder that the settings ask for; with a first, short look at every file, or without."""
    limits = DecodeLimits(**settings.decode_limits())  # type: ignore[arg-type]
    return Decoder(limits, view_options(settings, spec, second), first_look=first_look)


def view_options(
    settings: WorkerSettings, spec: InputSpec, second: SecondModel | None = None
) -> ViewOptions:
    """The way of looking that the settings ask for; `spec` is the bundle's."""
    other = second.spec if second else None
    return ViewOptions(
        spec=spec,
        second_spec=None if other == spec else other,
        max_frames=settings.scored_frames,
        served_crop=settings.served_crop,
        pad_to_square=settings.pad_to_square,
        flat_rule=settings.flat_rule,
        hidden_colours=settings.hidden_colours,
    )


def make_engine(
    settings: WorkerSettings, bundle: Bundle, micro_batch: int | None = None
) -> BundleEngine:
    """The engine that the settings ask for; with the micro-batch of another, where one is given."""
    from worker.model.engine import Engine

    if micro_batch is not None:
        micro_batch = min(micro_batch, bundle.max_micro_batch or micro_batch)
    return Engine(
        bundle,
        runtime=settings.engine,
        execution_providers=settings.execution_providers,
        threads=settings.threads,
        micro_batch=micro_batch or settings.micro_batch,
        max_rss_mb=settings.max_rss_mb,
    )
