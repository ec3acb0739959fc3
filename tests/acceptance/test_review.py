"""The gray zone through the whole stack: real workers, two providers that misbehave."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from producer.contract import AvatarState
from producer.record.dead_letters import DeadLetters
from tests.acceptance.conftest import Instance, eventually, picture
from tests.providers.stub import Call, Response, Stub, answer
from tests.providers.wires import CloudflareWire, HuggingFaceWire

#: Everything the model scores is gray, so that every upload asks for a second opinion.
ALL_GRAY = """
[photo]
approve_below = 0.0
block_from = 1.0
[drawn]
approve_below = 0.0
block_from = 1.0
"""

UPLOADS = 300


class Provider:
    """A stub that verifies the key, counts what it bills, and fails as told."""

    def __init__(self, wire: HuggingFaceWire | CloudflareWire, delay_s: float = 0.0) -> None:
        self._wire = wire
        self._delay_s = delay_s
        self._lock = threading.Lock()
        self._asked = 0
        self.down = False
        self.fails_half = False
        self.billed: Counter[str] = Counter()

    def respond(self, call: Call) -> Response:
        """Right key first, then the fault, then the provider's own answer."""
        refused = self._wire.verify(call)
        if refused is not None:
            return refused
        with self._lock:
            self._asked += 1
            if self.down or (self.fails_half and self._asked % 2):
                return answer({"error": "overloaded"}, 503)
            self.billed[hashlib.sha256(call.body).hexdigest()] += 1
        reply = self._wire.reply("clean", call)
        return Response(reply.status, reply.body, reply.headers, delay_s=self._delay_s)


def test_300_gray_uploads_end_decided_and_are_paid_for_once(
    make_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    """Provider A fails half of the time, then is down; B is slow: all end, all is paid once."""
    policy = tmp_path / "policy.toml"
    policy.write_text(ALL_GRAY)
    hf_wire, cf_wire = HuggingFaceWire(), CloudflareWire()
    first, second = Provider(hf_wire), Provider(cf_wire, delay_s=0.3)
    first.fails_half = True
    with Stub(first.respond) as a, Stub(second.respond) as b:
        values = {**hf_wire.settings(a.url), **cf_wire.settings(b.url)}
        instance = make_instance(
            AVATARMOD_POLICY_FILE=str(policy),
            AVATARMOD_FLAT_RULE="false",
            AVATARMOD_REVIEW_OVERSEAS="huggingface,cloudflare",
            AVATARMOD_REVIEW_RETRY_BASE_S="0.2",
            AVATARMOD_REVIEW_RETRY_CAP_S="1",
            AVATARMOD_HUGGINGFACE_RATE_PER_S="60",
            AVATARMOD_CLOUDFLARE_RATE_PER_S="60",
            AVATARMOD_API_PORT="0",
            **{f"AVATARMOD_{name.upper()}": str(value) for name, value in values.items()},
        )
        instance.start()
        ids = [f"gray-{number:03d}" for number in range(UPLOADS)]
        with instance.producer() as producer:
            for number, upload_id in enumerate(ids):
                # Every tenth shows what another showed before: one opinion serves both.
                instance.put_image(upload_id, picture(number - 1 if number % 10 == 9 else number))
                producer.enqueue(upload_id, region="overseas")

        def states() -> Counter[str]:
            with instance.store() as store:
                return Counter(str(avatar and avatar.state) for avatar in store.get_many(ids))

        eventually(lambda: states()["approved"] >= 60, "a fifth is decided")
        first.down = True
        eventually(
            lambda: sum(states()[s] for s in ("approved", "held", "dead")) == UPLOADS,
            "all have ended",
        )
        ended = states()
        with instance.store() as store:
            letters = DeadLetters(store).count()
            by = Counter(a.decided_by for a in store.get_many(ids) if a is not None)
        instance.stop()
    contents = UPLOADS - UPLOADS // 10
    assert set(first.billed.values()) == {1}
    assert set(second.billed.values()) == {1}
    assert sum(first.billed.values()) + sum(second.billed.values()) <= contents
    assert ended[AvatarState.DEAD] == letters == 0
    assert by["review:huggingface"] > 0
    assert by["review:cloudflare"] > 0
    assert ended[AvatarState.APPROVED] + ended[AvatarState.HELD] == UPLOADS
