"""Which certificates are believed: those of the public authorities, and of one's own.

`AVATARMOD_CA_FILE` and the usual `SSL_CERT_FILE` name files of one's own authorities; they are
trusted beside the public ones, never instead of them.
"""

from __future__ import annotations

import atexit
import functools
import os
import ssl
import tempfile
from pathlib import Path

import certifi

from producer.environment import variable


def own_files() -> list[str]:
    """Files with authorities of one's own that exist."""
    named = (variable("CA_FILE"), os.environ.get("SSL_CERT_FILE", ""))
    return [name for name in dict.fromkeys(named) if name and Path(name).is_file()]


@functools.cache
def context() -> ssl.SSLContext:
    """One for all clients of this process: to read all certificates takes a while."""
    # Every command reads settings, and few make connections.
    import httpx

    made = httpx.create_ssl_context(trust_env=False)
    for name in own_files():
        made.load_verify_locations(cafile=name)
    return made


@functools.cache
def bundle() -> str:
    """The same as one file, for libraries that want a path."""
    own = own_files()
    if not own:
        return certifi.where()
    texts = [Path(name).read_text(encoding="utf-8") for name in (certifi.where(), *own)]
    with tempfile.NamedTemporaryFile("w", suffix=".pem", delete=False) as file:
        file.write("\n".join(texts))
    atexit.register(Path(file.name).unlink, missing_ok=True)
    return file.name


def check(path: Path) -> None:
    """Whether a file holds certificates.

    Raises:
        ValueError: it does not, or cannot be read.
    """
    try:
        ssl.create_default_context(cafile=str(path))
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"{path} holds no certificates that can be read ({error.strerror or error}); name a "
            "PEM file"
        ) from None
