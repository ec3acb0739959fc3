"""What Misskey sends to its detector of sensitive media, and what it makes of our answers."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from producer.contract import AvatarState
from producer.web.api import misskey
from tests.integration.web.conftest import Serve, Stack, decide, show_worker, store_of, with_key
from worker.demo.pictures import encode, landscape, transparent_badge

LANDSCAPE = encode(landscape(), "PNG")
GRAY = transparent_badge()


def as_misskey_sends(*pictures: bytes) -> list[tuple[str, tuple[str, bytes, str]]]:
    """Fields `image0`, `image1`, ... as PNG.

    Source: SensitiveMediaDetectionService.detectChunk of misskey-dev/misskey.
    """
    return [(f"image{n}", (f"{n}.png", data, "image/png")) for n, data in enumerate(pictures)]


def judge(result: dict[str, Any]) -> tuple[bool, bool] | None:
    """(sensitive, pornographic) as Misskey decides at its middle setting; None: could not tell.

    Source: judgePrediction in FileInfoService.ts, thresholds 0.5 and 0.75.
    """
    if not result["success"]:
        assert result["error"]["code"].isupper()
        return None
    of = {one["className"]: one["probability"] for one in result["predictions"]}
    ordered = [one["probability"] for one in result["predictions"]]
    assert ordered == sorted(ordered, reverse=True)
    sensitive = max(of.get("Sexy", 0), of.get("Hentai", 0), of.get("Porn", 0)) > 0.5
    return sensitive, of.get("Porn", 0) > 0.75


def test_each_picture_of_a_call_has_its_own_result_in_order(stack: Stack) -> None:
    """Harmless, gray, damaged and empty ones in one call, with the key as a bearer token."""
    answer = httpx.post(
        f"{stack.url}/v1/detect-images",
        headers={"Authorization": f"Bearer {stack.api_key}"},
        files=as_misskey_sends(LANDSCAPE, GRAY, LANDSCAPE[:2000], b"", LANDSCAPE),
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 200
    body = answer.json()
    assert body["success"] is True
    said = [judge(result) for result in body["result"]["results"]]
    assert said == [(False, False), (True, False), None, None, (False, False)]
    codes = [r["error"]["code"] for r in body["result"]["results"] if not r["success"]]
    assert codes == ["IMAGE_DECODE_FAILED", "INVALID_REQUEST"]


@pytest.mark.parametrize(
    ("state", "accept_gray", "expected"),
    [
        (AvatarState.APPROVED, False, (False, False)),
        (AvatarState.HELD, False, (True, False)),
        (AvatarState.HELD, True, (False, False)),
        (AvatarState.REVIEWING, False, (True, False)),
        (AvatarState.BLOCKED, False, (True, True)),
        (AvatarState.BLOCKED, True, (True, True)),
    ],
)
def test_the_class_follows_the_verdict_and_nothing_else(
    serve: Serve,
    monkeypatch: pytest.MonkeyPatch,
    state: AvatarState,
    accept_gray: bool,
    expected: tuple[bool, bool],
) -> None:
    """Whatever the probability was: the policy has spoken."""
    client = with_key(serve(api_accept_gray=accept_gray))
    store = store_of(client)
    show_worker(store)
    ring = type(client.app.state.services.producer)._ring

    def ring_and_decide(producer: Any) -> None:
        ring(producer)
        for upload_id in store.open_ids("queued", 0, 10):
            decide(store, upload_id, state, probability=0.5)

    monkeypatch.setattr(type(client.app.state.services.producer), "_ring", ring_and_decide)
    answer = client.post("/v1/detect-images", files=as_misskey_sends(LANDSCAPE))
    (result,) = answer.json()["result"]["results"]
    assert judge(result) == expected


def test_without_a_model_every_picture_says_so(client: TestClient) -> None:
    """Misskey takes it for harmless, and warns: 200, and an error for each picture."""
    answer = client.post("/v1/detect-images", files=as_misskey_sends(LANDSCAPE, LANDSCAPE))
    assert answer.status_code == 200
    results = answer.json()["result"]["results"]
    assert [r["error"]["code"] for r in results] == ["MODEL_UNAVAILABLE"] * 2
    assert store_of(client).open_counts()["queued"] == 0


def test_pictures_beyond_the_places_are_not_enqueued(serve: Serve) -> None:
    """One place: the first waits for its deadline, the others are told at once."""
    client = with_key(serve(api_classify_concurrency=1, api_classify_deadline_s=0.3))
    show_worker(store_of(client))
    answer = client.post("/v1/detect-images", files=as_misskey_sends(LANDSCAPE, LANDSCAPE))
    results = answer.json()["result"]["results"]
    assert [r["error"]["code"] for r in results] == ["MODEL_UNAVAILABLE"] * 2
    assert store_of(client).open_counts()["queued"] == 1


@pytest.mark.parametrize(
    ("kind", "count", "status"),
    [("json", 0, 415), ("form", 0, 422), ("form", misskey.MAX_PARTS + 1, 422)],
)
def test_whole_calls_are_refused_before_a_worker_is_asked(
    client: TestClient, kind: str, count: int, status: int
) -> None:
    """Another media type, no picture, too many."""
    show_worker(store_of(client))
    if kind == "json":
        answer = client.post("/v1/detect-images", json={})
    elif count:
        answer = client.post("/v1/detect-images", files=as_misskey_sends(*[LANDSCAPE] * count))
    else:
        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = client.post("/v1/detect-images", content=b"--x--\r\n", headers=headers)
    assert answer.status_code == status
    assert store_of(client).open_counts()["queued"] == 0


def test_the_page_shows_what_is_answered(stack: Stack, tmp_path: Path) -> None:
    """Its curl line, run as it stands, prints what stands below it."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    page = (Path(__file__).parents[3] / "docs" / "integration" / "misskey.md").read_text("utf-8")
    found = re.search(r"```console\n\$ (curl .*?)\n(.*?)```", page, re.DOTALL)
    assert found is not None
    (tmp_path / "face.png").write_bytes(LANDSCAPE)
    line = found[1].replace("http://127.0.0.1:8042", stack.url)
    done = subprocess.run(
        ["sh", "-c", line.replace("curl", "curl -sS", 1)],
        cwd=tmp_path,
        env={"KEY": stack.api_key, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == json.loads(found[2])
