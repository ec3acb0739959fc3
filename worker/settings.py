"""The settings of the moderating side, on top of the producer's; same prefix, same rules."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from producer.environment import ENV_PREFIX, from_file
from producer.setting_types import CommaList, Seconds, Secrets
from worker.retry import CALLBACK_SCHEDULE_S
from worker.review.settings import ReviewSettings

#: Variables with our prefix that are read elsewhere: by producer/environment.py and supervised.py.
_OTHERS = ("ENV_FILE", "SECRETS_FOLDER", "SUPERVISED")


#: In the data folder: the policy that was set by `avatarmod policy` or in the console, where
#: `AVATARMOD_POLICY_FILE` names none.
POLICY_FILE = "policy.toml"


class WorkerSettings(ReviewSettings):
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
        le=3600,
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
        "open-nsfw", description="Model bundle: a name under the models folder, or a folder."
    )
    allow_random_weights: bool = Field(
        False, description="Accept a bundle of random weights, for benchmarks only."
    )
    models_folder: Path = Field(
        default_factory=lambda known: known.get("data_folder", Path()) / "models",
        description="Where exported bundles lie; empty: `models` in the data folder. Those in a "
        "folder `models` where a command is started are found too.",
    )
    engine: Literal["onnxruntime", "openvino", "auto"] = Field(
        "auto",
        description="What runs the models: `onnxruntime`; `openvino` (extra `openvino`; ONNX "
        "Runtime where it cannot); `auto`: where OpenVINO is installed, the faster of the two for "
        "each bundle, measured at start-up.",
    )
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
        256 * 2**20, ge=64 * 2**20, description="Most memory that decoding one picture may take."
    )
    scored_frames: int = Field(
        64,
        ge=1,
        le=256,
        description="Most different frames of an animation that are scored; one that has more is "
        "never approved without a second opinion.",
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
    look_alikes: bool = Field(
        True,
        description="Hold pictures that look like one which a person or a provider blocked, and "
        "decide the same pixels in other bytes alike.",
    )

    safe_copy_max_side_px: int = Field(
        1024, ge=64, le=2048, description="Longest side of a safe copy, in pixels."
    )

    # -- policy --------------------------------------------------------------------------------
    policy_file: Path | None = Field(
        None,
        description="TOML file with the cut-offs; empty: policy.toml of the data folder "
        "where `avatarmod policy` or the console made one, else the built-in policy.",
    )

    # -- review --------------------------------------------------------------------------------
    # The providers' fields are inherited from `worker/review/settings.py`.
    review_threads: int = Field(
        4, ge=1, le=64, description="Review providers asked at the same time, in one process."
    )

    # -- callback ------------------------------------------------------------------------------
    callback_hub_signature: bool = Field(
        False,
        description="Also send X-Hub-Signature-256 (hex HMAC-SHA256 of the raw body, keyed with "
        "the first callback secret as it is written), which Mastodon and Discourse tools verify.",
    )
    callback_timeout_s: float = Field(
        15.0, gt=0, le=60, description="Longest time to wait for the web tier, in seconds."
    )
    callback_schedule_s: Seconds = Field(
        CALLBACK_SCHEDULE_S,
        min_length=1,
        description="Comma-separated seconds before each further attempt of a callback; after the "
        "last it is a dead letter.",
    )
    callback_disable_after_s: float = Field(
        5 * 86400.0,
        gt=0,
        description="Seconds without one success after which an endpoint is disabled.",
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

    # -- alarms --------------------------------------------------------------------------------
    alarm_urls: Secrets = Field(
        (),
        description="Comma-separated addresses that apprise speaks (mailto://, slack://, json://): "
        "who is told of alarms.",
    )
    alarm_silence_s: float = Field(
        300.0,
        gt=0,
        description="Alarm when uploads wait and no verdict came for so long, in seconds.",
    )
    alarm_review_s: float = Field(
        3600.0,
        gt=0,
        description="Alarm when a gray upload has waited so long for a provider, in seconds.",
    )
    alarm_dead_letters: int = Field(
        10, ge=1, description="Alarm when so many dead letters came within an hour."
    )
    alarm_callback_s: float = Field(
        600.0, gt=0, description="Alarm when an endpoint has failed for so long, in seconds."
    )
    alarm_look_alikes: int = Field(
        10,
        ge=1,
        description="Alarm when so many uploads within an hour look like the same blocked picture.",
    )

    @field_validator("callback_schedule_s", mode="after")
    @classmethod
    def _check_schedule(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(delay_s < 0 for delay_s in value):
            raise ValueError("a delay is negative; write seconds such as 5,300,1800")
        return value

    def policy_path(self) -> Path | None:
        """The policy file; None while the built-in policy holds."""
        own = self.data_folder / POLICY_FILE
        return self.policy_file or (own if own.exists() else None)

    def decode_limits(self) -> dict[str, float | str]:
        """Fields of `DecodeLimits` by name, for whoever decodes uploads."""
        return {
            "max_bytes": self.max_image_bytes,
            "max_pixels": self.max_pixels,
            "max_side_px": self.max_side_px,
            "max_aspect_ratio": self.max_aspect_ratio,
            "max_frames": self.max_frames,
            "max_total_pixels": self.max_total_pixels,
            "timeout_s": self.decode_timeout_s,
            "memory_bytes": self.decode_memory_bytes,
            "turns": str(self.data_folder / "large-picture.lock"),
        }


def unknown_variables() -> dict[str, str]:
    """Variables like settings that are none, each with the nearest setting's name or ""."""
    known = [f"{ENV_PREFIX}{name.upper()}" for name in (*WorkerSettings.model_fields, *_OTHERS)]
    unknown = {}
    for name in sorted({*os.environ, *from_file()}):
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            unknown[name] = next(iter(difflib.get_close_matches(name, known, 1)), "")
    return unknown
