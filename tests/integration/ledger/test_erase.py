"""Names taken out of each kind of database, and the counts that must not change by it."""

from __future__ import annotations

import json

from producer.contract import AvatarState
from producer.record.store import Store
from tests.integration.ledger.conftest import advance, upload
from worker.ledger.erase import Eraser
from worker.ledger.last_words import LastWords
from worker.ledger.writer import Ledger


def reports(ledger: Ledger) -> list[object]:
    """Every figure that is drawn from the ledger without naming an upload."""
    return [
        ledger.count(0, 1e12).to_json(),
        ledger.latencies(0, 1e12),
        ledger.histogram(days=1e5),
        ledger.regions(),
        ledger.shadows(0, 1e12),
        ledger.broken_stories(),
        ledger.span(),
        [(row["from_state"], row["probability"]) for row in ledger.judged()],
    ]


def test_numbers_stay_and_names_go(ledger: Ledger, store: Store) -> None:
    """Of three uploads two are erased, one of them decided twice; each figure is as before."""
    for upload_id in ("a", "b", "c"):
        upload(store, upload_id, image="17.png", views=[["whole", 0.1, 0.1]])
        store.events.note("shadow", upload_id, 2, "approved", {}, from_="approved")
    advance(store, "a", AvatarState.BLOCKED, {"decided_by": "operator:ann"}, by="ann")
    store.events.audit(by="ann", action="block", item="a", outcome="done", address="10.0.0.9")
    ledger.drain(store)
    before = reports(ledger)

    eraser = Eraser(ledger.engine, ledger.namespace)
    known = eraser.known_of("a")
    assert known is not None
    assert len(known[1]) == 1
    assert eraser.erase("a", "~1", before=store.now()) == 5
    assert eraser.erase("b", "~2", before=store.now()) == 3
    assert eraser.erase("a", "~1", before=store.now()) == 0
    assert eraser.known_of("a") is None

    assert reports(ledger) == before
    assert [row["upload_id"] for row in ledger.recent()] == ["c"]
    # Nor is it anybody's to restore.
    assert list(LastWords(ledger, since=0).pages()) == [["c"]]
    rows = [row for row in ledger.stream() if row["upload_id"] != "c"]
    assert {row["upload_id"] for row in rows} == {"~1", "~2"}
    assert {row["sha256"] for row in rows} == {""}
    assert "17.png" not in json.dumps(rows)
    assert "10.0.0.9" not in json.dumps(rows)
    assert ["ann" in json.dumps(row) for row in rows].count(True) == 2


def test_what_came_later_stays(ledger: Ledger, store: Store) -> None:
    """Rows of an id that is used again are another upload's."""
    upload(store, "a")
    ledger.drain(store)
    eraser = Eraser(ledger.engine, ledger.namespace)
    first = next(ledger.stream())["at"]
    assert eraser.erase("a", "~1", before=first) == 0
    assert eraser.erase("a", "~1", before=store.now()) == 2
