"""What people get wrong, at the command line and in their pictures: one specific message each."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from producer.contract import AvatarState
from producer.errors import PrivateAddress
from tests.acceptance.conftest import Instance, eventually, picture
from worker.demo.pictures import png_bomb


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """One `avatarmod` command without an instance."""
    return subprocess.run(
        [sys.executable, "-m", "producer.cli", *arguments],
        env={"PATH": "/usr/bin:/bin", "HOME": env.get("AVATARMOD_DATA_FOLDER", "/dev/null"), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "env", "code", "words"),
    [
        (["status", "a"], {}, 2, "no `avatarmod up` is running"),
        (["enqueue", "a"], {"AVATARMOD_REDIS_URL": "redis://127.0.0.1:1/0"}, 2, "does not answer"),
        (["enqueue", "a", "b c"], {}, 1, "upload id 'b c' is not valid: use 1 to 200"),
        (["enqueue", "a", "b", "--image", "x"], {}, 2, "--image names one picture"),
        (["enqueue"], {}, 2, "Missing argument"),
        (["enqueue", "a", "--region", "mars"], {}, 2, "domestic"),
        (["frobnicate"], {}, 2, "No such command"),
        (["up"], {"AVATARMOD_DATA_FOLDER": "/proc/none"}, 2, "AVATARMOD_DATA_FOLDER: /proc/none"),
        (["up"], {"AVATARMOD_DATA_FOLDER": "/etc/passwd"}, 2, "a folder that this user may write"),
        (["up"], {"AVATARMOD_BATCH_SIZE": "many"}, 2, "AVATARMOD_BATCH_SIZE: "),
        (["up"], {"AVATARMOD_REDIS_URL": "redis://127.0.0.1:1/0"}, 2, "does not answer"),
        (["scan", "/no/such/folder"], {}, 2, "does not exist"),
        (["demo", "--json"], {}, 2, "--json goes with --once"),
    ],
)
def test_a_wrong_call_has_its_message_and_code(
    tmp_path: Path, arguments: list[str], env: dict[str, str], code: int, words: str
) -> None:
    """One clear line on standard error, nothing on standard output, never a stack trace."""
    done = run(*arguments, **{"AVATARMOD_DATA_FOLDER": str(tmp_path / "data"), **env})
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert (done.returncode, done.stdout) == (code, "")


@pytest.mark.parametrize(
    ("fault", "words"),
    [("missing", "no bundle folder at"), ("altered", "sha256")],
)
def test_a_bad_bundle_refuses_to_start(tmp_path: Path, fault: str, words: str) -> None:
    """Missing, or a model that is not the one described; `up` ends and says so."""
    bundle = tmp_path / "bundle"
    if fault == "altered":
        bundle.mkdir()
        text = (Path(__file__).parents[2] / "worker/model/bundles/open-nsfw/model.json").read_text()
        altered = re.sub(r"[0-9a-f]{64}", "0" * 64, text)
        assert altered != text
        (bundle / "model.json").write_text(altered)
    done = run(
        "up",
        AVATARMOD_DATA_FOLDER=str(tmp_path / "data"),
        AVATARMOD_BUNDLE=str(bundle),
        AVATARMOD_API_PORT="0",
    )
    assert done.returncode == 2
    assert words in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_each_bad_picture_has_its_reason(shared: Instance) -> None:
    """Rejected with a code that the web tier can show, and nobody is kept waiting."""
    good = picture(1)
    files = {
        "bad-truncated": (good[: len(good) // 2], "damaged"),
        "bad-empty": (b"", "damaged"),
        "bad-html": (b"<html>no</html>", "unsupported"),
        "bad-huge": (b"\x89PNG\r\n\x1a\n" + b"x" * (100 * 2**20), "too_large"),
        "bad-bomb": (png_bomb(), "too_many_pixels"),
    }
    expected = {name: reason for name, (_, reason) in files.items()}
    for name, (data, _) in files.items():
        shared.put_image(name, data)
    with shared.producer() as producer, shared.store() as store:
        for name in files:
            producer.enqueue(name)
        producer.enqueue("bad-missing")
        with pytest.raises(PrivateAddress, match=r"10\.0\.0\.1 is a private address"):
            producer.enqueue("bad-private", "https://10.0.0.1/a.png")
        producer.enqueue("bad-name", "https://nowhere.invalid.:1/a.png")
        expected["bad-missing"] = "missing"

        def reasons() -> dict[str, str]:
            avatars = store.get_many(list(expected))
            return {a.upload_id: a.reason for a in avatars if a and a.state == "rejected"}

        eventually(lambda: len(reasons()) == len(expected), "all are rejected")
        assert reasons() == expected
        away = store.get("bad-name")
        assert away is not None
        assert away.state == AvatarState.QUEUED, "a name that does not resolve may do so later"
    (shared.folder / "images" / "bad-huge").unlink()


def test_a_second_instance_on_the_same_folder_is_refused(shared: Instance) -> None:
    """It names the process that is in the way."""
    done = shared.run("up")
    assert done.returncode == 2
    assert shared.process is not None
    assert f"process {shared.process.pid}" in " ".join(done.stderr.split())


def test_scan_in_a_second_terminal_prints_json_and_nothing_else(
    shared: Instance, tmp_path: Path
) -> None:
    """Through the running instance; odd file names, pictures that are none, exit code 0."""
    folder = tmp_path / "pictures [b] ü"
    folder.mkdir()
    (folder / "good[red].jpg").write_bytes(picture(2))
    (folder / "bad.png").write_bytes(b"")
    (folder / "notes.txt").write_text("no picture")
    done = shared.run("scan", str(folder), "--json")
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert set(answer) == {"uploads", "summary"}
    rows = {row["file"]: row for row in answer["uploads"]}
    assert set(rows) == {"good[red].jpg", "bad.png"}
    assert set(rows["bad.png"]) == {
        "upload_id",
        "file",
        "state",
        "probability",
        "raw_score",
        "reason",
        "decided_by",
        "latency_s",
    }
    assert rows["bad.png"]["state"] == "rejected"
    assert answer["summary"]["rejected"] == 1
    assert answer["summary"]["failed"] == 0
    table = shared.run("scan", str(folder))
    assert table.returncode == 0, table.stderr
    assert "good[red].jpg" in table.stdout
    lines = shared.run("scan", str(folder), "--csv").stdout.splitlines()
    assert lines[0].startswith("upload_id,file,state,")
    assert len(lines) == 3
