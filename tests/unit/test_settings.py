"""A bad value names the variable, the problem and an example; a secret is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from producer.errors import ConfigurationError
from producer.settings import Settings, load_settings
from worker.settings import WorkerSettings

GOOD_SECRET = "whsec_" + "A" * 43 + "="

BAD = [
    ("REDIS_URL", "localhost:6379", "redis://host:6379/0"),
    ("REDIS_URL", "http://hunter2@host", "redis://host:6379/0"),
    ("REDIS_URL", "redis://:hunter2@host:port/0", "redis://host:6379/0"),
    ("REDIS_URL", "redis://:hunter2@/0", "redis://host:6379/0"),
    ("REDIS_URL", "redis://[::1/0", "Example|IPv6"),
    ("BROKER_URL", "kafka://hunter2@host", "amqp://user:password@host//"),
    ("NAMESPACE", "my service", "Example: avatarmod"),
    ("MAX_IMAGE_BYTES", "10 MB", "Example: 10485760"),
    ("MAX_IMAGE_BYTES", "0", "greater than 0"),
    ("IMAGE_TIMEOUT_S", "0", "greater than 0"),
    ("IMAGE_TIMEOUT_S", "inf", "Example: 10"),
    ("IMAGE_TIMEOUT_S", "nan", "Example: 10"),
    ("PRIVATE_NETWORKS", "10.1.0.0/33", "write a network such as 10.1.0.0/16"),
    ("PRIVATE_NETWORKS", "10.1.0.1/16", "write a network such as 10.1.0.0/16"),
    ("PRIVATE_NETWORKS", "10.0.0.0/8,intranet", "write a network such as"),
    ("CALLBACK_URL", "web.example/hook", "https://example.org/avatar-verdict"),
    ("CALLBACK_URL", "ftp://web.example/hook", "https://example.org/avatar-verdict"),
    ("CALLBACK_URL", "https://", "https://example.org/avatar-verdict"),
    ("CALLBACK_URL", "https://web.example:x/", "https://example.org/avatar-verdict"),
    ("CALLBACK_SECRETS", "hunter2", "echo whsec_"),
    ("CALLBACK_SECRETS", "whsec_hunter2", "echo whsec_"),
    ("CALLBACK_SECRETS", f"{GOOD_SECRET},whsec_aHVudGVyMg==", "echo whsec_"),
    ("CALLBACK_SECRETS", GOOD_SECRET[6:], "echo whsec_"),
    ("DEFAULT_REGION", "europe", "domestic.*overseas"),
    ("MAX_BACKLOG", "-1", "Example: 100000"),
    ("RECORD_TTL_S", "0", "Example: 2592000"),
    ("RECORD_TTL_S", "inf", "Example: 2592000"),
    ("LOG_FORMAT", "xml", "json.*text"),
    ("LOG_LEVEL", "loud", "debug.*info"),
    ("BATCH_SIZE", "0", "Example: 32"),
    ("BATCH_SIZE", "257", "Example: 32"),
    ("LEASE_S", "1", "Example: 30"),
    ("LEASE_S", "inf", "Example: 30"),
    ("THREADS", "all", "CPUs this process may use"),
    ("CALLBACK_TIMEOUT_S", "61", "Example: 15"),
    ("SERVED_CROP", "oval", "square"),
    ("FLAT_RULE", "perhaps", "Example: True"),
]


@pytest.mark.parametrize(("name", "value", "words"), BAD)
def test_a_bad_value_says_where_what_and_how(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    """The variable, the problem, what it is for and a good value; never the value itself."""
    monkeypatch.setenv(f"AVATARMOD_{name}", value)
    with pytest.raises(ConfigurationError, match=words) as caught:
        load_settings(WorkerSettings)
    message = str(caught.value)
    assert message.startswith("these settings cannot be used:\n  AVATARMOD_" + name)
    assert len(message.splitlines()) == 2
    assert "hunter2" not in message
    assert "aHVudGVyMg" not in message
    assert "Traceback" not in message


def test_every_bad_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody likes to correct a file one start at a time."""
    monkeypatch.setenv("AVATARMOD_BATCH_SIZE", "many")
    monkeypatch.setenv("AVATARMOD_REDIS_URL", "x")
    with pytest.raises(ConfigurationError) as caught:
        load_settings(WorkerSettings)
    assert "AVATARMOD_BATCH_SIZE: " in str(caught.value)
    assert "AVATARMOD_REDIS_URL: " in str(caught.value)


def test_the_defaults_need_no_environment() -> None:
    """A laptop without a single variable works."""
    settings = load_settings(WorkerSettings)
    assert settings.redis_url is None
    assert settings.image_folder == str(settings.data_folder / "images")
    assert settings.callback_secrets == ()


def test_an_empty_address_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """As compose files have it."""
    for name in ("REDIS_URL", "BROKER_URL", "CALLBACK_URL", "CALLBACK_SECRETS"):
        monkeypatch.setenv(f"AVATARMOD_{name}", "")
    settings = load_settings(Settings)
    assert settings.redis_url is None
    assert settings.broker_url is None
    assert settings.callback_secrets == ()


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blanks and empty parts do not count."""
    monkeypatch.setenv("AVATARMOD_PRIVATE_NETWORKS", " 10.0.0.0/8, fd00::/8 ,")
    monkeypatch.setenv("AVATARMOD_CALLBACK_SECRETS", f"{GOOD_SECRET}, {GOOD_SECRET}")
    settings = load_settings(Settings)
    assert settings.private_networks == ("10.0.0.0/8", "fd00::/8")
    assert [s.get_secret_value() for s in settings.callback_secrets] == [GOOD_SECRET] * 2


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither by repr nor by str nor by a dump for people."""
    monkeypatch.setenv("AVATARMOD_REDIS_URL", "redis://:hunter2@host:6379/0")
    monkeypatch.setenv("AVATARMOD_BROKER_URL", "amqp://u:hunter2@host//")
    monkeypatch.setenv("AVATARMOD_CALLBACK_SECRETS", GOOD_SECRET)
    monkeypatch.setenv("AVATARMOD_S3_SECRET_ACCESS_KEY", "hunter2")
    settings = load_settings(WorkerSettings)
    shown = f"{settings!r} {settings} {settings.model_dump()}"
    assert "hunter2" not in shown
    assert GOOD_SECRET not in shown


def test_secrets_come_from_files_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Docker and systemd put each secret into a file; the environment wins."""
    (tmp_path / "avatarmod_callback_secrets").write_text(GOOD_SECRET + "\n")
    (tmp_path / "avatarmod_namespace").write_text("from-file")
    monkeypatch.setenv("AVATARMOD_SECRETS_FOLDER", str(tmp_path))
    monkeypatch.setenv("AVATARMOD_NAMESPACE", "from-environment")
    settings = load_settings(Settings)
    assert [s.get_secret_value() for s in settings.callback_secrets] == [GOOD_SECRET]
    assert settings.namespace == "from-environment"


SECRETS = [name for name, field in WorkerSettings.model_fields.items() if "SecretStr" in str(field)]


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_can_be_a_file(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Also lists of secrets, and with the line end that editors write."""
    values = {
        "redis_url": "redis://:hunter2@host:6379/0",
        "broker_url": "amqp://u:hunter2@host//",
        "callback_secrets": f"{GOOD_SECRET}, {GOOD_SECRET}",
        "alarm_urls": "json://hunter2, json://hunter3",
    }
    text = values.get(name, "hunter2")
    (tmp_path / f"avatarmod_{name}").write_text(text + "\n")
    monkeypatch.setenv("AVATARMOD_SECRETS_FOLDER", str(tmp_path))
    settings = load_settings(WorkerSettings)
    found = getattr(settings, name)
    parts = found if isinstance(found, tuple) else (found,)
    assert ", ".join(part.get_secret_value() for part in parts) == text
    assert "hunter" not in repr(settings)


def test_a_secrets_folder_that_is_none_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Missing, or a file."""
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "gone", tmp_path / "file"):
        monkeypatch.setenv("AVATARMOD_SECRETS_FOLDER", str(path))
        with pytest.raises(ConfigurationError, match=r"AVATARMOD_SECRETS_FOLDER: .* is no folder"):
            load_settings(Settings)


def test_settings_do_not_change() -> None:
    """Read once, passed down, frozen."""
    settings = load_settings(Settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.namespace = "other"  # type: ignore[misc]


@pytest.mark.parametrize("name", sorted(WorkerSettings.model_fields))
def test_every_setting_says_what_it_is_for(name: str) -> None:
    """One sentence, ending in a full stop."""
    description = WorkerSettings.model_fields[name].description
    assert description
    assert description.endswith(".")


@pytest.mark.parametrize("name", ["API_PORT", "NAMESPACE", "THREADS", "BATCH_SIZE", "LEDGER_URL"])
def test_an_empty_variable_means_the_default(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Compose files and `.env` leave variables empty; that says nothing, not the empty value."""
    default = getattr(load_settings(WorkerSettings), name.lower())
    monkeypatch.setenv(f"AVATARMOD_{name}", "")
    assert getattr(load_settings(WorkerSettings), name.lower()) == default
