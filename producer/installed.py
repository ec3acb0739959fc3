"""How this copy is installed: what to type to add to it, or to start it anew.

The package comes from a clone and not from PyPI, or from deploy/install.sh as a service.
"""

from __future__ import annotations

import sys
from pathlib import Path

#: Where deploy/install.sh puts the code that it looks after.
SERVER_PREFIX = Path("/opt/avatarmod")


def is_service() -> bool:
    """Whether deploy/install.sh put it here."""
    return Path(sys.prefix).resolve().is_relative_to(SERVER_PREFIX)


def how_to_install(extra: str) -> str:
    """The command that adds an extra to this environment."""
    extras = extra if extra == "all" else f"all,{extra}"
    if is_service():
        return f"sudo deploy/install.sh --extras {extras} (in the folder of the clone)"
    clone = Path(__file__).resolve().parent.parent
    pip = f"{sys.executable} -m pip install"
    if (clone / "requirements.lock").is_file():
        return f"cd {clone} && {pip} -c requirements.lock -e '.[{extras}]'"
    return f"{pip} '/path/of/the/clone[{extras}]'"


def how_to_start() -> str:
    """The command that starts everything with the settings that hold now."""
    return "sudo systemctl restart avatarmod.target" if is_service() else "avatarmod up"
