"""The settings of the second opinion: what is refused, and in which words."""

from __future__ import annotations

import dataclasses
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from producer.contract import Region
from producer.errors import ConfigurationError
from producer.settings import load_settings
from worker.review import providers
from worker.review.providers import ADAPTERS
from worker.review.providers.base import ReviewProvider
from worker.review.providers.fields import ProviderLimits
from worker.review.registry import build_providers
from worker.settings import WorkerSettings


def load(monkeypatch: pytest.MonkeyPatch, **variables: str) -> WorkerSettings:
    for name, value in variables.items():
        monkeypatch.setenv(f"AVATARMOD_{name}", value)
    return load_settings(WorkerSettings)


class TestReading:
    def test_nothing_set_means_no_provider(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """By default no provider is asked, in either region."""
        settings = load(monkeypatch)
        assert settings.review_providers == ()
        assert settings.route_of(Region.OVERSEAS) == ()

    def test_routes_keep_their_order(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The first provider named is the preferred one."""
        settings = load(monkeypatch, REVIEW_DOMESTIC="tencent, aliyun2", REVIEW_OVERSEAS="fake")
        assert settings.route_of(Region.DOMESTIC) == ("tencent", "aliyun2")
        assert settings.review_providers == ("tencent", "aliyun2", "fake")

    def test_empty_budget_is_no_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty variable in a compose file means: not set."""
        settings = load(monkeypatch, TENCENT_DAILY_CALLS="", REVIEW_DAILY_YUAN=" ")
        assert settings.limits_of("tencent").daily_calls is None
        assert settings.review_daily_yuan is None

    @pytest.mark.parametrize(
        ("rate", "calls", "seconds"), [(4.5, 4, 4 / 4.5), (0.5, 1, 2.0), (100.0, 100, 1.0)]
    )
    def test_a_rate_is_a_number_of_calls_in_about_a_second(
        self, monkeypatch: pytest.MonkeyPatch, rate: float, calls: int, seconds: float
    ) -> None:
        """Fractions of calls become longer windows, never more calls."""
        limits = load(monkeypatch, TENCENT_RATE_PER_S=str(rate)).limits_of("tencent")
        assert limits.window == (calls, pytest.approx(seconds))

    def test_money_is_counted_in_millionths(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """1.5 yuan for 1,000 calls are 1,500 millionths a call."""
        assert load(monkeypatch).limits_of("tencent").call_microyuan == 1500

    def test_secrets_stay_out_of_repr(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Printing the settings shows no key."""
        settings = load(monkeypatch, TENCENT_SECRET_KEY="verysecretkey")
        assert "verysecretkey" not in repr(settings)


class TestOneProviderAFile:
    @pytest.mark.parametrize("name", ADAPTERS)
    def test_table_adapter_and_settings_agree(self, name: str) -> None:
        """The table's line leads to an adapter of that name, and its settings are read."""
        module_name, _, class_name = ADAPTERS[name].partition(":")
        adapter = getattr(importlib.import_module(module_name), class_name)
        assert issubclass(adapter, ReviewProvider)
        assert adapter.name == name
        assert {f"{name}_{field.name}" for field in dataclasses.fields(ProviderLimits)} <= set(
            WorkerSettings.model_fields
        )

    def test_no_file_is_left_out_of_the_table(self) -> None:
        """Who adds the settings and forgets the line hears of it here."""
        folder = Path(providers.__file__).parent
        assert {path.name for path in folder.glob("*_settings.py")} == {
            f"{name}_settings.py" for name in ADAPTERS
        }

    @pytest.mark.process
    def test_settings_load_no_sdk(self) -> None:
        """The console and the command line read every setting and use none of the SDKs."""
        code = (
            "import sys, worker.settings; print([m for m in ('oss2', 'boto3', 'tencentcloud', "
            "'aliyunsdkcore', 'darabonba', 'httpx') if m in sys.modules])"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == "[]"


class TestRefusals:
    @pytest.mark.parametrize(
        ("variable", "value", "words"),
        [
            ("REVIEW_DOMESTIC", "tencent,tencnt", "'tencnt' is not a provider"),
            ("REVIEW_DOMESTIC", "tencent,tencent", "twice"),
            ("REVIEW_CROSS_BORDER", "cloudflare", "domestic:cloudflare"),
            ("REVIEW_DAILY_CALLS", "0", "would hold every gray picture"),
            ("TENCENT_DAILY_YUAN", "0", "would hold every gray picture"),
            ("ALIYUN_DAILY_YUAN", "nan", "would hold every gray picture"),
            ("TENCENT_ENDPOINT", "ims.tencentcloudapi.com", "no scheme"),
            ("CLOUDFLARE_ENDPOINT", "ftp://host", "no scheme"),
            ("HUGGINGFACE_ENDPOINT", "https://key@host", "keys have their own settings"),
            ("TENCENT_SECRET_ID", "AKID 123", "space"),
            ("ALIYUN_ACCESS_KEY_SECRET", "密钥", "character"),
            ("REVIEW_BUDGET_TIMEZONE", "Asia/Peking", "no time zone"),
            ("REVIEW_BUDGET_TIMEZONE", "../etc/passwd", "no time zone"),
            ("TENCENT_RATE_PER_S", "0", "greater than 0"),
        ],
    )
    def test_a_bad_value_is_named_with_its_cure(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
    ) -> None:
        """The message names the variable and says what would be right, never a secret."""
        with pytest.raises(ConfigurationError) as caught:
            load(monkeypatch, **{variable: value})
        assert f"AVATARMOD_{variable}" in str(caught.value)
        assert words in str(caught.value)
        if "KEY" in variable or "SECRET" in variable:
            assert value not in str(caught.value)

    @pytest.mark.parametrize(
        ("values", "words"),
        [
            ({"review_domestic": "tencent"}, "AVATARMOD_TENCENT_SECRET_ID"),
            (
                {
                    "review_domestic": "tencent",
                    "tencent_secret_id": "a",
                    "tencent_secret_key": "b",
                    "tencent_region": "ap-guangzou",
                },
                "ap-guangzou",
            ),
            (
                {
                    "review_domestic": "tencent",
                    "tencent_secret_id": "a",
                    "tencent_secret_key": "b",
                    "tencent_endpoint": "https://ims.example.com/path",
                },
                "no path",
            ),
            (
                {"review_overseas": "rekognition", "rekognition_region": "cn-north-1"},
                "cn-north-1",
            ),
            (
                {
                    "review_overseas": "huggingface",
                    "huggingface_token": "hf_x",
                    "huggingface_model": "just a name",
                },
                "organisation/name",
            ),
            (
                {
                    "review_overseas": "huggingface",
                    "huggingface_token": "hf_x",
                    "huggingface_approve_to": 0.95,
                },
                "HUGGINGFACE_APPROVE_TO",
            ),
        ],
        ids=["no keys", "region", "path", "china", "model", "cut-offs"],
    )
    def test_an_impossible_provider_stops_the_start(
        self, values: dict[str, Any], words: str
    ) -> None:
        """What only the combination shows is told when the adapters are built."""
        with pytest.raises(ConfigurationError, match="review cannot start") as caught:
            build_providers(WorkerSettings.model_validate(values))
        assert words in str(caught.value)

    def test_all_problems_are_told_at_once(self) -> None:
        """Two providers without keys are two lines of one message."""
        with pytest.raises(ConfigurationError) as caught:
            build_providers(WorkerSettings.model_validate({"review_domestic": "tencent,aliyun2"}))
        assert "AVATARMOD_TENCENT_SECRET_KEY" in str(caught.value)
        assert "AVATARMOD_ALIYUN2_ACCESS_KEY_ID" in str(caught.value)
