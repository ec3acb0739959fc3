"""Codecs as the decoding processes have them."""

from __future__ import annotations

import pytest

from worker.image.frames import prepare_codecs


@pytest.fixture(autouse=True)
def _codecs() -> None:
    prepare_codecs()
