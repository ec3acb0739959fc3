"""Where the bytes of an upload lie: a folder, an S3-compatible bucket, or an https address.

An image reference is one of
    ""                         the default store, under the upload id
    name/in/the/store.png      the default store, under that name
    s3://bucket/key            any bucket that the configured keys can read
    https://host/path          fetched, private addresses refused (see http_guard.py)
    http://host/path           the same, only inside the allowed private networks
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import httpx

from producer.contract import MAX_IMAGE_REFERENCE_BYTES
from producer.errors import (
    ConfigurationError,
    ImageMissing,
    ImageTooLarge,
    InsecureAddress,
    InvalidUpload,
    PrivateAddress,
    StorageMisconfigured,
    StorageUnavailable,
)
from producer.http_guard import (
    BlockedAddress,
    IPNetwork,
    PlainHttp,
    guarded_client,
    is_allowed,
    is_public,
    literal_address,
    parse_networks,
    plain_http_message,
    private_address_message,
)
from producer.settings import Settings

#: Folder in the default store for what comes in with its bytes, one folder a day.
RECEIVED = "received"

#: Source: NAME_MAX of Linux' file systems.
MAX_NAME_BYTES = 255

#: Redirects that are followed on the way to a picture.
MAX_REDIRECTS = 3

#: What S3-compatible services answer to keys that they do not know or that do not fit.
#: Source: Amazon S3 API reference, list of error codes.
BAD_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch"})


def check_image_reference(reference: str, allowed: Sequence[IPNetwork] = ()) -> str:
    """Return the reference unchanged.

    Args:
        reference: see the head of this module.
        allowed: private networks that an address may lead into.

    Raises:
        InvalidUpload: it is too long, has control characters or is none of the known forms.
        PrivateAddress: its host is a private address that is not allowed. A name is not resolved
            here; where it leads is checked when the picture is fetched.
        InsecureAddress: http:// to a host that cannot be in an allowed network.
    """
    if len(reference.encode()) > MAX_IMAGE_REFERENCE_BYTES or not reference.isprintable():
        raise InvalidUpload(
            f"image reference {reference[:80]!r} must be printable and at most "
            f"{MAX_IMAGE_REFERENCE_BYTES} bytes",
            field="image",
        )
    scheme = reference.partition("://")[0] if "://" in reference else ""
    if scheme not in ("", "s3", "https", "http"):
        raise InvalidUpload(
            f"image reference {reference[:80]!r}: {scheme}:// is not fetched; use a name in the "
            "image store, s3://bucket/key or https://",
            field="image",
        )
    place, _, key = reference.partition("://")[2].partition("/")
    if scheme and not (place and (key or scheme != "s3")):
        raise InvalidUpload(
            f"image reference {reference[:80]!r} is incomplete; write s3://bucket/key or "
            "https://host/path",
            field="image",
        )
    if not scheme and (reference.startswith("/") or ".." in reference.split("/")):
        raise InvalidUpload(
            f"image reference {reference[:80]!r} leaves the image store; give a name inside it",
            field="image",
        )
    if scheme in ("https", "http"):
        _check_url(reference, allowed)
    return reference


def _check_url(reference: str, allowed: Sequence[IPNetwork]) -> None:
    try:
        url = httpx.URL(reference)
        if url.port is not None and not 0 < url.port < 65536:
            raise httpx.InvalidURL(f"port {url.port}")
    except httpx.InvalidURL as error:
        raise InvalidUpload(
            f"image reference {reference[:80]!r} is no address ({error}); write https://host/path",
            field="image",
        ) from error
    address = literal_address(url.host)
    if address is not None and not is_public(address) and not is_allowed(address, allowed):
        raise PrivateAddress(f"image: {private_address_message(url.host, address)}")
    may_be_ours = bool(allowed) if address is None else is_allowed(address, allowed)
    if url.scheme == "http" and not may_be_ours:
        raise InsecureAddress(f"image: {plain_http_message(url.host)}")


class ImageStore(Protocol):
    """One place that images can be read from and, where we own it, put into."""

    def fetch(self, name: str) -> bytes:
        """The bytes under a name.

        Raises:
            ImageMissing: nothing is there.
            ImageTooLarge: more than the configured limit; nothing is kept in memory.
            StorageUnavailable: the store does not answer.
        """

    def put(self, name: str, data: bytes) -> None:
        """Store bytes under a name, all of them or nothing.

        Raises:
            StorageUnavailable: the store does not take them.
        """

    def remove(self, name: str) -> None:
        """Delete what is under a name; nothing happens when it is gone already.

        Raises:
            StorageUnavailable: the store does not delete it.
        """


def _too_large(limit_bytes: int) -> ImageTooLarge:
    return ImageTooLarge(f"the image has more than {limit_bytes} bytes, the configured limit")


class FolderStore:
    """Images as files; a name never leads out of the folder, not even through a symbolic link."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def fetch(self, name: str) -> bytes:
        """See `ImageStore.fetch`."""
        path = self._inside(name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
                raise ImageMissing(f"no file {name!r} in the image store") from error
            raise StorageUnavailable(f"file {name!r} cannot be read: {error.strerror}") from error
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(descriptor)
            raise ImageMissing(f"{name!r} in the image store is not a file")
        with os.fdopen(descriptor, "rb") as file:
            if status.st_size > self._max_bytes:
                raise _too_large(self._max_bytes)
            return file.read(self._max_bytes + 1)

    def put(self, name: str, data: bytes) -> None:
        """See `ImageStore.put`."""
        path = self._inside(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                try:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(file.name, path)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(file.name)
                    raise
        except OSError as error:
            raise StorageUnavailable(f"cannot write {name!r}: {error.strerror}") from error

    def remove(self, name: str) -> None:
        """See `ImageStore.remove`."""
        try:
            self._inside(name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageUnavailable(f"cannot delete {name!r}: {error.strerror}") from error

    def _inside(self, name: str) -> Path:
        folder = self._folder.resolve()
        try:
            path = (folder / name).resolve()
        except (RuntimeError, OSError) as error:  # links in a circle
            raise ImageMissing(f"{name!r} in the image store is not a file") from error
        if not path.is_relative_to(folder) or path == folder:
            raise ImageMissing(f"{name!r} leads out of the image store")
        return path


class S3Store:
    """Images in one bucket of any S3-compatible service, through boto3."""

    def __init__(self, client: Any, bucket: str, prefix: str = "", *, max_bytes: int) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._max_bytes = max_bytes

    def fetch(self, name: str) -> bytes:
        """See `ImageStore.fetch`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + name)
            if answer["ContentLength"] > self._max_bytes:
                answer["Body"].close()
                raise _too_large(self._max_bytes)
            data: bytes = answer["Body"].read(self._max_bytes + 1)
        except (BotoCoreError, ClientError, OSError) as error:
            if _s3_code(error) in ("NoSuchKey", "404", "NotFound"):
                raise ImageMissing(f"no object {name!r} in bucket {self._bucket!r}") from error
            raise self._trouble(error, "does not answer") from error
        return data

    def put(self, name: str, data: bytes) -> None:
        """See `ImageStore.put`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.put_object(Bucket=self._bucket, Key=self._prefix + name, Body=data)
        except (BotoCoreError, ClientError) as error:
            raise self._trouble(error, f"does not take {name!r}") from error

    def remove(self, name: str) -> None:
        """See `ImageStore.remove`."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + name)
        except (BotoCoreError, ClientError) as error:
            raise self._trouble(error, f"does not delete {name!r}") from error

    def _trouble(self, error: Exception, what: str) -> StorageUnavailable:
        from botocore.exceptions import NoCredentialsError, PartialCredentialsError

        code = _s3_code(error)
        if isinstance(error, (NoCredentialsError, PartialCredentialsError)) or code in BAD_KEYS:
            why = f"refuses our keys ({code})" if code else "needs keys and none are configured"
            return StorageMisconfigured(
                f"bucket {self._bucket!r} {why}; set AVATARMOD_S3_ACCESS_KEY_ID and "
                "AVATARMOD_S3_SECRET_ACCESS_KEY, or give the machine a role"
            )
        return StorageUnavailable(f"bucket {self._bucket!r} {what}: {code or type(error).__name__}")


def _s3_code(error: Exception) -> str:
    """The service's own name of an error; empty where it did not answer."""
    answer = getattr(error, "response", None) or {}
    return str(answer.get("Error", {}).get("Code", ""))


class Images:
    """Resolves references; safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._max_bytes = settings.max_image_bytes
        self._s3_client: Any = None
        self._http = guarded_client(
            allowed=parse_networks(settings.private_networks),
            timeout_s=settings.image_timeout_s,
            tls_in_public=True,
        )
        self._default = self._open_default(settings.image_folder)

    def fetch(self, reference: str, upload_id: str) -> bytes:
        """The bytes of one upload; see `ImageStore.fetch` for the errors."""
        if reference.startswith("s3://"):
            # Not urlsplit: a key may hold ? and #.
            bucket, _, key = reference.removeprefix("s3://").partition("/")
            return self._s3(bucket, "").fetch(key)
        if reference.startswith(("https://", "http://")):
            return self._fetch_url(reference)
        return self._default.fetch(reference or default_name(upload_id))

    def put(self, name: str, data: bytes) -> str:
        """Keep bytes in the default store; returns the reference to enqueue."""
        self._default.put(name, data)
        return name

    def remove(self, name: str) -> None:
        """Forget what `put` kept; nothing happens when it is gone already."""
        self._default.remove(name)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _open_default(self, place: str) -> ImageStore:
        if place.startswith("s3://"):
            parts = urlsplit(place)
            return self._s3(parts.netloc, parts.path)
        return FolderStore(Path(place), max_bytes=self._max_bytes)

    def _s3(self, bucket: str, prefix: str) -> S3Store:
        if self._s3_client is None:
            self._s3_client = make_s3_client(self._settings)
        return S3Store(self._s3_client, bucket, prefix, max_bytes=self._max_bytes)

    def _fetch_url(self, url: str) -> bytes:
        deadline = time.monotonic() + self._settings.image_timeout_s
        host = urlsplit(url).hostname
        try:
            # As it is stored: what a server compressed is no picture, and may be a bomb.
            headers = {"accept-encoding": "identity"}
            request = self._http.build_request("GET", url, headers=headers)
            with contextlib.closing(self._follow(request)) as answer:
                if answer.status_code in (404, 410):
                    raise ImageMissing(f"{host} answers {answer.status_code}")
                if answer.status_code != 200:
                    raise StorageUnavailable(f"{host} answers {answer.status_code}")
                if int(answer.headers.get("content-length") or 0) > self._max_bytes:
                    raise _too_large(self._max_bytes)
                return self._read_limited(answer, deadline)
        except PlainHttp as error:
            raise InsecureAddress(f"image: {error}") from error
        except BlockedAddress as error:
            raise PrivateAddress(f"image: {error}") from error
        except (httpx.TooManyRedirects, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
            raise ImageMissing(f"{host}: {type(error).__name__}") from error
        except httpx.HTTPError as error:
            raise StorageUnavailable(f"{host} does not answer: {type(error).__name__}") from error

    def _follow(self, request: httpx.Request) -> httpx.Response:
        """The answer at the end of at most three redirects, not read yet.

        httpx, asked to follow, would read and unpack the whole body of each redirect.
        """
        for _ in range(1 + MAX_REDIRECTS):
            answer = self._http.send(request, stream=True)
            if answer.next_request is None:
                return answer
            answer.close()
            request = answer.next_request
        raise httpx.TooManyRedirects("too many redirects", request=request)

    def _read_limited(self, answer: httpx.Response, deadline: float) -> bytes:
        body = bytearray()
        for chunk in answer.iter_raw():
            body += chunk
            if len(body) > self._max_bytes:
                raise _too_large(self._max_bytes)
            if time.monotonic() > deadline:
                raise StorageUnavailable(
                    f"the image took longer than {self._settings.image_timeout_s:g} s to arrive"
                )
        return bytes(body)


def default_name(upload_id: str) -> str:
    """File or object name of an upload that has no reference of its own.

    Percent-encoded, so that an id with slashes stays one name; an id of dots stays harmless. What
    would be too long for a file's name is `~`, which no id has, and the id's SHA-256 in hex.
    """
    name = quote(upload_id, safe="")
    if len(name) > MAX_NAME_BYTES:
        return f"~{hashlib.sha256(upload_id.encode()).hexdigest()}"
    return name.replace(".", "%2E") if set(name) == {"."} else name


def make_s3_client(settings: Settings) -> Any:
    """A client of the configured S3 store."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigurationError(
            "images in S3 need boto3: pip install 'avatar-moderation[s3]'"
        ) from None
    keys = {
        name: secret.get_secret_value()
        for name, secret in (
            ("aws_access_key_id", settings.s3_access_key_id),
            ("aws_secret_access_key", settings.s3_secret_access_key),
        )
        if secret is not None
    }
    return boto3.client(
        "s3",
        region_name=settings.s3_region,
        endpoint_url=settings.s3_endpoint_url or None,
        config=Config(
            connect_timeout=3,
            read_timeout=settings.image_timeout_s,
            retries={"mode": "standard", "total_max_attempts": 1},
        ),
        **keys,
    )
