"""One call to each real provider; skipped unless its keys are set in the environment."""

from __future__ import annotations

import os

import pytest

from producer.findings import Decision
from producer.settings import load_settings
from worker.review.check import harmless_jpeg
from worker.review.registry import build_provider
from worker.settings import WorkerSettings

#: What must be set for each provider; Rekognition's own search is not tried unasked.
NEEDED = {
    "aliyun": ("ALIYUN_ACCESS_KEY_ID", "ALIYUN_ACCESS_KEY_SECRET"),
    "aliyun2": ("ALIYUN2_ACCESS_KEY_ID", "ALIYUN2_ACCESS_KEY_SECRET"),
    "tencent": ("TENCENT_SECRET_ID", "TENCENT_SECRET_KEY"),
    "cloudflare": ("CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN"),
    "huggingface": ("HUGGINGFACE_TOKEN",),
    "rekognition": ("REKOGNITION_ACCESS_KEY_ID", "REKOGNITION_SECRET_ACCESS_KEY"),
}


@pytest.mark.live
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", NEEDED)
def test_a_grey_gradient_is_approved(name: str) -> None:
    """The real service takes our signature and finds nothing in a grey gradient."""
    missing = [f"AVATARMOD_{key}" for key in NEEDED[name] if not os.environ.get(f"AVATARMOD_{key}")]
    if missing:
        pytest.skip(f"set {', '.join(missing)} to call {name}")
    provider = build_provider(name, load_settings(WorkerSettings))
    opinion = provider.review(harmless_jpeg(), data_id="avatarmod-live-test")
    provider.close()
    assert opinion.decision is Decision.APPROVE
    assert opinion.raw
