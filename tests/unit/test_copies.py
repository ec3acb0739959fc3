"""Workers as copies of one process: what they are given, and how they end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import wait_until
from worker.process import copies
from worker.process.copies import Template
from worker.process.supervised import SUPERVISED

pytestmark = pytest.mark.process

#: Stands for the command `avatarmod`.
COMMAND = """
import os, signal, sys, time
def main():
    place = os.environ["PLACE"]
    open(place, "w").write(" ".join(sys.argv) + "|" + str(os.getsid(0) == os.getpid()))
    if sys.argv[1] == "end":
        sys.exit(int(sys.argv[2]))
    if sys.argv[1] == "stop":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    while True:
        time.sleep(0.05)
"""


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Template]:
    """One whose workers are a few lines of Python."""
    folder = tmp_path / "fake" / "producer"
    folder.mkdir(parents=True)
    folder.joinpath("cli.py").write_text(COMMAND)
    begin = f"import sys; sys.path[:] = {sys.path!r}; import producer; "
    begin += f"producer.__path__.insert(0, {str(folder)!r}); from worker.process import copies; "
    begin += "copies._COMMON = ('producer.cli', 'absent.module'); copies.main({fd})"
    monkeypatch.setattr(copies, "_TEMPLATE", begin.replace("{path!r}", ""))
    template = Template()
    template.start()
    yield template
    template.stop()


def env_of(place: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PLACE": str(place), SUPERVISED: "1", **more}


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_copy_is_a_command_with_an_environment_of_its_own(
    template: Template, tmp_path: Path
) -> None:
    """In a session of its own, under its own name."""
    place = tmp_path / "said"
    copy = template.copy(["stop", "x"], env_of(place))
    wait_until(place.exists, 30, "it runs")
    wait_until(lambda: place.read_text() == "avatarmod stop x|True", 30, "it has said so")
    assert b"avatarmod stop x" in Path(f"/proc/{copy.pid}/cmdline").read_bytes()
    assert copy.poll() is None
    copy.send_signal(signal.SIGTERM)
    assert copy.wait(10) == 0


def test_the_model_does_not_wait_for_what_only_others_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its copy is made as soon as its own imports are there; another's has all of them."""
    go, place = tmp_path / "go", tmp_path / "said"
    wait = f"import os, time\nwhile not os.path.exists({str(go)!r}): time.sleep(0.01)\n"
    say = f"def main(): open({str(place)!r}, 'a').write(f\"{{'late' in sys.modules}} \")\n"
    (tmp_path / "first.py").write_text(wait)
    (tmp_path / "late.py").write_text("")
    (tmp_path / "command.py").write_text("import sys\n" + say)
    begin = f"import sys; sys.path[:] = {[str(tmp_path), *sys.path]!r}; import command; "
    begin += "sys.modules['producer.cli'] = command; from worker.process import copies; "
    begin += "copies._FIRST = ('first',); copies._COMMON = ('first', 'late'); copies.main({fd})"
    monkeypatch.setattr(copies, "_TEMPLATE", begin.replace("{path!r}", ""))
    template = Template()
    template.start()
    try:
        assert template._link is not None
        asked = {"arguments": ["worker", "moderate"], "env": env_of(place)}
        template._link.send_bytes(json.dumps(asked).encode())
        go.touch()
        wait_until(lambda: place.exists() and place.read_text() == "False ", 30, "it is made")
        assert template._ask({"arguments": ["worker", "io"], "env": env_of(place)}) is not None
        wait_until(lambda: place.read_text() == "False True ", 30, "the other is made")
    finally:
        template.stop()


def test_what_a_copy_ends_with_is_known(template: Template, tmp_path: Path) -> None:
    """An exit code, a signal, and what still runs, as of any child."""
    ended = template.copy(["end", "2"], env_of(tmp_path / "a"))
    assert ended.wait(30) == 2
    running = template.copy(["run"], env_of(tmp_path / "b"))
    with pytest.raises(subprocess.TimeoutExpired):
        running.wait(0.2)
    running.kill()
    assert running.wait(10) == -signal.SIGKILL
    running.kill()  # Nothing more happens.


def test_a_lost_template_takes_its_copies_with_it_and_comes_back(
    template: Template, tmp_path: Path
) -> None:
    """Nobody would hear how they end; the supervisor starts both again."""
    first = template.copy(["run"], env_of(tmp_path / "a"))
    assert template.pid is not None
    os.kill(template.pid, signal.SIGKILL)
    wait_until(lambda: first.poll() == -signal.SIGKILL, 30, "the copy is over")
    wait_until(lambda: not is_alive(first.pid), 30, "the copy is gone")
    second = template.copy(["run"], env_of(tmp_path / "b"))
    assert second.poll() is None


def test_signals_to_the_group_stop_copies_and_not_the_template(
    template: Template, tmp_path: Path
) -> None:
    """A service manager sends SIGTERM to all; the template must live to tell of the others."""
    place = tmp_path / "said"
    copy = template.copy(["stop"], env_of(place))
    wait_until(place.exists, 30, "it runs")
    assert template.pid is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(template.pid, number)
    copy.send_signal(signal.SIGTERM)
    assert copy.wait(10) == 0
    assert template.copy(["end", "0"], env_of(place)).wait(10) == 0


def test_nothing_outlives_the_supervisor(tmp_path: Path) -> None:
    """However it ends: the template hears that it is gone, and the kernel ends the copies."""
    code = (
        "import os, signal, sys\n"
        "from worker.process.copies import Template\n"
        "template = Template(); template.start()\n"
        "copy = template.copy(['api', '--help'], dict(os.environ))\n"
        "print(template.pid, copy.wait(60), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    pid, returncode = map(int, ended.stdout.split())
    assert returncode == 0, "the real command explains itself"
    wait_until(lambda: not is_alive(pid), 30, "the template is gone")


def test_the_template_has_one_thread() -> None:
    """Copying a process with several is not safe; what more than one worker needs is in it."""
    code = (
        "import importlib, os, sys\n"
        "from worker.process import copies\n"
        "for name in copies._COMMON: importlib.import_module(name)\n"
        "print(len(os.listdir('/proc/self/task')), 'onnxruntime' in sys.modules,"
        " 'sqlalchemy' in sys.modules)\n"
    )
    env = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    shown = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    )
    assert shown.stdout.split() == ["1", "False", "True"]
