"""A few hundred of the mutated files of `tests.fuzz.decode`, the same ones every time."""

from __future__ import annotations

import pytest

from tests.fuzz.decode import LIMITS, run


@pytest.mark.process
def test_mutated_files_end_in_pixels_or_a_refusal() -> None:
    """No crash, no hang, no memory above the limit; both endings occur."""
    tally = run(cases=600, seed=7)
    assert sum(tally.outcomes.values()) == 600
    assert not [name for name in tally.outcomes if "crash" in name]
    assert tally.peak_bytes < LIMITS.memory_bytes + 150 * 2**20
    endings = {name.split(": ")[1] for name in tally.outcomes}
    assert {"pixels", "damaged", "unsupported", "too_many_pixels"} <= endings
