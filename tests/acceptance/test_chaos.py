"""A short seeded run of benchmarks/chaos.py: every kind of fault once, and no promise broken."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_a_seeded_chaos_run_breaks_no_promise() -> None:
    """Faults under load: every upload is decided once, told at least once, and in the ledger."""
    run = subprocess.run(
        [
            *(sys.executable, "benchmarks/chaos.py", "--json", "--seed", "7"),
            *("--minutes", "0.4", "--rate", "15", "--every", "1.9"),
        ],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if not k.startswith("AVATARMOD_")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    result = json.loads(run.stdout)
    assert set(result) == {"uploads", "faults", "violations", "seed", "seconds"}
    assert result["violations"] == 0, run.stderr[-3000:]
    assert result["seed"] == 7
    assert result["uploads"] >= 100
    assert result["faults"] >= 5
