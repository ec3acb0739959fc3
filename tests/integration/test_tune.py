"""`avatarmod tune` from folders to a policy file; the scores are made up, the rest is real."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from producer.settings import Settings
from tests.integration.scores import score_in_content
from worker.commands.tune import tune
from worker.ledger.database import write_transaction
from worker.ledger.rows import to_row
from worker.ledger.schema import events
from worker.ledger.writer import Ledger
from worker.moderation.policy import load_policy
from worker.moderation.policy_file import PolicyFile
from worker.settings import WorkerSettings
from worker.tools.policies import PROPOSAL_FILE, Policies
from worker.tools.scoring import Scorer


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder; a picture's content is its raw score."""
    monkeypatch.setattr(Scorer, "score", score_in_content)
    monkeypatch.setenv("AVATARMOD_DATA_FOLDER", str(tmp_path / "data"))
    return tmp_path


def dataset(home: Path, *, harmless: int, explicit: int) -> str:
    """Harmless pictures score up to 0.4, explicit ones from 0.6."""
    for name, number, low in (("harmless", harmless, 0.1), ("explicit", explicit, 0.6)):
        (home / "set" / name).mkdir(parents=True)
        for n in range(number):
            text = f"{low + 0.3 * n / number:.6f}"
            (home / "set" / name / f"{n}.png").write_text(text)
    return str(home / "set")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(tune, list(arguments), env={"COLUMNS": "160"})


def test_a_target_without_labels_is_not_met(home: Path) -> None:
    """What is lacking is said with the number that would do, and nothing is written."""
    out = home / "pol.toml"
    found = run(dataset(home, harmless=10, explicit=0), "--write", str(out))
    assert found.exit_code == 1
    assert "2% missed needs 150 explicit labelled pictures, there are none" in found.output
    assert "0.1% false blocks needs 3,000 harmless labelled pictures, there are 10" in found.output
    assert "--unverified" in found.output
    assert not out.exists()


def test_what_is_not_verified_is_written_only_when_asked_and_says_so(home: Path) -> None:
    """The policy file is valid and carries the warning."""
    out = home / "pol.toml"
    found = run(dataset(home, harmless=1, explicit=0), "--write", str(out), "--unverified")
    assert found.exit_code == 0, found.output
    assert "1 labelled picture;" in found.output
    assert "unverified" in found.stderr
    text = out.read_text()
    assert "# UNVERIFIED: 2% missed needs 150 explicit labelled pictures, there are none.\n" in text
    assert "from 1 labelled picture." in text
    assert load_policy(out).photo.approve_below == load_policy(None).photo.approve_below


def test_enough_labels_verify_a_target(home: Path) -> None:
    """60 pictures of each label are 3 / 5 %: the cut-offs are written without a warning."""
    out = home / "pol.toml"
    folder = dataset(home, harmless=60, explicit=60)
    target = ["--max-false-blocks", "5", "--max-missed", "5", "--write", str(out)]
    found = run(folder, *target, "--json")
    assert found.exit_code == 0, found.output
    answer = json.loads(found.stdout)
    assert (answer["verified"], answer["lacking"]) == (True, [])
    assert "UNVERIFIED" not in out.read_text()
    assert run(folder, *target, "--max-missed", "4").exit_code == 1


def test_what_was_found_is_proposed_to_the_console(home: Path) -> None:
    """Under the name that the console looks for; with its warning, and in nobody's force yet."""
    settings = WorkerSettings(data_folder=home / "data")
    found = run(dataset(home, harmless=60, explicit=60), "--propose")
    assert found.exit_code == 1
    policies = Policies(settings, lambda: None, lambda: 0.0)
    assert policies.proposal() is None, "what is not verified is not proposed"
    found = run(str(home / "set"), "--propose", "--unverified")
    assert found.exit_code == 0, found.output
    assert "the console shows it under Thresholds" in found.stderr
    proposal = policies.proposal()
    assert proposal is not None
    photo = proposal[0][0]
    assert photo == load_policy(settings.data_folder / PROPOSAL_FILE).photo
    assert any("UNVERIFIED" in line for line in proposal[1])
    assert PolicyFile(settings).history()[0].text is None


def test_money_needs_labels_too(home: Path) -> None:
    """No explicit picture: the gray share is not known, and so no price of it."""
    arguments = ["--max-false-blocks", "5", "--max-missed", "100"]
    folder = dataset(home, harmless=60, explicit=1)
    assert run(folder, *arguments).exit_code == 0
    found = run(folder, *arguments, "--max-yuan", "1000")
    assert found.exit_code == 1
    assert "1,000.00 yuan a month needs 20 explicit labelled pictures, there is 1" in found.output


def routes(home: Path) -> list[tuple[object, ...]]:
    found = run(dataset(home, harmless=2, explicit=2), "--json", "--unverified")
    answer = json.loads(found.stdout)
    paid = sum(way["share"] * way["yuan_per_1000"] for way in answer["routes"])
    calls = answer["present"]["provider_calls_per_day"]
    assert answer["present"]["route_yuan_per_month"] == pytest.approx(calls * 30 * paid / 1000)
    return [
        (w["region"], w["share"], w["provider"], w["yuan_per_1000"], w["configured"])
        for w in answer["routes"]
    ]


def test_the_price_is_that_of_a_provider_the_uploads_may_go_to(home: Path) -> None:
    """Nothing configured, nothing known of regions: the default region's own provider, by name."""
    assert routes(home) == [("domestic", 1.0, "aliyun2", 1.5, False)]
    found = run(str(home / "set"), "--unverified")
    assert "Money at aliyun2 for 100% domestic, 1.5 yuan for 1,000, assumed" in found.output
    assert "cloudflare" not in found.output


def test_the_price_is_weighted_by_the_uploads_regions(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A quarter goes overseas, to the provider that is named first there."""
    monkeypatch.setenv("AVATARMOD_REVIEW_DOMESTIC", "tencent,aliyun2")
    monkeypatch.setenv("AVATARMOD_REVIEW_OVERSEAS", "rekognition,cloudflare")
    ledger = Ledger.open(Settings())
    accepted = {"kind": "transition", "from": "", "to": "queued", "seq": "1"}
    rows = [
        to_row(
            "avatarmod",
            f"1-{n}",
            {
                **accepted,
                "upload_id": f"u{n}",
                "at": str(time.time()),
                "region": "overseas" if n == 3 else "domestic",
            },
        )
        for n in range(4)
    ]
    with write_transaction(ledger.engine) as connection:
        connection.execute(events.insert(), rows)
    ledger.close()
    assert routes(home) == [
        ("domestic", 0.75, "tencent", 1.5, True),
        ("overseas", 0.25, "rekognition", 7.2, True),
    ]


def test_the_cut_offs_of_the_region_asked_for_are_compared(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By default the configured region's: the present setting is what workers there use."""
    policy = home / "present.toml"
    policy.write_text("[region.overseas.photo]\napprove_below = 0.35\nblock_from = 0.36\n")
    monkeypatch.setenv("AVATARMOD_POLICY_FILE", str(policy))
    folder = dataset(home, harmless=20, explicit=20)

    def present(*arguments: str) -> tuple[str, float]:
        answer = json.loads(run(folder, "--json", "--unverified", *arguments).stdout)
        return answer["region"], answer["present"]["photo"]["block_from"]

    assert present() == ("domestic", 0.95)
    assert present("--region", "overseas") == ("overseas", 0.36)
    monkeypatch.setenv("AVATARMOD_DEFAULT_REGION", "overseas")
    assert present() == ("overseas", 0.36)


def test_pages_are_whole_and_load_nothing(home: Path) -> None:
    """Charts with their names, numbers in tables, and no address of anywhere else."""
    page = home / "tune.html"
    found = run(dataset(home, harmless=30, explicit=30), "--unverified", "--html", str(page))
    assert found.exit_code == 0, found.output
    text = page.read_text()
    for words in ("Misses and money", "False blocks and money", "The frontier", "<td>now</td>"):
        assert words in text
    assert "<script" not in text
    assert not set(re.findall(r'(?:src|href)="(?!#|data:)([^"]*)"', text))


def test_money_is_in_the_currency_that_is_set(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the table's head, in the price list and in what is lacking."""
    monkeypatch.setenv("AVATARMOD_CURRENCY", "EUR")
    folder = dataset(home, harmless=60, explicit=1)
    found = run(folder, "--unverified").output
    assert "EUR/mo" in found
    assert "1.5 EUR for 1,000" in found
    assert "yuan" not in found
    limits = ["--max-false-blocks", "5", "--max-missed", "100", "--max-yuan", "1000"]
    assert "1,000.00 EUR a month needs 20 explicit" in run(folder, *limits).output
