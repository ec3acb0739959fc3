"""What the routes of the API and the console work with."""

from __future__ import annotations

import dataclasses
import functools

from fastapi import Request

from producer.client import Producer
from producer.forget import Forgetter
from producer.images import Images
from producer.metrics import Recorder
from producer.record.store import Store
from producer.settings import Settings
from producer.web.api_keys import ApiKeys, Rates
from producer.web.limits import Slots
from producer.web.long_poll import Follower

#: Requests that wait for news of an upload at once, in this process.
MAX_LONG_POLLS = 200


@dataclasses.dataclass(frozen=True, kw_only=True)
class Services:
    """What the routes work with; built once per process by its composition root."""

    settings: Settings
    store: Store
    producer: Producer
    images: Images
    forgetter: Forgetter
    keys: ApiKeys
    rates: Rates
    follower: Follower
    recorder: Recorder = dataclasses.field(default_factory=Recorder)
    long_polls: Slots = dataclasses.field(default_factory=lambda: Slots(MAX_LONG_POLLS))

    @functools.cached_property
    def classifications(self) -> Slots:
        """Pictures that are classified on open connections."""
        return Slots(self.settings.api_classify_concurrency)


def services(request: Request) -> Services:
    """The services of the application that a request came to."""
    found: Services = request.app.state.services
    return found
