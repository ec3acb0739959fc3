"""The second model on its road: what it says of the views that the first one scored.

Loaded when it is first asked. What it cannot say is left out, which no policy reads as a good word.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import structlog

from producer.texts import say
from worker.image.decoder import View
from worker.image.preprocess import InputSpec
from worker.moderation.panel import SecondLook, SecondScore

if TYPE_CHECKING:
    from worker.model.bundle import Bundle

log = structlog.get_logger()


class Engine(Protocol):
    """Views to scores; see worker/model/engine.py."""

    micro_batch: int

    def score(self, pixels: Any, cut_offs: Sequence[float] = ()) -> Sequence[Any]:
        """One score a row, in order."""


class SecondModel:
    """One bundle beside the first; safe to share between threads.

    Args:
        rules: the policy's.
        bundle: None where it is missing or not intact: it then says nothing.
        make: loads it.
    """

    def __init__(
        self, rules: SecondLook, bundle: Bundle | None, make: Callable[[Bundle], Engine]
    ) -> None:
        self._bundle = bundle
        self._make = make
        self._cut_offs = rules.second_boundaries()
        self._engine: Engine | None = None
        self._is_broken = bundle is None
        self._lock = threading.Lock()
        #: Why what needs it is gray, in words; empty while it works.
        self.fault: str = (
            "" if bundle else say("{bundle} is missing or altered", bundle=rules.bundle)
        )
        #: Empty where it is missing.
        self.id = bundle.id if bundle else ""
        #: Whether every picture is shown to it, so that it is scored beside the first.
        self.asks_always = rules.ask == "always"

    @property
    def spec(self) -> InputSpec | None:
        """Its input rule."""
        return self._bundle.input if self._bundle else None

    @property
    def bundle(self) -> Bundle | None:
        """None where it is missing."""
        return self._bundle

    def load(self) -> Engine | None:
        """The model, or None where it does not work here, which is said once."""
        with self._lock:
            if self._engine is None and not self._is_broken and self._bundle is not None:
                try:
                    self._engine = self._make(self._bundle)
                except Exception as error:  # noqa: BLE001 - the first model goes on without it
                    self._is_broken = True
                    self.fault = say("{bundle} does not load", bundle=self.id)
                    log.error("second_model_failed", bundle=self.id, message=str(error)[:300])
            return self._engine

    def score(self, views: Mapping[str, Sequence[View]]) -> dict[str, tuple[SecondScore, ...]]:
        """One score a view, by content; contents that it cannot score are left out."""
        engine = self.load()
        if engine is None or not views:
            return {}
        flat = [view for each in views.values() for view in each]
        try:
            pixels = np.stack([view.second_pixels for view in flat])
            results = engine.score(pixels, self._cut_offs)
        except Exception as error:  # noqa: BLE001 - what it cannot say is left to the policy
            if len(views) > 1:
                alone = [self.score({sha256: each}) for sha256, each in views.items()]
                return {sha256: said for one in alone for sha256, said in one.items()}
            log.error("second_model_failed", bundle=self.id, error=type(error).__name__)
            self.fault = say(
                "{bundle} fails with {error}", bundle=self.id, error=type(error).__name__
            )
            return {}
        self.fault = ""
        said = iter(
            SecondScore(probability=one.probability, raw_score=one.raw_score, hold=one.hold)
            for one in results
        )
        return {sha256: tuple(next(said) for _ in each) for sha256, each in views.items()}
