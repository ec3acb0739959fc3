"""What a decoding process can do when its codec was taken over: compute, and nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.pictures import STRETCH
from worker.image import sandbox
from worker.image.decoder import DecodeLimits, Decoder, ViewOptions

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="a matter of Linux"),
]

#: Becomes a user that owns nothing, as readable as if it had been started by that user.
BECOME_STRANGER = """
import ctypes
os.setresgid(65533, 65533, 65533); os.setresuid(65533, 65533, 65533)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
"""

ROOT = Path(__file__).parents[2]

CONFINED = """
import json, os
from worker.image import sandbox
{before}
read, write = os.pipe()
if os.fork() == 0:
    lacking = sandbox.confine(64 * 2**20, write)
    answer = json.dumps([lacking, sandbox.attempts(64 * 2**20)]).encode()
    os.write(write, answer)
    os._exit(0)
os.close(write)
print(os.read(read, 65536).decode())
"""


def run(script: str) -> str:
    """What a script prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def confined(before: str = "") -> tuple[list[str], dict[str, bool]]:
    """What a confined process lacks, and what it can do."""
    lacking, worked = json.loads(run(CONFINED.format(before=before)))
    return lacking, worked


@pytest.mark.parametrize("first_look", [False, True])
def test_a_decoding_process_can_compute_and_nothing_else(first_look: bool) -> None:
    """It tries each thing itself: files, network, processes, signals, memory, code."""
    with Decoder(DecodeLimits(), ViewOptions(spec=STRETCH), first_look=first_look) as decoder:
        lacking, worked = decoder.try_to_escape()
    assert worked == []
    assert lacking == [], "this kernel is older than what the project supports"


def test_the_attempts_work_where_nothing_is_confined() -> None:
    """Else they would prove nothing. The parent is a plain process: ours may hide its memory."""
    code = (
        "import json; from worker.image import sandbox; print(json.dumps(sandbox.attempts(2**20)))"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    worked = json.loads(run(parent))
    forbidden = []
    if subprocess.run(["unshare", "--user", "true"], capture_output=True, check=False).returncode:
        forbidden = ["make a world of its own"]  # to everybody, in a chroot for example
    assert [name for name, works in worked.items() if not works] == forbidden


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_it_needs_no_privilege_to_be_confined() -> None:
    """A service's own user can do it, as root can."""
    lacking, worked = confined(BECOME_STRANGER)
    assert (lacking, [name for name in worked if worked[name]]) == ([], [])


@pytest.mark.parametrize(
    ("part", "name", "possible"),
    [
        ("_leave_files", "Landlock", set()),
        ("_become_nobody", "an account without rights", set()),
        (
            "_filter_calls",
            "a filter of system calls (seccomp)",
            {
                "look at a path",
                "start a process",
                "run a program",
                "make code",
                "ask the kernel to work",
                "make a world of its own",
                "trace the worker",
                "read the worker's memory",
                "signal the worker",
            },
        ),
    ],
)
def test_a_part_that_the_kernel_lacks_is_named_and_the_others_hold(
    part: str, name: str, possible: set[str]
) -> None:
    """Without a filter of calls Landlock still keeps files and sockets away."""
    before = f"""
def absent():
    raise OSError(38, "Function not implemented")
sandbox.{part} = absent
"""
    lacking, worked = confined(before)
    assert [entry.partition(" ([")[0] for entry in lacking if name in entry] == [name]
    assert {attempt for attempt, works in worked.items() if works} <= possible


def test_on_another_machine_the_limits_hold_and_the_rest_is_named() -> None:
    """A machine whose numbers are not known is not filtered by wrong ones."""
    lacking, worked = confined("sandbox.platform.machine = lambda: 'riscv64'")
    assert [entry for entry in lacking if "seccomp" in entry]
    assert not worked["take more memory"]
    assert not worked["write a file"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_neighbour_cannot_read_what_starts_decoders() -> None:
    """Neither the environment nor the memory of a worker, under the same user."""
    look = """
def look():
    pid = os.fork()
    if pid == 0:
        try:
            os.open(f"/proc/{os.getppid()}/environ", os.O_RDONLY)
        except PermissionError:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
"""
    hide = "a = look(); hide_memory(); print(a, look())"
    begin = "import os\nfrom worker.resources import hide_memory"
    assert run(f"{begin}{BECOME_STRANGER}{look}{hide}").split() == ["0", "1"]


def test_whoever_starts_a_decoder_hides_its_memory() -> None:
    """Workers, the console's helper and the tools alike."""
    script = """
import ctypes
from tests.unit.pictures import STRETCH
from worker.image.decoder import DecodeLimits, Decoder, ViewOptions
with Decoder(DecodeLimits(), ViewOptions(spec=STRETCH)) as decoder:
    before = ctypes.CDLL(None).prctl(3, 0, 0, 0, 0)
    decoder.start()
    print(before, ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))
"""
    assert run(script).split() == ["1", "0"]


def answer_of(machine: str, number: int, *arguments: int) -> int:
    """What the filter of a machine answers to a call: a small interpreter of its program."""
    words = {0: number, 4: sandbox._ARCHITECTURES[machine]}
    words |= {16 + 8 * n: value & 0xFFFFFFFF for n, value in enumerate(arguments)}
    program = list(sandbox._program(sandbox._CALLS[machine], sandbox._ARCHITECTURES[machine]))
    at, value = 0, 0
    while True:
        code, yes, no, operand = program[at]
        at += 1
        if code == sandbox._RETURN:
            return operand
        if code == sandbox._LOAD:
            value = words.get(operand, 0)
        else:
            holds = value == operand if code == sandbox._EQUAL else value & operand
            at += yes if holds else no


@pytest.mark.parametrize("machine", sandbox._CALLS)
def test_the_filter_of_each_machine_lets_through_what_is_needed_only(machine: str) -> None:
    """Its program is run here, so that a machine which is not at hand is looked at too."""
    calls = sandbox._CALLS[machine]
    plain = {name: n for name, n in calls.items() if name not in sandbox._BOUNDED}
    assert {answer_of(machine, n) for n in plain.values()} == {sandbox._ALLOW}
    others = set(range(600)) - set(calls.values()) - {sandbox._CLONE3}
    assert {answer_of(machine, n) for n in others} == {sandbox._REFUSE}
    assert answer_of(machine, sandbox._CLONE3) == sandbox._ABSENT
    for name in ("mmap", "mprotect"):
        assert answer_of(machine, calls[name], 0, 4096, 3) == sandbox._ALLOW
        assert answer_of(machine, calls[name], 0, 4096, 5) == sandbox._REFUSE
    assert answer_of(machine, calls["tgkill"], os.getpid(), 1, 6) == sandbox._ALLOW
    assert answer_of(machine, calls["tgkill"], os.getppid(), 1, 6) == sandbox._REFUSE
    assert answer_of(machine, calls["clone"], 0x3D0F00) == sandbox._ALLOW
    for flags in (17, 0x01200011, 0x3D0F00 | 0x10000000, 0x3D0F00 & ~0x10000):
        assert answer_of(machine, calls["clone"], flags) == sandbox._REFUSE


def test_what_was_found_is_said_in_a_sentence() -> None:
    """For `avatarmod doctor`."""
    assert sandbox.describe([], []) == "a decoding process can compute and nothing else"
    assert sandbox.describe(["Landlock (Function not implemented)"], ["read a file"]) == (
        "a decoding process can read a file; this kernel lacks Landlock (Function not implemented)"
    )
