"""One file of settings, read alike by everybody, and what `avatarmod config` says of it."""

from __future__ import annotations

import json
import os
import shlex
import stat
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from producer.cli import cli
from producer.environment import adopt, write
from producer.errors import ConfigurationError
from producer.settings import Settings, load_settings
from worker.commands.config import where_from
from worker.model.bundle import SHIPPED_FOLDER, Bundle, list_bundles
from worker.settings import WorkerSettings, unknown_variables

SECRET = "whsec_" + "A" * 43 + "="


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, where `.env` is looked for."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AVATARMOD_ENV_FILE")
    return tmp_path


def run(*words: str) -> Result:
    return CliRunner().invoke(cli, ["config", *words])


def test_env_of_the_working_folder_is_read(here: Path) -> None:
    """Without any variable, as everybody expects who copied the example."""
    (here / ".env").write_text("# mine\nAVATARMOD_NAMESPACE=shop\nAVATARMOD_BATCH_SIZE='7'\n")
    settings = load_settings(WorkerSettings)
    assert (settings.namespace, settings.batch_size) == ("shop", 7)


def test_a_working_folder_that_we_may_not_read_is_as_good_as_empty(here: Path) -> None:
    """`sudo avatarmod` from the home of root runs as a user who may not look there."""
    here.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        settings = load_settings(WorkerSettings)
        bundle = Bundle.load("open-nsfw", Path("/nowhere"))
        names = list_bundles(Path("/nowhere"))
    finally:
        os.seteuid(user)
        here.chmod(0o700)
    assert settings.bundle
    assert bundle.folder == SHIPPED_FOLDER / "open-nsfw"
    assert "open-nsfw" in names


def test_a_variable_goes_before_the_file_and_the_file_before_a_secret(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder of secrets may be named in the file, too."""
    (here / "secrets").mkdir()
    for name in ("namespace", "language", "currency"):
        (here / "secrets" / f"avatarmod_{name}").write_text({"currency": "EUR"}.get(name, "x"))
    file = here / "mine.env"
    file.write_text(
        f"AVATARMOD_SECRETS_FOLDER={here}/secrets\n"
        "AVATARMOD_NAMESPACE=of-file\nAVATARMOD_LANGUAGE=zh-CN\n"
    )
    monkeypatch.setenv("AVATARMOD_ENV_FILE", str(file))
    monkeypatch.setenv("AVATARMOD_NAMESPACE", "of-environment")
    settings = load_settings(Settings)
    found = (settings.namespace, settings.language, settings.currency)
    assert found == ("of-environment", "zh-CN", "EUR")
    assert where_from() == {
        "namespace": "environment",
        "language": f"file {file}",
        "currency": f"file {here}/secrets/avatarmod_currency",
    }


def test_an_empty_name_means_no_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For whoever must join nothing that is configured, such as the demo."""
    (here / ".env").write_text("AVATARMOD_NAMESPACE=shop\n")
    monkeypatch.setenv("AVATARMOD_ENV_FILE", "")
    assert load_settings(Settings).namespace == "avatarmod"


def test_a_named_file_that_cannot_be_read_is_said(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing starts with other settings than those that somebody named."""
    monkeypatch.setenv("AVATARMOD_ENV_FILE", str(here / "gone.env"))
    with pytest.raises(ConfigurationError, match=r"AVATARMOD_ENV_FILE: .*gone\.env cannot be read"):
        load_settings(Settings)


def test_a_file_that_everybody_can_write_is_not_read_unless_named(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder for uploads could hold one; `config check` says so."""
    file = here / ".env"
    file.write_text("AVATARMOD_NAMESPACE=theirs\n")
    file.chmod(0o666)
    assert load_settings(Settings).namespace == "avatarmod"
    result = run("check")
    assert (result.exit_code, "is not read" in result.output) == (1, True)
    monkeypatch.setenv("AVATARMOD_ENV_FILE", ".env")
    assert load_settings(Settings).namespace == "theirs"


def test_other_variables_of_the_file_reach_the_process(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxies and tracing; what the environment says itself stays, ours are not put there."""
    (here / ".env").write_text("OTEL_TEST=a\nHTTPS_TEST=b\nAVATARMOD_NAMESPACE=shop\n")
    monkeypatch.setattr(os, "environ", {**os.environ, "HTTPS_TEST": "kept"})
    adopt()
    assert (os.environ["OTEL_TEST"], os.environ["HTTPS_TEST"]) == ("a", "kept")
    assert "AVATARMOD_NAMESPACE" not in os.environ


def test_a_misspelt_name_in_the_file_is_found(here: Path) -> None:
    """As one in the environment, with the nearest setting."""
    (here / ".env").write_text("AVATARMOD_REDIS_ULR=x\n")
    assert unknown_variables() == {"AVATARMOD_REDIS_ULR": "AVATARMOD_REDIS_URL"}


def test_show_says_where_each_is_from_and_no_secret(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a table of what somebody set, and as JSON of everything."""
    (here / ".env").write_text(
        f"AVATARMOD_CALLBACK_SECRETS={SECRET}\nAVATARMOD_REDIS_URL=redis://:hunter2@h:6379/0\n"
        "AVATARMOD_CALLBACK_URL=https://u:hunter2@web.example/hook\n"
    )
    monkeypatch.setenv("AVATARMOD_BATCH_SIZE", "9")
    table = run("show")
    said = json.loads(run("show", "--json").output)
    assert table.exit_code == 0
    assert "AVATARMOD_BATCH_SIZE" in table.output
    assert "AVATARMOD_LEASE_S" not in table.output
    assert said["file"] == str(here / ".env")
    assert said["settings"]["AVATARMOD_BATCH_SIZE"] == {"value": 9, "from": "environment"}
    assert said["settings"]["AVATARMOD_CALLBACK_URL"]["value"] == "https://web.example/hook"
    assert said["settings"]["AVATARMOD_REDIS_URL"]["from"] == f"file {here}/.env"
    assert said["settings"]["AVATARMOD_LEASE_S"] == {"value": 30.0, "from": "default"}
    assert "hunter2" not in table.output + json.dumps(said)
    assert SECRET not in table.output + json.dumps(said)


@pytest.mark.parametrize(
    ("lines", "code", "says"),
    [
        ("", 0, "nothing is wrong"),
        ("AVATARMOD_BATCH_SIZE=many", 2, "AVATARMOD_BATCH_SIZE: "),
        ("AVATARMOD_POLICY_FILE=/nowhere.toml", 2, "/nowhere.toml"),
        ("AVATARMOD_BATCHSIZE=3", 1, "AVATARMOD_BATCH_SIZE is"),
        ("AVATARMOD_DATA_FOLDER=data", 1, "write the whole path"),
        ("AVATARMOD_CALLBACK_URL=https://web.example/x", 1, "callbacks are not signed"),
        (f"AVATARMOD_CALLBACK_SECRETS={SECRET}", 1, "chmod 600"),
    ],
)
def test_check_says_what_is_wrong_and_how_bad(here: Path, lines: str, code: int, says: str) -> None:
    """0 nothing, 1 unwise, 2 nothing would start."""
    (here / ".env").write_text(f"{lines}\n")
    (here / ".env").chmod(0o644)
    plain, as_json = run("check"), run("check", "--json")
    text = plain.output + str(plain.exception)
    assert says in text
    exits = [
        2 if isinstance(r.exception, ConfigurationError) else r.exit_code for r in (plain, as_json)
    ]
    assert exits == [code, code]
    assert json.loads(as_json.output)["usable"] is (code < 2)


@pytest.mark.parametrize(
    "value", ["plain", "with space", "redis://:p#w$d@h/0", "a,b", "ü ${HOME}x"]
)
def test_what_is_written_is_read_again(here: Path, value: str) -> None:
    """By us and by a shell; only for this user, with the other lines as they were."""
    file = here / ".env"
    file.write_text("# a comment\nOTHER=1\nAVATARMOD_A=old\nexport AVATARMOD_B=old\n")
    file.chmod(0o644)
    write(file, {"AVATARMOD_A": value, "AVATARMOD_C": "new"})
    lines = file.read_text().splitlines()
    assert lines[:2] == ["# a comment", "OTHER=1"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    from producer.environment import from_file

    assert from_file()["AVATARMOD_A"] == value
    assert from_file()["AVATARMOD_C"] == "new"
    [line] = [one for one in lines if one.startswith("AVATARMOD_A=")]
    assert shlex.split(line, comments=True) == [f"AVATARMOD_A={value}"]


ANSWERS: dict[str, Any] = {
    "--callback-url": "https://web.example/hook",
    "--language": "zh-CN",
    "--currency": "EUR",
    "--report-timezone": "Europe/Berlin",
    "--review-domestic": "fake",
}


def init(*words: str, says: str | None = None) -> Result:
    return CliRunner().invoke(cli, ["init", "--no-check", *words], input=says)


def test_init_writes_what_its_flags_say(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a question; a secret is made, and kept when it is run again."""
    monkeypatch.setattr("worker.commands.init.unreachable", lambda *_: "")
    words = [word for pair in ANSWERS.items() for word in pair]
    result = init("--yes", *words, "--set", "BATCH_SIZE=5", "--set", f"CALLBACK_SECRETS={SECRET}")
    assert result.exit_code == 0, result.output
    monkeypatch.delenv("AVATARMOD_ENV_FILE")
    settings = load_settings(WorkerSettings)
    assert (settings.currency, settings.report_timezone) == ("EUR", "Europe/Berlin")
    assert (settings.language, settings.batch_size) == ("zh-CN", 5)
    assert settings.review_domestic == ("fake",)
    assert stat.S_IMODE((here / ".env").stat().st_mode) == 0o600
    [secret] = settings.callback_secrets
    assert secret.get_secret_value() == SECRET, "one that is given is not replaced"
    assert secret.get_secret_value() not in result.output
    assert init("--yes", "--currency", "USD").exit_code == 0
    monkeypatch.delenv("AVATARMOD_ENV_FILE")
    again = load_settings(WorkerSettings)
    assert (again.currency, again.callback_secrets) == ("USD", (secret,))


def test_init_asks_again_until_an_answer_can_be_used(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And offers to list the network of a site of one's own."""
    monkeypatch.setattr(
        "worker.commands.init.unreachable",
        lambda url, allowed, *_: "" if allowed else f"{url} is private, such as 10.1.2.3/32",
    )
    answers = [
        "web.example/hook",
        "http://10.1.2.3/hook",
        "",
        "",
        "tencnt",
        "fake",
        "",
        "zh-CN",
        "euro",
        "EUR",
        "Europe/Berlin",
        "y",
    ]
    result = init(says="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    assert "write a full address" in result.output
    assert "tencnt" in result.output.partition("tencnt")[2], result.output
    monkeypatch.delenv("AVATARMOD_ENV_FILE")
    settings = load_settings(WorkerSettings)
    assert settings.callback_url == "http://10.1.2.3/hook"
    assert settings.private_networks == ("10.1.2.3/32",)
    assert (settings.currency, settings.review_domestic) == ("EUR", ("fake",))


def test_init_writes_nothing_that_cannot_be_used(here: Path) -> None:
    """Exit code 2 by the command line's own rule, and no file."""
    result = init("--yes", "--currency", "euro")
    assert isinstance(result.exception, ConfigurationError)
    assert not (here / ".env").exists()


def test_init_asks_for_the_keys_of_what_was_chosen(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a store in S3 and of review providers, secret ones unseen; what is there is not asked."""
    words = ["--image-store", "s3://faces/a", "--review-domestic", "tencent", "--callback-url", ""]
    answers = ["", "en", "EUR", "UTC", "minio", "https://minio.lan:9000", "eu", "KEY", "SECRET"]
    result = init(
        "--redis-url", "", *words, "--set", "TENCENT_SECRET_ID=AKID1",
        says="\n".join([*answers, "hunter2"]) + "\n",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "SECRET\n" not in result.output
    assert "hunter2" not in result.output
    monkeypatch.delenv("AVATARMOD_ENV_FILE")
    settings = load_settings(WorkerSettings)
    assert (settings.s3_kind, settings.s3_region) == ("minio", "eu")
    assert settings.s3_secret_access_key is not None
    assert settings.s3_secret_access_key.get_secret_value() == "SECRET"
    assert settings.tencent_secret_key is not None
    assert settings.tencent_secret_key.get_secret_value() == "hunter2"


def test_init_without_questions_says_which_keys_are_missing(here: Path) -> None:
    """And where they may stand."""
    result = init("--yes", "--review-domestic", "tencent")
    assert result.exit_code == 0, result.output
    assert f"not set: AVATARMOD_TENCENT_SECRET_KEY; a line of {here}/.env can hold it" in (
        result.output
    )


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_the_file_of_a_service_is_written_where_it_lies(tmp_path: Path) -> None:
    """The file is the service user's, its folder is root's."""
    folder = tmp_path / "etc"
    folder.mkdir(mode=0o755)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.owner() == "root" and str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    file = folder / "avatarmod.env"
    file.write_text("# kept\nAVATARMOD_API_PORT=8042\n")
    file.chmod(0o600)
    os.chown(file, 65534, 65534)
    os.seteuid(65534)
    try:
        write(file, {"AVATARMOD_API_PORT": "8050", "AVATARMOD_CURRENCY": "EUR"})
    finally:
        os.seteuid(0)
    assert file.read_text() == "# kept\nAVATARMOD_API_PORT=8050\nAVATARMOD_CURRENCY=EUR\n"
    assert (file.stat().st_uid, stat.S_IMODE(file.stat().st_mode)) == (65534, 0o600)
    assert [path.name for path in folder.iterdir()] == ["avatarmod.env"]
