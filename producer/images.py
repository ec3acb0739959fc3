"""Where the bytes of an upload lie: a folder, an S3-compatible bucket, or an https address.

How a reference may look is said in image_references.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from producer.errors import (
    ImageMissing,
    InsecureAddress,
    PrivateAddress,
    StorageMisconfigured,
    StorageUnavailable,
)
from producer.http_guard import BlockedAddress, PlainHttp, guarded_client
from producer.image_references import host_of
from producer.image_stores import FolderStore, ImageStore, S3Store, too_large
from producer.networks import parse_networks
from producer.s3 import make_s3_client
from producer.settings import Settings
from producer.texts import of_error, say

#: Folder in the default store for what comes in with its bytes, one folder a day.
RECEIVED = "received"

#: Folder of the default store for the copies that `avatarmod backfill` makes.
BACKFILL = "backfill"

#: Source: NAME_MAX of Linux' file systems.
MAX_NAME_BYTES = 255

#: Redirects that are followed on the way to a picture.
MAX_REDIRECTS = 3


class Images:
    """Resolves references; safe to share between threads."""

    def __init__(self, settings: Settings) -> None:
        #: What an operator must repair at the default store; empty as long as it gives pictures.
        self.fault = ""
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
        try:
            data = self._default.fetch(reference or default_name(upload_id))
        except StorageMisconfigured as error:
            self.fault = of_error(error)
            raise
        self.fault = ""
        return data

    def check(self) -> None:
        """Look whether the default store can be the right one; see `ImageStore.check`."""
        self._default.check()

    def put(self, name: str, data: bytes) -> str:
        """Keep bytes in the default store; returns the reference to enqueue."""
        self._default.put(name, data)
        return name

    def remove(self, name: str) -> bool:
        """Forget what `put` kept; False when it is gone already."""
        return self._default.remove(name)

    def remove_of(self, reference: str, upload_id: str) -> bool:
        """Delete the picture of an upload from the default store; False when it is gone already.

        Raises:
            NotOurs: it lies elsewhere, or we may not delete it.
            StorageUnavailable: the store does not answer.
        """
        name = reference or default_name(upload_id)
        ours = self._settings.image_folder.rstrip("/") + "/"
        if ours.startswith("s3://") and reference.startswith(ours):
            name = reference.removeprefix(ours)
        elif "://" in reference:
            where = host_of(reference) or reference.partition("://")[2].partition("/")[0]
            raise NotOurs(f"the picture at {where} is not in our image store")
        try:
            return self._default.remove(name)
        except StorageMisconfigured as error:
            raise NotOurs(f"the picture stays: {error}") from error
        except ImageMissing:
            return False

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
        host = host_of(url)
        try:
            # As it is stored: what a server compressed is no picture, and may be a bomb.
            headers = {"accept-encoding": "identity"}
            request = self._http.build_request(
                "GET", url, headers=headers, extensions={"deadline_s": deadline}
            )
            with contextlib.closing(self._follow(request)) as answer:
                if (status := answer.status_code) != 200:
                    fault = ImageMissing if status in (404, 410) else StorageUnavailable
                    raise fault(say("{host} answers {status}", host=host, status=status))
                if int(answer.headers.get("content-length") or 0) > self._max_bytes:
                    raise too_large(self._max_bytes)
                return self._read_limited(answer, deadline)
        except PlainHttp as error:
            raise InsecureAddress(f"image: {error}") from error
        except BlockedAddress as error:
            raise PrivateAddress(f"image: {error}") from error
        except (
            httpx.TooManyRedirects,
            httpx.UnsupportedProtocol,
            httpx.InvalidURL,
            UnicodeError,  # of names that IDNA refuses
        ) as error:
            raise ImageMissing(
                say("{who}: {error}", who=host, error=type(error).__name__)
            ) from error
        except httpx.HTTPError as error:
            raise StorageUnavailable(
                say("{host} does not answer: {error}", host=host, error=type(error).__name__)
            ) from error

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
                raise too_large(self._max_bytes)
            if time.monotonic() > deadline:
                raise StorageUnavailable(
                    say(
                        "the image took longer than {limit:g} s to arrive",
                        limit=self._settings.image_timeout_s,
                    )
                )
        return bytes(body)


class NotOurs(Exception):
    """Raised where a picture is to be removed that is not ours to remove; says why."""


def default_name(upload_id: str) -> str:
    """File or object name of an upload that has no reference of its own.

    Percent-encoded, so that an id with slashes stays one name; an id of dots stays harmless. What
    would be too long for a file's name is `~`, which no id has, and the id's SHA-256 in hex.
    """
    name = quote(upload_id, safe="")
    if len(name) > MAX_NAME_BYTES:
        return f"~{hashlib.sha256(upload_id.encode()).hexdigest()}"
    return name.replace(".", "%2E") if set(name) == {"."} else name
