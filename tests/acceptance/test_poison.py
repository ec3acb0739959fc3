"""A picture that kills the whole worker process, again and again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from producer.contract import Stage
from producer.record.dead_letters import DeadLetters
from producer.record.store import Store
from tests.support import submit, wait_until

SCRIPT = Path(__file__).with_name("poison_worker.py")


def test_it_ends_in_the_dead_letters_and_its_neighbours_are_decided(
    store: Store, valkey_url: str, tmp_path: Path
) -> None:
    """Three deaths, one dead letter; every neighbour is approved, none is quarantined with it."""
    namespace = store.prefix.strip("{}:")
    ids = [f"u{number:02d}" for number in range(40)]
    for upload_id in ids:
        content = b"P" if upload_id == "u05" else b"c" + upload_id.encode()
        (tmp_path / upload_id).write_bytes(content)
        submit(store, upload_id)

    def open_left() -> int:
        return store.open_counts()["queued"]

    codes: list[int] = []
    while open_left():
        assert len(codes) < 12, "it goes round in circles"
        done = subprocess.run(
            [sys.executable, str(SCRIPT), valkey_url, namespace, str(tmp_path)],
            cwd=SCRIPT.parents[2],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, 139), done.stderr
        codes.append(done.returncode)
        if open_left():
            wait_until(lambda: Stage.MODERATE in store.due_lines(), 30, "a lease runs out")
    assert codes.count(139) == 3
    letters = list(DeadLetters(store).find())
    assert [(letter.item, letter.error) for letter in letters] == [("u05", "WorkerKilled")]
    states = {avatar.upload_id: str(avatar.state) for avatar in store.get_many(ids) if avatar}
    assert states == {**dict.fromkeys(ids, "approved"), "u05": "dead"}
