"""What an undecided record costs in Redis, and so how many fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from producer.connect import redis_client
from producer.contract import Avatar, AvatarState
from producer.record.store import Store
from worker.process.valkey import EmbeddedValkey

#: The goal: bytes of one record that waits, with its places, its event and its share of indexes.
MOST_BYTES = 1024


@pytest.mark.parametrize(
    ("image", "count"),
    [("", 4000), ("https://pictures.example/avatars/2026/11/22/" + "f" * 60 + ".png", 4000)],
    ids=["stored under its id", "with an address of 108 characters"],
)
def test_an_undecided_record_takes_less_than_a_kilobyte(
    tmp_path: Path, record_property: Callable[[str, object], None], image: str, count: int
) -> None:
    """Record, due entry, index entry and event together; a million of them fit into 1 GB."""
    server = EmbeddedValkey(tmp_path / "valkey")
    server.start()
    try:
        with redis_client(server.url) as client:
            client.config_set("appendfsync", "no")
            store = Store(client)
            before = int(client.info("memory")["used_memory"])  # type: ignore[index,arg-type]
            for start in range(0, count, 500):
                store.submit_many(
                    [
                        Avatar(
                            upload_id=f"user-{number:012d}@2026-11-22T10:00:00Z",
                            state=AvatarState.QUEUED,
                            seq=1,
                            image=image,
                        )
                        for number in range(start, start + 500)
                    ],
                    max_backlog=10**9,
                )
            after = int(client.info("memory")["used_memory"])  # type: ignore[index,arg-type]
    finally:
        server.stop()
    each = (after - before) / count
    record_property("bytes_per_undecided_record", round(each))
    print(f"{each:.0f} bytes each; a million: {each:.0f} MB")
    assert each < MOST_BYTES
