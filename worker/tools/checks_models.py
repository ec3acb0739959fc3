"""What models and pictures need of this machine: the policy, the bundles, a decoding process.

Imports what a worker does, and so takes as long as everything else that `avatarmod doctor` asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from producer.errors import ConfigurationError, DecoderUnavailable
from producer.logs import quiet_logging
from worker.image.decoder import DecodeLimits, Decoder
from worker.image.preprocess import InputSpec
from worker.image.sandbox import describe
from worker.image.views import ViewOptions
from worker.model.bundle import Bundle
from worker.moderation.road import lacks_second, make_engine, policy_in_use
from worker.moderation.second import SecondModel
from worker.settings import WorkerSettings
from worker.tools.checks import Check


def found(settings: WorkerSettings) -> list[Check]:
    """All of them."""
    quiet_logging()
    with ThreadPoolExecutor(1) as beside:
        confined = beside.submit(sandbox, settings)
        checks = [policy(settings), bundle(settings), *second_model(settings)]
        return [*checks, confined.result()]


def policy(settings: WorkerSettings) -> Check:
    """The file of cut-offs, without which no worker starts."""
    try:
        found = policy_in_use(settings)
    except ConfigurationError as error:
        return Check(
            "policy", "critical", str(error), "correct the file; workers do not start with it"
        )
    return Check("policy", "fine", f"{settings.policy_path() or 'built in'}, {found.version}")


def bundle(settings: WorkerSettings) -> Check:
    """The model and the hashes of its files."""
    try:
        found = Bundle.load(settings.bundle, settings.models_folder)
    except ConfigurationError as error:
        return Check("bundle", "critical", str(error), "`avatarmod export` makes one")
    return Check("bundle", "fine", f"{found.id}, every hash is right")


def second_model(settings: WorkerSettings) -> Iterator[Check]:
    """The second model: what needs it is gray while it is missing."""
    try:
        rules = policy_in_use(settings).second
    except ConfigurationError:
        return  # said by the check of the policy
    if fix := lacks_second(settings):
        yield Check("second model", "warning", "not installed: one model judges alone", fix)
    if rules.ask == "off":
        return
    try:
        found = Bundle.load(rules.bundle, settings.models_folder)
    except ConfigurationError as error:
        message = f"what needs it goes to review, nothing passes without it: {error}"
        fix = f'avatarmod bundle install {rules.bundle}, or ask = "off" in the policy\'s [second]'
        yield Check("second model", "critical", message, fix)
        return
    second = SecondModel(rules, found, lambda bundle: make_engine(settings, bundle, 1))
    if second.load() is None:
        message = f"{second.fault}: what needs it goes to review, nothing passes without it"
        yield Check("second model", "critical", message, f"avatarmod bundle show {rules.bundle}")
        return
    yield Check("second model", "fine", f"{found.id}, asked {rules.ask}")


def sandbox(settings: WorkerSettings) -> Check:
    """Let a decoding process try what a codec that was taken over would try."""
    limits = DecodeLimits(**settings.decode_limits())  # type: ignore[arg-type]
    spec = InputSpec(
        width_px=224, height_px=224, resize="stretch", resize_px=224, interpolation="bilinear"
    )
    try:
        with Decoder(limits, ViewOptions(spec=spec)) as decoder:
            lacking, worked = decoder.try_to_escape()
    except DecoderUnavailable as error:
        return Check("sandbox", "critical", str(error), "pictures cannot be decoded; see above")
    found = describe(lacking, worked)
    if worked:
        fix = "use a kernel of 6.1 or newer, and let the container or unit allow seccomp, Landlock"
        return Check("sandbox", "warning", found, fix)
    return Check("sandbox", "fine", found)
