"""Metrics of all processes in one scrape; dashboards and alert rules name only what exists."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from producer.metrics import BATCH, DEAD, HTTP, READ, RECORDED, Recorder, render
from tests.integration.web.conftest import Stack, show_worker, store_of
from worker.demo.pictures import encode, landscape

DEPLOY = Path(__file__).parents[3] / "deploy"


def samples(text: str) -> dict[str, float]:
    """`name{labels}` -> value."""
    return {
        f"{s.name}{json.dumps(s.labels, sort_keys=True)}": s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_totals_stand_above_processes(client: TestClient) -> None:
    """What two processes counted is summed, and stays when both are gone."""
    store = store_of(client)
    for _ in range(2):
        recorder = Recorder()
        recorder.observe(BATCH, 3)
        recorder.observe(BATCH, 500)
        recorder.count(DEAD, "moderate", "InferenceFailed")
        recorder.publish(store)
        recorder.publish(store)
    found = samples(render(store).decode())
    assert found["avatarmod_batch_uploads_count{}"] == 4
    assert found["avatarmod_batch_uploads_sum{}"] == 1006
    assert found['avatarmod_batch_uploads_bucket{"le": "2.0"}'] == 0
    assert found['avatarmod_batch_uploads_bucket{"le": "4.0"}'] == 2
    assert found['avatarmod_batch_uploads_bucket{"le": "+Inf"}'] == 4
    key = 'avatarmod_dead_letters_written_total{"error": "InferenceFailed", "stage": "moderate"}'
    assert found[key] == 2


def test_a_wrong_number_of_labels_is_a_bug() -> None:
    """Labels must match the declaration."""
    with pytest.raises(ValueError, match="has the labels"):
        Recorder().observe(HTTP, 1.0, "GET")


def test_what_waits_is_read_at_the_scrape(client: TestClient) -> None:
    """Gauges come from Redis' truth: open uploads, queue, workers, alarms."""
    client.post("/v1/uploads", json={"upload_id": "a"})
    found = samples(client.get("/metrics").text)
    assert found['avatarmod_open_uploads{"state": "queued"}'] == 1
    assert found['avatarmod_waiting{"stage": "moderate"}'] == 1
    assert found['avatarmod_workers{"role": "moderate"}'] == 0
    assert found['avatarmod_alarm{"code": "no_moderate_worker", "severity": "critical"}'] == 1
    show_worker(store_of(client))
    assert samples(client.get("/metrics").text)['avatarmod_workers{"role": "moderate"}'] == 1


def test_one_scrape_has_every_process(stack: Stack) -> None:
    """After one upload the moderate, io and API processes all have counted."""
    with stack.http() as http:
        data = encode(landscape(501), "JPEG")
        http.post("/v1/uploads", data={"upload_id": "metrics-1"}, files={"image": data})
        http.get("/v1/avatars/metrics-1?wait=30")
        deadline_s = time.monotonic() + 30
        wanted = (
            "avatarmod_inference_seconds_count",
            "avatarmod_callback_seconds_count",
            r'avatarmod_http_seconds_count{method="GET",route="/v1/avatars/{upload_id:path}"',
        )
        while time.monotonic() < deadline_s:
            text = http.get("/metrics").text
            missing = [
                name
                for name in wanted
                if not re.search(rf"^{re.escape(name)}.* [1-9]", text, re.MULTILINE)
            ]
            if not missing:
                break
            time.sleep(0.5)
    assert missing == []
    assert "metrics-1" not in text


def test_every_metric_is_declared_once() -> None:
    """Names are unique, have our prefix and a unit or a noun, and help in a sentence."""
    names = [metric.name for metric in (*RECORDED, *READ)]
    assert len(names) == len(set(names))
    for metric in (*RECORDED, *READ):
        assert re.fullmatch(r"avatarmod_[a-z_]+", metric.name)
        assert metric.help.endswith(".")
        assert bool(metric.buckets) == (metric.kind == "histogram")


def declared() -> set[str]:
    """Every series name that a scrape can have."""
    found = set()
    for metric in (*RECORDED, *READ):
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        found |= {metric.name + suffix for suffix in suffixes.get(metric.kind, ("",))}
    return found


@pytest.mark.parametrize("file", ["grafana/avatarmod.json", "prometheus/alerts.yml"])
def test_dashboards_and_rules_name_what_exists(file: str) -> None:
    """Each series in a dashboard's or a rule's expression is declared."""
    text = (DEPLOY / file).read_text()
    if file.endswith(".json"):
        dashboard = json.loads(text)
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids)) > 10
        text = " ".join(t["expr"] for panel in dashboard["panels"] for t in panel["targets"])
    used = set(re.findall(r"\bavatarmod_[a-z_]+\b", text))
    assert len(used) > 5
    assert used <= declared()


def promtool(*arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    if shutil.which("promtool") is None:
        message = "promtool is not installed; on Debian: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return subprocess.run(
        ["promtool", *arguments],
        cwd=DEPLOY / "prometheus",
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "alerts.yml"),
        ("test", "rules", "alerts_test.yml"),
        ("check", "config", "--syntax-only", "prometheus.yml"),
    ],
)
def test_promtool_accepts_the_rules(arguments: tuple[str, ...]) -> None:
    """Prometheus' own tool checks the rules, runs their unit tests and reads the configuration."""
    result = promtool(*arguments)
    assert result.returncode == 0, result.stderr


def test_promtool_accepts_the_scrape(client: TestClient) -> None:
    """Prometheus' linter finds nothing in the exposition."""
    client.get("/v1/avatars/a")
    client.app.state.services.recorder.publish(store_of(client))  # type: ignore[attr-defined]
    result = promtool("check", "metrics", stdin=client.get("/metrics").text)
    assert result.returncode == 0, result.stdout + result.stderr
