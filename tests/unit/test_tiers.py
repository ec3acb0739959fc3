"""The fast tier reaches nothing outside its process, and only our own deprecations fail a test."""

from __future__ import annotations

import socket
import subprocess
import sys
import warnings

import pytest


def test_a_fast_test_starts_no_process() -> None:
    """Whoever tries is told what to mark."""
    with pytest.raises(RuntimeError, match="process"):
        subprocess.run([sys.executable, "-c", ""], check=False)


def test_a_fast_test_reaches_no_network() -> None:
    """Neither by name nor by address."""
    with pytest.raises(RuntimeError, match="getaddrinfo"):
        socket.getaddrinfo("localhost", 80)
    with socket.socket() as connection, pytest.raises(RuntimeError, match="connect"):
        connection.connect(("127.0.0.1", 9))


@pytest.mark.process
def test_a_test_that_says_so_may_start_one() -> None:
    """The guard is gone when a fast test is over."""
    assert subprocess.run([sys.executable, "-c", ""], check=False).returncode == 0


@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning])
@pytest.mark.parametrize("module", ["producer.enqueue", "worker.app", "tests.unit.test_x"])
def test_our_own_deprecations_fail(kind: type[Warning], module: str) -> None:
    """A warning that points at our line is ours to mend."""
    with pytest.raises(kind):
        warnings.warn_explicit("old", kind, "file.py", 1, module=module)


@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning])
def test_other_peoples_deprecations_do_not(kind: type[Warning]) -> None:
    """An SDK that calls `utcnow()` works on."""
    warnings.warn_explicit("old", kind, "file.py", 1, module="aliyunsdkcore.client")


def test_other_warnings_fail_wherever_they_come_from() -> None:
    """A file left open, for example."""
    with pytest.raises(ResourceWarning):
        warnings.warn_explicit("open", ResourceWarning, "file.py", 1, module="boto3")
