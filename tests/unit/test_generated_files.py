"""Files that are made from the settings are equal to what the settings say now."""

from __future__ import annotations

from pathlib import Path

from scripts import make_configuration, make_env_example

ROOT = Path(__file__).parents[2]


def test_the_configuration_page_is_up_to_date() -> None:
    """Else: python -m scripts.make_configuration."""
    written = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert written == make_configuration.render()


def test_the_example_environment_is_up_to_date() -> None:
    """Else: python scripts/make_env_example.py."""
    written = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert written == make_env_example.render()


def test_every_setting_and_every_secret_is_on_the_page() -> None:
    """Once each; secrets say so, and no default of a secret is shown."""
    page = make_configuration.render()
    for name in make_configuration.WorkerSettings.model_fields:
        assert page.count(f"| `AVATARMOD_{name.upper()}` |") == 1
    for name in ("CALLBACK_SECRETS", "REDIS_URL", "ALARM_URLS", "TENCENT_SECRET_KEY"):
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `AVATARMOD_{name}`")]
        assert row.endswith("**Secret.** |")
