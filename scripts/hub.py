"""Checkpoints from the Hugging Face hub: pinned revisions, resumed downloads, checked hashes.

`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN` work as huggingface_hub documents them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producer.errors import BundleError
from scripts.checkpoint import CONFIG_FILE, PREPROCESSOR_FILE, WEIGHTS_FILE


@dataclass(frozen=True, kw_only=True)
class Pin:
    """What is known of a published model.

    Attributes:
        revision: commit that is taken unless another is asked for.
        weights_sha256: of `model.safetensors` at that commit; None: only the hub's own is checked.
        label_smoothing: it was trained with; 0: none, so scores are taken as they are.
    """

    revision: str
    weights_sha256: str | None
    licence: str
    bundle_name: str
    label_smoothing: float = 0.0


#: Source: the model cards (licence, label smoothing) and two independent exporters (commits).
PINS = {
    "Marqo/nsfw-image-detection-384": Pin(
        revision="0c26ec22111b83f106d72a55f611ec35962bcb65",
        weights_sha256="6bf2e0f64a1d20169736c2836e3a787b12379fdc08ba87f7d94a7a3d58eeefce",
        licence="Apache-2.0",
        bundle_name="marqo-nsfw-384",
        label_smoothing=0.1,
    ),
    "Falconsai/nsfw_image_detection": Pin(
        revision="04367978d3474804ab1a00a9bd6548b741764069",
        weights_sha256=None,
        licence="Apache-2.0",
        bundle_name="falconsai-nsfw",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A checkpoint on disk, with where it came from.

    Attributes:
        repository: hub id; None for a local folder.
        revision: commit, or the weights' sha256 for a local folder.
        licence: as pinned or as given; `unknown` otherwise.
    """

    folder: Path
    repository: str | None
    revision: str
    weights_sha256: str
    licence: str

    @property
    def name(self) -> str:
        """How a bundle's `source` names it."""
        return f"huggingface.co/{self.repository}" if self.repository else "local folder"


def fetch_checkpoint(model: str, revision: str | None, expected_sha256: str | None) -> Source:
    """Return a local folder as it is, or download a hub model's files.

    Args:
        model: hub id (`owner/name`) or a folder.
        revision: commit, tag or branch; None: the pinned one, else `main`.
        expected_sha256: of the weights; None: the pinned one.

    Raises:
        BundleError: nothing is there, the hub cannot be reached, or a hash differs; a downloaded
            file with the wrong hash is removed, so that the next run fetches it again.
    """
    if Path(model).is_dir():
        weights = Path(model) / WEIGHTS_FILE
        digest = file_sha256(weights)
        _check_sha256(weights, digest, expected_sha256, "the expected hash")
        return Source(
            folder=Path(model),
            repository=None,
            revision=digest,
            weights_sha256=digest,
            licence="unknown",
        )
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model) or model.startswith("."):
        raise BundleError(f"{model!r} is neither a folder nor a hub id such as owner/name")
    pin = PINS.get(model)
    pinned = pin is not None and revision in (None, pin.revision)
    wanted = revision or (pin.revision if pin else "main")
    config = _download(model, CONFIG_FILE, wanted)
    commit = config.parent.name
    _download(model, PREPROCESSOR_FILE, wanted, optional=True)
    weights = _download(model, WEIGHTS_FILE, wanted)
    digest = file_sha256(weights)
    if pinned and pin is not None:
        expected_sha256 = expected_sha256 or pin.weights_sha256
    _check_sha256(weights, digest, expected_sha256, f"the hash pinned for {model}", remove=True)
    # The hub names a large file's blob by its sha256.
    blob = weights.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        _check_sha256(weights, digest, blob, "the hash that the hub states", remove=True)
    licence = pin.licence if pin else "unknown"
    return Source(
        folder=config.parent,
        repository=model,
        revision=commit,
        weights_sha256=digest,
        licence=licence,
    )


def file_sha256(path: Path) -> str:
    """Return the hash of a file, in hex.

    Raises:
        BundleError: it is missing or cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror or error}") from error


def _download(model: str, file: str, revision: str, *, optional: bool = False) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise BundleError(
            "downloading needs huggingface_hub: pip install 'avatar-moderation[export-light]'"
        ) from error
    try:
        return Path(huggingface_hub.hf_hub_download(model, file, revision=revision))
    except errors.GatedRepoError as error:
        raise BundleError(f"{model} is gated: accept its terms on the hub, set HF_TOKEN") from error
    except errors.RevisionNotFoundError as error:
        raise BundleError(f"{model} has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise BundleError(f"the hub has no model {model!r}, or it is private") from error
    except errors.LocalEntryNotFoundError as error:
        if optional:
            return Path()
        raise BundleError(_unreachable(model, file, revision)) from error
    except errors.EntryNotFoundError as error:
        if optional:
            return Path()
        raise BundleError(f"{model} at {revision} has no {file}") from error
    except OSError as error:
        raise BundleError(_os_problem(model, file, revision, error)) from error
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("httpx", "requests", "huggingface_hub"):
            raise
        raise BundleError(f"downloading {file} of {model} failed: {_brief(error)}") from error


def _unreachable(model: str, file: str, revision: str) -> str:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return f"HF_HUB_OFFLINE is set, and {file} of {model} at {revision} is not in the cache"
    return (
        f"the hub cannot be reached at {constants.ENDPOINT}, and {file} of {model} at {revision} "
        "is not in the cache; check the network, set HF_ENDPOINT to a mirror, or export from a "
        "local folder with --model FOLDER"
    )


def _os_problem(model: str, file: str, revision: str, error: OSError) -> str:
    if error.errno is None:
        return f"{_unreachable(model, file, revision)} ({_brief(error)})"
    return f"{file} of {model} cannot be stored: {error.strerror}"


def _brief(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _check_sha256(
    path: Path, actual: str, expected: str | None, what: str, *, remove: bool = False
) -> None:
    if expected is None or actual == expected.lower():
        return
    if remove:
        blob: Any = path.resolve()
        path.unlink(missing_ok=True)
        blob.unlink(missing_ok=True)
    raise BundleError(
        f"{path.name} has sha256 {actual}, but {what} is {expected}; it was not used"
        + (" and was removed from the cache" if remove else "")
    )
