"""A run looks up and connects to nothing that was not configured, and reports to nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

#: Runs at the start of every Python process of the demo; writes down what it reaches for.
RECORDER = """
import json, os, sys

def note(event, arguments):
    if event == "import" and arguments[0] == "onnxruntime":
        line = ["telemetry", os.environ.get("ORT_DISABLE_TELEMETRY", "")]
    elif event in ("socket.connect", "socket.sendto"):
        line = ["connect", repr(arguments[1]) if isinstance(arguments[1], bytes) else arguments[1]]
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        line = ["resolve", arguments[0] and str(arguments[0])]
    else:
        return
    with open({target!r}, "a") as file:
        file.write(json.dumps(line) + chr(10))

sys.addaudithook(note)
"""


def recorded(folder: Path, **env: str) -> list[tuple[str, Any]]:
    """What `avatarmod demo --once` reaches for, with every child process."""
    target = folder / "reached.jsonl"
    (folder / "sitecustomize.py").write_text(RECORDER.replace("{target!r}", repr(str(target))))
    done = subprocess.run(
        [sys.executable, "-m", "producer.cli", "demo", "--once", "--json"],
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("AVATARMOD_", "ORT_"))},
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "AVATARMOD_DATA_FOLDER": str(folder / "data"),
            "AVATARMOD_THREADS": "1",
            **env,
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["summary"]["failed"] == 0
    return [tuple(json.loads(line)) for line in target.read_text().splitlines()]


def is_local(place: Any) -> bool:
    """Whether an address or a name is of this machine."""
    host = place[0] if isinstance(place, list) else place
    return host in (None, "", "localhost", "127.0.0.1", "::1") or str(host).startswith("/")


def test_the_demo_reaches_for_nothing_but_itself(tmp_path: Path) -> None:
    """Beside a configured instance too: its Redis, web tier, ledger and providers are not asked."""
    found = recorded(
        tmp_path,
        AVATARMOD_REDIS_URL="redis://redis.production.example:6379/0",
        AVATARMOD_BROKER_URL="amqp://a:b@broker.production.example//",
        AVATARMOD_CALLBACK_URL="https://web.production.example/verdict",
        AVATARMOD_LEDGER_URL="postgresql://a:b@db.production.example/ledger",
    )
    assert [what for kind, what in found if kind == "connect"]
    elsewhere = [(kind, at) for kind, at in found if kind != "telemetry" and not is_local(at)]
    assert elsewhere == []
    # ONNX Runtime itself would report from C++, where no recorder sees it: it is told not to.
    assert {what for kind, what in found if kind == "telemetry"} == {"1"}
