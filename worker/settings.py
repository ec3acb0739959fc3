"""The settings of the moderating side, on top of the producer's; same prefix, same rules."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from worker.review.settings import ReviewSettings


class WorkerSettings(ReviewSettings):
    """What the workers need; every field has a default that works on a laptop."""

    # -- batch ---------------------------------------------------------------------------------
    batch_size: int = Field(
        32, ge=1, le=256, description="Most uploads taken from the queue at once."
    )
    batch_wait_s: float = Field(
        0.05, ge=0, le=5, description="How long a batch that is not full waits for more, in seconds."
    )
    lease_s: float = Field(
        30.0,
        ge=2,
        description="How long a worker may keep an upload without a sign of life, in seconds.",
    )

    # -- engine --------------------------------------------------------------------------------
    bundle: str = Field(
        "open-nsfw", description="Model bundle: a name under `models/` or a folder."
    )
    models_folder: Path = Field(Path("models"), description="Where exported bundles lie.")

    # -- decode --------------------------------------------------------------------------------

    # -- policy --------------------------------------------------------------------------------
    policy_file: Path | None = Field(
        None, description="TOML file with the cut-offs; empty: the built-in policy."
    )

    # -- review --------------------------------------------------------------------------------
    # About a hundred fields, inherited from `worker/review/settings.py`.

    # -- callback ------------------------------------------------------------------------------
    callback_timeout_s: float = Field(
        15.0, gt=0, le=60, description="Longest time to wait for the web tier, in seconds."
    )
