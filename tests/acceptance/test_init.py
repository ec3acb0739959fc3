"""`avatarmod init` from nothing: a file, a verdict by a real model, a callback that arrives."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

from pydantic import SecretStr

from worker.demo.webhook_receiver import Receiver


def test_the_first_run_ends_with_a_verdict_and_a_tested_callback(
    tmp_path: Path, receiver: Receiver, secret: SecretStr
) -> None:
    """Every question answered, the site's network allowed; the second run asks nothing anew."""
    env = {
        **{name: value for name, value in os.environ.items() if "AVATARMOD_" not in name},
        "AVATARMOD_DATA_FOLDER": str(tmp_path / "data"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }

    def run(*words: str, says: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "producer.cli", "init", *words],
            input=says,
            env=env,
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=250,
            check=False,
        )

    given = ("--set", f"CALLBACK_SECRETS={secret.get_secret_value()}")
    first = run(*given, says=f"{receiver.url}\n" + "\n" * 7 + "y\n")
    assert first.returncode == 0, first.stdout + first.stderr
    assert "first verdict: a landscape is" in first.stdout
    assert "read the ping and said so (204)" in first.stdout
    assert "refused a false signature (401)" in first.stdout
    assert "start it: avatarmod up" in first.stdout
    file = tmp_path / ".env"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    before = file.read_text()
    assert run("--yes", "--no-check").returncode == 0
    assert file.read_text() == before
