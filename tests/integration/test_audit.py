"""`make audit` asks about every installed package; silence is not a clean bill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FAULT = {
    "id": "OSV-2026-1",
    "summary": "Made up for a test.",
    "modified": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"ecosystem": "PyPI", "name": "click"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}]}],
        }
    ],
}


class Advisories(ThreadingHTTPServer):
    """The part of OSV's API that pip-audit asks; knows faults of the packages in `faulty`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Query)
        self.asked: list[str] = []
        self.faulty: set[str] = set()

    @property
    def url(self) -> str:
        """Where queries are sent."""
        return f"http://127.0.0.1:{self.server_port}/v1/query"


class _Query(BaseHTTPRequestHandler):
    server: Advisories

    def do_POST(self) -> None:
        """Answer what is known about one package."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        name = body["package"]["name"]
        self.server.asked.append(name)
        answer = json.dumps({"vulns": [FAULT]} if name in self.server.faulty else {}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_args: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def advisories() -> Iterator[Advisories]:
    with Advisories() as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def audit(arguments: str) -> subprocess.CompletedProcess[str]:
    """`make audit` in the environment that runs this test."""
    environment = Path(sys.prefix)
    is_there = f"--old-file={environment / '.installed-dev'}"
    return subprocess.run(
        [
            "make",
            "--no-print-directory",
            is_there,
            "audit",
            f"VENV={environment}",
            f"ARGS={arguments}",
        ],
        cwd=ROOT,
        env={**os.environ, "NO_PROXY": "*", "no_proxy": "*"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_package_is_asked_about(advisories: Advisories) -> None:
    """No fault known: exit code 0; the project itself is not on PyPI and not asked about."""
    result = audit(f"-s osv --osv-url {advisories.url}")
    assert result.returncode == 0, result.stdout + result.stderr
    asked = {name.lower() for name in advisories.asked}
    assert {"celery", "redis", "pillow", "onnxruntime", "fastapi"} <= asked
    assert "avatar-moderation" not in asked


def test_a_known_fault_fails_and_is_named(advisories: Advisories) -> None:
    """With the package and the advisory's id."""
    advisories.faulty.add("click")
    result = audit(f"-s osv --osv-url {advisories.url}")
    assert result.returncode != 0
    assert "click" in result.stdout
    assert "OSV-2026-1" in result.stdout


def test_no_answer_is_not_a_clean_bill(advisories: Advisories) -> None:
    """A service that cannot be reached fails the audit."""
    advisories.shutdown()
    advisories.server_close()
    result = audit(f"-s osv --osv-url {advisories.url} --timeout 2")
    assert result.returncode != 0
    assert "No known vulnerabilities" not in result.stdout + result.stderr
