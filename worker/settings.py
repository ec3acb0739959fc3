"""The settings of the moderating side, on top of the producer's; same prefix, same rules."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

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
    max_pixels: int = Field(
        50_000_000, gt=0, description="Most pixels of a picture or of one frame, as declared."
    )
    max_side_px: int = Field(16_384, gt=0, description="Longest side, in pixels.")
    max_aspect_ratio: float = Field(
        16.0, ge=1, description="Most times that a picture may be longer than wide, or the reverse."
    )
    max_frames: int = Field(1_000, gt=0, description="Most frames that an animation may have.")
    max_total_pixels: int = Field(
        300_000_000, gt=0, description="Most pixels of all frames of an animation together."
    )
    decode_timeout_s: float = Field(
        5.0, gt=0, description="Longest processor time to decode one picture, in seconds."
    )
    decode_memory_bytes: int = Field(
        512 * 2**20, ge=64 * 2**20, description="Most memory that decoding one picture may take."
    )
    scored_frames: int = Field(
        8, ge=1, le=32, description="Most frames of an animation that are scored."
    )
    hidden_colours: bool = Field(
        False,
        description="Also score what shows when a program drops transparency; for sites that "
        "re-encode avatars that way.",
    )
    served_crop: Literal["none", "square", "round", "both"] = Field(
        "none",
        description="Also score the centre square, or the circle in it, as the site shows it.",
    )
    pad_to_square: bool = Field(
        False, description="Pad pictures to a square instead of the model's own resize rule."
    )
    flat_rule: bool = Field(
        True, description="Approve single colours, letter tiles and identicons without the model."
    )

    # -- policy --------------------------------------------------------------------------------
    policy_file: Path | None = Field(
        None, description="TOML file with the cut-offs; empty: the built-in policy."
    )

    # -- review --------------------------------------------------------------------------------

    # -- callback ------------------------------------------------------------------------------
    callback_timeout_s: float = Field(
        15.0, gt=0, le=60, description="Longest time to wait for the web tier, in seconds."
    )
