"""A second bundle or policy looks on: what it would have said stands in ledger and report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from producer.contract import Avatar, AvatarState
from producer.errors import ImageMissing
from producer.record.store import Store, Transition
from producer.settings import Settings
from worker.commands.report import report
from worker.demo.pictures import encode, landscape
from worker.ledger.writer import Ledger
from worker.model.bundle import Bundle
from worker.moderation.policy import CutOffs, Policy
from worker.settings import WorkerSettings
from worker.tools.scoring import Scorer
from worker.tools.shadow import Shadow, is_sampled

BLOCKS_ALL = Policy(
    photo=CutOffs(approve_below=0.0, block_from=0.0),
    drawn=CutOffs(approve_below=0.0, block_from=0.0),
)


def decide(store: Store, upload_id: str, sha256: str) -> None:
    """One upload that the live model approved."""
    avatar = Avatar(upload_id=upload_id, state=AvatarState.QUEUED, seq=1, image=f"{upload_id}.png")
    store.submit(avatar, max_backlog=100)
    found = store.get(upload_id)
    assert found is not None
    fields = {"decided_by": "model", "probability": "0.01", "sha256": sha256, "bundle": "live@1"}
    store.advance([Transition(avatar=found, to=AvatarState.APPROVED, fields=fields, detail=fields)])


def test_differences_stand_in_ledger_and_report(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each upload is looked at once; the verdicts that would differ are counted."""
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path))
    ledger = Ledger.open(Settings(data_folder=tmp_path))
    for number in range(4):
        decide(store, f"u{number}", f"{number:064x}")
    ledger.drain(store)

    def fetch(reference: str, upload_id: str) -> bytes:
        assert reference == f"{upload_id}.png"
        if upload_id == "u3":
            raise ImageMissing("gone")
        return encode(landscape(int(upload_id[1:])), "PNG")

    settings = WorkerSettings(data_folder=tmp_path)
    with Scorer(settings, Bundle.load("open-nsfw", tmp_path)) as scorer:
        shadow = Shadow(
            ledger=ledger,
            store=store,
            fetch=fetch,
            scorer=scorer,
            policy=BLOCKS_ALL,
            share=1.0,
            position_file=tmp_path / "position",
        )
        assert shadow.step() == 4
        assert shadow.step() == 0
    assert (shadow.looked, shadow.gone) == (3, 1)
    assert store.get("u0").state == AvatarState.APPROVED  # type: ignore[union-attr]
    ledger.drain(store)
    look = ledger.story("u0")[-1]
    assert (look["kind"], look["from_state"], look["to_state"]) == ("shadow", "approved", "blocked")
    assert look["policy"] == BLOCKS_ALL.version
    ledger.close()
    [row] = json.loads(CliRunner().invoke(report, ["--json"]).stdout)["shadows"]
    assert (row["looked"], row["newly_blocked"], row["newly_approved"]) == (3, 3, 0)


def test_a_sample_is_the_same_everywhere() -> None:
    """By content: a tenth is about a tenth, contained in a fifth, and all is all."""
    hashes = [f"{n * 2654435761 % 2**32:08x}" + "0" * 56 for n in range(2000)]
    tenth = {h for h in hashes if is_sampled(h, 0.1)}
    fifth = {h for h in hashes if is_sampled(h, 0.2)}
    assert 150 < len(tenth) < 250
    assert tenth < fifth
    assert all(is_sampled(h, 1.0) for h in hashes)
    assert not any(is_sampled(h, 0.0) for h in hashes)
