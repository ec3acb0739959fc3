"""The role that holds the model: a drain that fetches, decodes, scores and judges."""

from __future__ import annotations

import contextlib
import threading

import structlog

from producer.contract import Region, Stage
from producer.errors import DecoderUnavailable
from worker.image.decoder import Decoder
from worker.memory.memory import PictureMemory, shared_file
from worker.model.bundle import Bundle, check_weights
from worker.model.style import StyleHead
from worker.moderation.batch import BatchKnobs, ModerateDrain
from worker.moderation.policy_file import PolicyInUse
from worker.moderation.road import (
    lacks_second,
    make_decoder,
    make_engine,
    open_second,
    view_options,
)
from worker.resources import unmap_large_blocks
from worker.roles.parts import Parts, Role
from worker.tasks import Doorbell

log = structlog.get_logger()


class Moderate(Role):
    """Loads what it judges by, which may take seconds.

    Raises:
        ConfigurationError: a bundle or the policy cannot be used.
    """

    def __init__(self, parts: Parts) -> None:
        settings, facts = parts.settings, parts.facts
        bundle = Bundle.load(settings.bundle, settings.models_folder)
        check_weights(bundle, allowed=settings.allow_random_weights)
        self._policy = PolicyInUse(settings)
        policy = self._policy.get()
        self._version = policy.version
        if fix := lacks_second(settings):
            facts["second_fix"] = fix
            log.warning("second_model_absent", effect="one model judges alone", fix=fix)
        engine = make_engine(settings, bundle)
        second = self._second = open_second(settings, policy, engine.micro_batch)
        decoder = make_decoder(settings, bundle.input, second, first_look=True)
        # The processes that decode import for as long as all that follows takes.
        threading.Thread(target=_start, args=(decoder,), name="decoder", daemon=True).start()
        if second is not None and second.asks_always:
            second.load()
        if engine.keeps_memory:
            unmap_large_blocks()
        facts |= {**engine.description, "policy": policy.version}
        facts["second_bundle"] = (second.id or "missing") if second else ""
        style = StyleHead()

        def has_reviewers(region: Region) -> bool:
            return bool(settings.route_of(region))

        drain = ModerateDrain(
            store=parts.store,
            outcomes=parts.outcomes,
            fetch=parts.images.fetch,
            decoder=decoder,
            engine=engine,
            policy=policy,
            drawn_probability=lambda view: style.drawn_probability(view.pixels),
            has_reviewers=has_reviewers,
            recorder=parts.recorder,
            knobs=BatchKnobs(
                batch_size=settings.batch_size,
                batch_wait_s=settings.batch_wait_s,
                lease_s=settings.lease_s,
                fetch_threads=settings.fetch_threads,
                bundle_id=bundle.id,
                views_id=view_options(settings, bundle.input, second).id,
            ),
            second=second,
            memory=PictureMemory(parts.store.memory, shared_file(settings))
            if settings.look_alikes
            else None,
        )
        parts.closers.extend((drain.close, decoder.close))
        self.doorbells = {Stage.MODERATE: Doorbell(parts.store, Stage.MODERATE, drain, parts.stop)}

    def outdated(self) -> str:
        """Whether the policy has changed."""
        return "" if self._policy.get().version == self._version else "policy_changed"

    def faults(self) -> dict[str, str]:
        """Of the second model."""
        return {"second_fault": self._second.fault if self._second else ""}


def _start(decoder: Decoder) -> None:
    """Have children ready for the first picture; what is wrong with them, that one meets."""
    with contextlib.suppress(DecoderUnavailable):
        decoder.start()
