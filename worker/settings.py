"""The settings of the moderating side, on top of the producer's; same prefix, same rules."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from producer.settings import CommaList, Settings, split_commas


class WorkerSettings(Settings):
    """What the workers need; every field has a default that works on a laptop."""

    # -- batch ---------------------------------------------------------------------------------
    batch_size: int = Field(
        32, ge=1, le=256, description="Most uploads taken from the queue at once."
    )
    batch_wait_s: float = Field(
        0.05,
        ge=0,
        le=5,
        description="How long a batch that is not full waits for more, in seconds.",
    )
    lease_s: float = Field(
        30.0,
        ge=2,
        description="How long a worker may keep an upload without a sign of life, in seconds.",
    )

    fetch_threads: int = Field(
        8, ge=1, le=64, description="Images fetched at the same time, ahead of the model."
    )
    moderate_processes: int = Field(
        1, ge=0, le=64, description="Moderate workers that `avatarmod up` starts."
    )

    # -- engine --------------------------------------------------------------------------------
    bundle: str = Field(
        "open-nsfw", description="Model bundle: a name under `models/` or a folder."
    )
    models_folder: Path = Field(Path("models"), description="Where exported bundles lie.")
    execution_providers: CommaList = Field(
        ("CPUExecutionProvider",),
        description="Comma-separated ONNX Runtime execution providers, in order of preference; one "
        "that is absent refuses to start.",
    )
    threads: int | None = Field(
        None, ge=1, description="Threads of one inference; empty: the CPUs this process may use."
    )
    micro_batch: int | None = Field(
        None, ge=1, le=256, description="Pictures in one inference; empty: measured at start-up."
    )
    max_rss_mb: int | None = Field(
        None,
        ge=64,
        description="Resident memory that the measured micro-batch must not pass, in MiB; empty: "
        "no limit.",
    )

    _split_providers = field_validator("execution_providers", mode="before")(split_commas)

    # -- decode --------------------------------------------------------------------------------

    # -- policy --------------------------------------------------------------------------------
    policy_file: Path | None = Field(
        None, description="TOML file with the cut-offs; empty: the built-in policy."
    )

    # -- review --------------------------------------------------------------------------------

    # -- callback ------------------------------------------------------------------------------
    callback_timeout_s: float = Field(
        15.0, gt=0, le=60, description="Longest time to wait for the web tier, in seconds."
    )
    callback_threads: int = Field(
        8, ge=1, le=64, description="Callbacks on their way at the same time, in one process."
    )
    callback_concurrency: int = Field(
        4,
        ge=1,
        le=64,
        description="Callbacks on their way to one endpoint at the same time, in all processes.",
    )
