"""What an operator must know."""

from __future__ import annotations

import dataclasses
from typing import Literal

Severity = Literal["warning", "critical"]


@dataclasses.dataclass(frozen=True)
class Alarm:
    """Something an operator must know. `code` is stable; one alarm a code at a time.

    Attributes:
        after_s: seconds for which it must hold before it is raised: what mends itself wakes nobody.
    """

    code: str
    severity: Severity
    message: str
    fix: str
    after_s: float = 0.0
