"""How the place of a picture may be named; checked before anything is written.

An image reference is one of
    ""                         the default store, under the upload id
    name/in/the/store.png      the default store, under that name
    s3://bucket/key            any bucket that the configured keys can read
    https://host/path          fetched, private addresses refused (see http_guard.py)
    http://host/path           the same, only inside the allowed private networks
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlsplit

from producer.contract import MAX_IMAGE_REFERENCE_BYTES, is_web_address, public_url
from producer.errors import InsecureAddress, InvalidUpload, PrivateAddress
from producer.networks import (
    IPNetwork,
    is_allowed,
    is_public,
    literal_address,
    plain_http_message,
    private_address_message,
)
from producer.texts import say


def host_of(image: str) -> str:
    """The host that a picture lies at; empty for one in an image store."""
    if not image.startswith(("https://", "http://")):
        return ""
    try:
        return urlsplit(image).hostname or "?"
    except ValueError:
        return "?"


def check_image_reference(reference: str, allowed: Sequence[IPNetwork] = ()) -> str:
    """Return the reference, its scheme in small letters.

    Args:
        reference: see the head of this module.
        allowed: private networks that an address may lead into.

    Raises:
        InvalidUpload: it is too long, has control characters or is none of the known forms.
        PrivateAddress: its host is a private address that is not allowed. A name is not resolved
            here; where it leads is checked when the picture is fetched.
        InsecureAddress: http:// to a host that cannot be in an allowed network.
    """
    shown = repr(public_url(reference)[:80])
    if not reference.isprintable() or len(reference.encode()) > MAX_IMAGE_REFERENCE_BYTES:
        raise InvalidUpload(
            f"image reference {shown} must be printable and at most "
            f"{MAX_IMAGE_REFERENCE_BYTES} bytes",
            field="image",
        )
    scheme, is_address, rest = reference.partition("://")
    # Of an address the scheme's case says nothing. Source: RFC 3986, section 3.1.
    scheme = scheme.lower() if is_address else ""
    reference = f"{scheme}://{rest}" if is_address else reference
    if scheme not in ("", "s3", "https", "http"):
        raise InvalidUpload(
            f"image reference {shown}: {scheme}:// is not fetched; use a name in the "
            "image store, s3://bucket/key or https://",
            field="image",
        )
    place, _, key = reference.partition("://")[2].partition("/")
    if scheme and not (place and (key or scheme != "s3")):
        raise InvalidUpload(
            f"image reference {shown} is incomplete; write s3://bucket/key or https://host/path",
            field="image",
        )
    if not scheme and (reference.startswith("/") or ".." in reference.split("/")):
        raise InvalidUpload(
            f"image reference {shown} leaves the image store; give a name inside it",
            field="image",
        )
    if scheme in ("https", "http"):
        _check_url(reference, shown, allowed)
    return reference


def _check_url(reference: str, shown: str, allowed: Sequence[IPNetwork]) -> None:
    import httpx

    try:
        url = httpx.URL(reference)
        host = url.host
        if not is_web_address(reference):
            raise httpx.InvalidURL(f"host and port {url.netloc[-80:].decode()!r}")
    except (httpx.InvalidURL, UnicodeError) as error:  # the second: of names that IDNA refuses
        raise InvalidUpload(
            f"image reference {shown} is no address ({error}); write https://host/path",
            field="image",
        ) from error
    address = literal_address(host)
    if address is not None and not is_public(address) and not is_allowed(address, allowed):
        raise PrivateAddress(say("image: {why}", why=private_address_message(host, address)))
    may_be_ours = bool(allowed) if address is None else is_allowed(address, allowed)
    if url.scheme == "http" and not may_be_ours:
        raise InsecureAddress(say("image: {why}", why=plain_http_message(host)))
