"""Large files over HTTP: resumed where they stopped, bounded, and used only with the right hash."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import httpx

from producer.errors import BundleError
from worker.model.bundle import file_sha256

#: Seconds without a byte after which a transfer is tried again, and how often it is.
TIMEOUT_S, TRIES = 30.0, 4

Progress = Callable[[int, int], None]


def http_client() -> httpx.Client:
    """A client that honours proxies, `SSL_CERT_FILE` and pip's `PIP_CERT`."""
    certificates = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
    context = ssl.create_default_context(cafile=certificates or None)
    return httpx.Client(timeout=TIMEOUT_S, follow_redirects=True, verify=context)


def download(
    client: httpx.Client,
    url: str,
    target: Path,
    *,
    sha256: str,
    size_bytes: int | None = None,
    progress: Progress = lambda done, total: None,
) -> None:
    """Bring a file here; a `.part` file that a run before left is continued.

    Args:
        client: see `http_client`.
        url: of the file; never shown where it may hold a password.
        target: written whole or not at all.
        sha256: expected, in hex.
        size_bytes: where it is known; more is refused.
        progress: called with the bytes done and the bytes in all (0 where unknown).

    Raises:
        BundleError: it cannot be had, or is another file; what is wrong is removed.
    """
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    for left in reversed(range(TRIES)):
        try:
            _continue(client, url, part, size_bytes, progress)
            break
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if (status < 500 and status != 429) or not left:
                raise BundleError(f"{_host(url)} answered {status} for {target.name}") from error
        except httpx.HTTPError as error:
            if not left:
                raise BundleError(f"{_host(url)} cannot be reached: {brief(error)}") from error
        time.sleep(2.0 ** (TRIES - 1 - left) / 2)
    actual = file_sha256(part)
    if actual != sha256:
        part.unlink()
        raise BundleError(
            f"{target.name} from {_host(url)} has sha256 {actual}, expected {sha256}; it was not "
            "used and was removed"
        )
    part.replace(target)


def _continue(
    client: httpx.Client, url: str, part: Path, size_bytes: int | None, progress: Progress
) -> None:
    done = part.stat().st_size if part.exists() else 0
    if size_bytes is not None and done == size_bytes:
        return
    headers = {"accept-encoding": "identity"}
    if done:
        headers["range"] = f"bytes={done}-"
    with client.stream("GET", url, headers=headers) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return
        response.raise_for_status()
        resumed = response.status_code == httpx.codes.PARTIAL_CONTENT
        done = done if resumed else 0
        total = size_bytes or done + int(response.headers.get("content-length") or 0)
        with part.open("ab" if resumed else "wb") as file:
            for chunk in response.iter_bytes():
                done += len(chunk)
                if size_bytes is not None and done > size_bytes:
                    raise BundleError(f"{_host(url)} sends more than the {size_bytes:,} bytes")
                file.write(chunk)
                progress(done, total)


def _host(url: str) -> str:
    return httpx.URL(url).host


def brief(error: Exception) -> str:
    """The first line of what an error says, or its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
