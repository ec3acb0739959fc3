"""The two kinds of image store: a folder, and a bucket of any S3-compatible service.

A store tells what is missing from what is wrong with itself: a folder that is not mounted, an empty
bucket or refused keys are for an operator to repair and never a verdict about an upload.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from pathlib import Path
from typing import Any, Protocol

from producer.errors import (
    ImageMissing,
    ImageTooLarge,
    StorageMisconfigured,
    StorageUnavailable,
)
from producer.s3 import FORBIDDEN, S3_REMEDIES, s3_code
from producer.texts import say
from producer.whole_files import write_whole

#: Seconds for which an S3 store that was seen to hold something is believed to be the right one.
CHECK_EVERY_S = 60.0

#: Errors of a folder in which we may not delete.
NO_RIGHT = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


class ImageStore(Protocol):
    """One place that images can be read from and, where we own it, put into."""

    def fetch(self, name: str) -> bytes:
        """The bytes under a name.

        Raises:
            ImageMissing: nothing is there.
            ImageTooLarge: more than the configured limit; nothing is kept in memory.
            StorageMisconfigured: the store is absent, empty at its root or unreadable.
            StorageUnavailable: the store does not answer.
        """

    def check(self) -> None:
        """Look whether this can be the right store.

        Raises:
            StorageMisconfigured: absent, empty at its root, unreadable, or it refuses our keys.
            StorageUnavailable: the store does not answer.
        """

    def put(self, name: str, data: bytes, media_type: str = "") -> None:
        """Store bytes under a name, all of them or nothing.

        Args:
            name: in this store.
            data: what to keep.
            media_type: what a bucket says of them when it serves them; a folder keeps none.

        Raises:
            StorageUnavailable: the store does not take them.
        """

    def remove(self, name: str) -> bool:
        """Delete what is under a name; False when it is gone already.

        Raises:
            StorageMisconfigured: we may not delete there.
            StorageUnavailable: the store does not delete it.
        """


def too_large(limit_bytes: int) -> ImageTooLarge:
    """What to raise for an image over the limit."""
    return ImageTooLarge(f"the image has more than {limit_bytes} bytes, the configured limit")


#: The setting that names the default store.
IMAGE_STORE = "AVATARMOD_IMAGE_STORE"


class FolderStore:
    """Images as files; a name never leads out of the folder, not even through a symbolic link.

    Args:
        folder: where they are.
        max_bytes: of a file that is read.
        file_mode: who may read what is put.
        setting: that names it.
    """

    def __init__(
        self, folder: Path, *, max_bytes: int, file_mode: int = 0o600, setting: str = IMAGE_STORE
    ) -> None:
        self._folder = folder
        self._setting = setting
        self._file_mode = file_mode
        self._max_bytes = max_bytes

    def fetch(self, name: str) -> bytes:
        """See `ImageStore.fetch`."""
        path = self._inside(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                self.check()
                raise ImageMissing(say("no file {name!r} in the image store", name=name)) from error
            if error.errno in (errno.EACCES, errno.EPERM):
                self.check()
                raise StorageMisconfigured(
                    say(
                        "file {name!r} in the image store may not be read by user {user}; let "
                        "whoever puts it there give the workers' group the right to read",
                        name=name,
                        user=os.getuid(),
                    )
                ) from error
            raise StorageUnavailable(
                say("file {name!r} cannot be read: {why}", name=name, why=error.strerror)
            ) from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise ImageMissing(say("{name!r} in the image store is not a file", name=name))
        with os.fdopen(descriptor, "rb") as file:
            if status.st_size > self._max_bytes:
                raise too_large(self._max_bytes)
            return file.read(self._max_bytes + 1)

    def check(self) -> None:
        """See `ImageStore.check`."""
        try:
            with os.scandir(self._folder) as entries:
                is_empty = next(entries, None) is None
        except FileNotFoundError:
            wrong = say("does not exist")
        except OSError as error:
            wrong = say("cannot be read ({why})", why=error.strerror)
        else:
            if not is_empty:
                return
            wrong = say("is empty")
        raise StorageMisconfigured(
            say(
                "the image folder {folder} {wrong}: is it mounted, and is {setting} the folder "
                "that the web tier writes to?",
                folder=str(self._folder),
                wrong=wrong,
                setting=self._setting,
            )
        )

    def put(self, name: str, data: bytes, media_type: str = "") -> None:
        """See `ImageStore.put`."""
        path = self._inside(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data, self._file_mode)
        except OSError as error:
            raise StorageUnavailable(
                say("cannot write {name!r}: {why}", name=name, why=error.strerror)
            ) from error

    def remove(self, name: str) -> bool:
        """See `ImageStore.remove`."""
        try:
            self._inside(name).unlink()
        except FileNotFoundError:
            return False
        except OSError as error:
            kind = StorageMisconfigured if error.errno in NO_RIGHT else StorageUnavailable
            raise kind(
                say("cannot delete {name!r}: {why}", name=name, why=error.strerror)
            ) from error
        return True

    def _inside(self, name: str) -> Path:
        folder = self._folder.resolve()
        try:
            path = (folder / name).resolve()
        except (RuntimeError, OSError) as error:  # links in a circle
            raise ImageMissing(
                say("{name!r} in the image store is not a file", name=name)
            ) from error
        if not path.is_relative_to(folder) or path == folder:
            raise ImageMissing(say("{name!r} leads out of the image store", name=name))
        return path


class S3Store:
    """Images in one bucket of any S3-compatible service, through boto3."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        prefix: str = "",
        *,
        max_bytes: int,
        setting: str = IMAGE_STORE,
    ) -> None:
        self._client = client
        self._setting = setting
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._max_bytes = max_bytes
        self._seen_filled_s = -CHECK_EVERY_S

    def fetch(self, name: str) -> bytes:
        """See `ImageStore.fetch`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            if answer["ContentLength"] > self._max_bytes:
                answer["Body"].close()
                raise too_large(self._max_bytes)
            data: bytes = answer["Body"].read(self._max_bytes + 1)
        except (BotoCoreError, ClientError, OSError) as error:
            if s3_code(error) in ("NoSuchKey", "404", "NotFound"):
                if time.monotonic() - self._seen_filled_s > CHECK_EVERY_S:
                    self.check()
                raise ImageMissing(
                    say("no object {name!r} in bucket {bucket!r}", name=name, bucket=self._bucket)
                ) from error
            raise self._trouble(error, say("does not answer")) from error
        self._seen_filled_s = time.monotonic()
        return data

    def check(self) -> None:
        """See `ImageStore.check`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            found = self._client.list_objects_v2(
                Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1
            )
        except (BotoCoreError, ClientError, OSError) as error:
            if s3_code(error) in FORBIDDEN:
                # Reading without listing is a right to have; then nothing can be said.
                return
            raise self._trouble(error, say("does not answer")) from error
        if not found.get("KeyCount"):
            raise StorageMisconfigured(
                say(
                    "bucket {bucket!r} has nothing under {prefix!r}; is that the bucket and "
                    "the prefix of {setting} that the web tier writes to?",
                    bucket=self._bucket,
                    prefix=self._prefix,
                    setting=self._setting,
                )
            )
        self._seen_filled_s = time.monotonic()

    def put(self, name: str, data: bytes, media_type: str = "") -> None:
        """See `ImageStore.put`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            kind = {"ContentType": media_type} if media_type else {}
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data, **kind)
        except (BotoCoreError, ClientError) as error:
            raise self._trouble(error, say("does not take {name!r}", name=name)) from error

    def remove(self, name: str) -> bool:
        """See `ImageStore.remove`."""
        from botocore.exceptions import BotoCoreError, ClientError

        place = {"Bucket": self._bucket, "Key": self._prefix + name}
        try:
            self._client.head_object(**place)
        except (BotoCoreError, ClientError) as error:
            if s3_code(error) in ("NoSuchKey", "404", "NotFound"):
                return False
        try:
            self._client.delete_object(**place)
        except (BotoCoreError, ClientError) as error:
            raise self._trouble(error, say("does not delete {name!r}", name=name)) from error
        return True

    def _trouble(self, error: Exception, what: str) -> StorageUnavailable:
        from botocore.exceptions import NoCredentialsError, PartialCredentialsError, SSLError

        code = s3_code(error)
        if isinstance(error, SSLError):
            return StorageMisconfigured(
                say(
                    "the certificate of bucket {bucket!r} is not trusted; for an authority "
                    "of your own set AVATARMOD_CA_FILE, else correct "
                    "AVATARMOD_S3_ENDPOINT_URL",
                    bucket=self._bucket,
                )
            )
        if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
            code, wrong = "NoCredentials", say("needs keys and none are configured")
        else:
            wrong = say("refuses us ({code})", code=code)
        remedy = S3_REMEDIES.get(code)
        if remedy is not None:
            return StorageMisconfigured(
                say(
                    "bucket {bucket!r} {wrong}; {remedy}",
                    bucket=self._bucket,
                    wrong=wrong,
                    remedy=say(remedy, setting=self._setting),
                )
            )
        return StorageUnavailable(
            say(
                "bucket {bucket!r} {what}: {error}",
                bucket=self._bucket,
                what=what,
                error=code or type(error).__name__,
            )
        )
