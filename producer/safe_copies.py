"""Where safe copies lie: a folder or a bucket that whoever serves avatars serves from.

A copy is what was scored of an approved upload, encoded anew by worker/image/safe_copy.py. It is
named after its upload alone, so that it can be removed without looking for it.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from producer.errors import ConfigurationError, StorageMisconfigured, StorageUnavailable
from producer.image_stores import FolderStore, ImageStore, S3Store
from producer.s3 import make_s3_client
from producer.settings import Settings
from producer.texts import of_error, say

#: What a copy may be -> how its name ends.
ENDINGS = {"image/jpeg": ".jpg", "image/webp": ".webp"}

#: Whoever serves the copies is seldom the user that writes them.
FILE_MODE = 0o644


def copy_name(upload_id: str, media_type: str) -> str:
    """File or object name of an upload's safe copy."""
    return hashlib.sha256(upload_id.encode()).hexdigest()[:48] + ENDINGS[media_type]


class SafeCopies:
    """Writes and removes safe copies; safe to share between threads.

    Raises:
        ConfigurationError: they would lie in the image store itself.
    """

    def __init__(self, settings: Settings) -> None:
        #: What an operator must repair at the store; empty as long as it takes copies.
        self.fault = ""
        place = settings.safe_copies
        if place.rstrip("/") == settings.image_folder.rstrip("/"):
            raise ConfigurationError(
                "AVATARMOD_SAFE_COPIES is the image store itself; name another folder or prefix"
            )
        self._folder: Path | None = None
        self._store: ImageStore
        if place.startswith("s3://"):
            parts = urlsplit(place)
            client = make_s3_client(settings)
            self._store = S3Store(
                client,
                parts.netloc,
                parts.path,
                max_bytes=settings.max_image_bytes,
                setting="AVATARMOD_SAFE_COPIES",
            )
        else:
            self._folder = Path(place)
            self._store = FolderStore(
                self._folder,
                max_bytes=settings.max_image_bytes,
                file_mode=FILE_MODE,
                setting="AVATARMOD_SAFE_COPIES",
            )

    def put(self, upload_id: str, data: bytes, media_type: str) -> str:
        """Write the copy of an upload over any earlier one; returns its name.

        Raises:
            StorageUnavailable: the store does not take it.
        """
        name = copy_name(upload_id, media_type)
        with self._noted():
            self._store.put(name, data, media_type)
        return name

    def remove(self, upload_id: str) -> bool:
        """Delete the copy of an upload; False when there is none.

        Raises:
            StorageUnavailable: the store does not delete it.
        """
        with self._noted():
            gone = [self._store.remove(copy_name(upload_id, kind)) for kind in ENDINGS]
        return any(gone)

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Keep what an operator must repair, and say which store it is."""
        try:
            if self._folder is not None and not self._folder.is_dir():
                # Not made here: it may be a mount that is missing.
                raise StorageMisconfigured(
                    say(
                        "{folder} is no folder; make it, mount it, or correct {setting}",
                        folder=str(self._folder),
                        setting="AVATARMOD_SAFE_COPIES",
                    )
                )
            yield
        except StorageUnavailable as error:
            told = say("safe copies: {fault}", fault=of_error(error))
            if isinstance(error, StorageMisconfigured):
                self.fault = told
            raise type(error)(told) from error
        self.fault = ""
