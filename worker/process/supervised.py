"""What a child of `avatarmod up` does so that it never outlives it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: Set by `avatarmod up` for its children.
SUPERVISED = "AVATARMOD_SUPERVISED"


def follow_supervisor() -> None:
    """Have the kernel send SIGTERM when the supervisor dies (Linux; elsewhere nothing happens).

    Nothing happens either in a process that nobody supervises.
    Source: prctl(2), PR_SET_PDEATHSIG is 1.
    """
    if os.environ.get(SUPERVISED) and sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
