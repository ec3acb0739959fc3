"""Checkpoints from the Hugging Face hub: pinned revisions, resumed downloads, checked hashes.

`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME` and `HF_TOKEN` work as huggingface_hub documents them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from producer.errors import BundleError
from producer.installed import how_to_install
from worker.model.bundle import file_sha256
from worker.model.download import brief
from worker.model.export.checkpoint import CONFIG_FILE, PREPROCESSOR_FILE, WEIGHTS_FILE
from worker.model.recipes import pinned


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
    known = pinned(model)
    is_pinned = known is not None and revision in (None, known[1].revision)
    wanted = revision or (known[1].revision if known else "main")
    config = _download(model, CONFIG_FILE, wanted)
    commit = config.parent.name
    _download(model, PREPROCESSOR_FILE, wanted, optional=True)
    weights = _download(model, WEIGHTS_FILE, wanted)
    digest = file_sha256(weights)
    if is_pinned and known is not None:
        expected_sha256 = expected_sha256 or known[1].sha256 or None
    _check_sha256(weights, digest, expected_sha256, f"the hash pinned for {model}", remove=True)
    # The hub names a large file's blob by its sha256.
    blob = weights.resolve().name
    if re.fullmatch(r"[0-9a-f]{64}", blob):
        _check_sha256(weights, digest, blob, "the hash that the hub states", remove=True)
    licence = known[0].licence if known else "unknown"
    return Source(
        folder=config.parent,
        repository=model,
        revision=commit,
        weights_sha256=digest,
        licence=licence,
    )


def _download(model: str, file: str, revision: str, *, optional: bool = False) -> Path:
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise BundleError(
            f"downloading needs huggingface_hub: {how_to_install('export-light')}"
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
        raise BundleError(f"downloading {file} of {model} failed: {brief(error)}") from error


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
        return f"{_unreachable(model, file, revision)} ({brief(error)})"
    return f"{file} of {model} cannot be stored: {error.strerror}"


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
