"""The measured miss rate through the whole stack: real workers, killed while they audit."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from producer.contract import AvatarState
from tests.acceptance.conftest import Instance, eventually, picture
from tests.acceptance.test_review import Provider
from tests.providers.stub import Stub
from tests.providers.wires import CloudflareWire
from tests.support import events

#: Every picture is a clear approval.
ALL_CLEAR = """
[photo]
approve_below = 1.0
block_from = 1.0
[drawn]
approve_below = 1.0
block_from = 1.0
[second]
ask = "off"
"""

UPLOADS = 40


def test_every_approval_is_audited_exactly_once_though_the_workers_are_killed(
    make_instance: Callable[..., Instance], tmp_path: Path
) -> None:
    """One label and one billed call each; the approvals stand all the time."""
    policy = tmp_path / "policy.toml"
    policy.write_text(ALL_CLEAR)
    wire = CloudflareWire()
    provider = Provider(wire, delay_s=0.1)
    with Stub(provider.respond) as stub:
        instance = make_instance(
            AVATARMOD_AUDIT_SHARE="1",
            AVATARMOD_POLICY_FILE=str(policy),
            AVATARMOD_FLAT_RULE="false",
            AVATARMOD_REVIEW_OVERSEAS="cloudflare",
            AVATARMOD_CLOUDFLARE_RATE_PER_S="60",
            **{
                f"AVATARMOD_{name.upper()}": str(value)
                for name, value in wire.settings(stub.url).items()
            },
        )
        instance.start()
        ids = [f"clear-{number:03d}" for number in range(UPLOADS)]
        with instance.producer() as producer:
            for number, upload_id in enumerate(ids):
                instance.put_image(upload_id, picture(number))
                producer.enqueue(upload_id, region="overseas")

        def labels() -> Counter[str]:
            with instance.store() as store:
                return Counter(e["upload_id"] for e in events(store) if e["kind"] == "label")

        for share in (0.1, 0.5):
            eventually(lambda share=share: len(labels()) >= share * UPLOADS, "some are labelled")
            os.kill(instance.pid_of("io"), signal.SIGKILL)
        os.kill(instance.pid_of("moderate"), signal.SIGKILL)
        eventually(lambda: len(labels()) == UPLOADS, "all are labelled")
        with instance.store() as store:
            records = store.get_many(ids)
        counts = set(labels().values())
        instance.stop()
    assert counts == {1}
    assert {record and record.state for record in records} == {AvatarState.APPROVED}
    # A call whose worker died stays paid for, and may have to be made again.
    assert sum(provider.billed.values()) <= UPLOADS + 2
    assert {record and record.audit for record in records} == {"harmless"}
