"""Every store gets requests in its own manner, and what it refuses says which setting is wrong."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from producer import authorities
from producer.errors import ConfigurationError, StorageMisconfigured
from producer.image_references import check_image_reference
from producer.image_stores import S3Store
from producer.s3 import S3_MANNERS, make_s3_client
from producer.settings import Settings, load_settings

ROOT = Path(__file__).parents[2]

#: Kind -> its settings, as the manual's table shows them in every language.
PLACES, *TRANSLATED = [
    {
        (settings := dict(re.findall(r"`AVATARMOD_(S3_\w+)=([^`]*)`", row)))["S3_KIND"]: settings
        for row in page.read_text(encoding="utf-8").splitlines()
        if row.startswith("|") and "AVATARMOD_S3_KIND=" in row
    }
    for page in (ROOT / "docs" / "operations.md", ROOT / "docs" / "operations.zh-CN.md")
]


def test_the_manual_shows_every_kind() -> None:
    """The same settings in every language."""
    assert PLACES.keys() == S3_MANNERS.keys()
    assert TRANSLATED == [PLACES]


class Raw(io.BytesIO):
    """What urllib3 would give."""

    def stream(self, **_: Any) -> Any:
        """In one piece."""
        yield self.read()


class Stub:
    """A store that refuses what the real one of this kind refuses; no socket is opened."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.urls: list[str] = []

    def __call__(self, request: Any, **_: Any) -> AWSResponse:
        """Answer as the service would."""
        self.urls.append(request.url)
        headers = {name.lower() for name in request.headers}
        is_path = "/avatars/" in request.url.partition("://")[2]
        newer = any("trailer" in n or n.startswith("x-amz-checksum") for n in headers)
        if self.kind in ("oss", "cos") and is_path:
            code = {"oss": "SecondLevelDomainForbidden", "cos": "PathStyleDomainForbidden"}
            return self._refuse(403, code[self.kind])
        if self.kind == "minio" and not is_path:
            return self._refuse(404, "NoSuchBucket")
        if self.kind != "aws" and newer:
            return self._refuse(501, "NotImplemented")
        return AWSResponse(request.url, 200, {"etag": '"1"'}, Raw(b""))

    def _refuse(self, status: int, code: str) -> AWSResponse:
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        return AWSResponse("http://x", status, {"content-type": "application/xml"}, Raw(body))


def store_of(kind: str, folder: Path, **more: Any) -> tuple[S3Store, Stub]:
    """A bucket at a stub of this kind, by settings alone."""
    shown = {name.lower(): value for name, value in PLACES[kind].items()}
    settings = load_settings(
        Settings,
        data_folder=folder,
        s3_access_key_id="key",
        s3_secret_access_key="secret",
        **{**shown, **more},
    )
    client, stub = make_s3_client(settings), Stub(kind)
    client.meta.events.register("before-send.s3", stub)
    return S3Store(client, "avatars", max_bytes=1000), stub


@pytest.mark.parametrize("kind", PLACES)
def test_every_kind_takes_what_it_is_sent(kind: str, tmp_path: Path) -> None:
    """Bucket before the host or in the path, checksums or none."""
    store, stub = store_of(kind, tmp_path)
    store.put("a.png", b"bytes", "image/png")
    [url] = stub.urls
    assert ("//avatars." in url) is (kind in ("aws", "oss", "cos"))


@pytest.mark.parametrize(
    ("kind", "more", "words"),
    [
        ("oss", {"s3_kind": ""}, "AVATARMOD_S3_ADDRESSING=virtual"),
        ("cos", {"s3_kind": ""}, "AVATARMOD_S3_ADDRESSING=virtual"),
        ("oss", {"s3_addressing": "path"}, "AVATARMOD_S3_ADDRESSING=virtual"),
        ("r2", {"s3_checksums": "always"}, "AVATARMOD_S3_CHECKSUMS=required"),
        ("minio", {"s3_kind": "aws"}, "bucket's name"),
    ],
)
def test_a_wrong_manner_says_what_to_set(
    kind: str, more: dict[str, str], words: str, tmp_path: Path
) -> None:
    """It is a fault of the configuration, not a store that does not answer."""
    store, _ = store_of(kind, tmp_path, **more)
    with pytest.raises(StorageMisconfigured, match=words):
        store.put("a.png", b"bytes")


def test_an_endpoint_without_a_kind_works_as_before(tmp_path: Path) -> None:
    """The bucket in the path, as MinIO and most others want it, and no newer checksums."""
    place = "http://minio.lan:9000"
    store, stub = store_of("minio", tmp_path, s3_kind="", s3_endpoint_url=place)
    store.put("a.png", b"bytes")
    assert stub.urls == ["http://minio.lan:9000/avatars/a.png"]


def test_a_ca_file_is_trusted_beside_the_public_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that holds no certificate stops the process and is named."""
    import certifi

    first = Path(certifi.where()).read_text().partition("-----END CERTIFICATE-----")
    own = tmp_path / "own.pem"
    own.write_text(first[0] + first[1] + "\n")
    broken = tmp_path / "broken.pem"
    broken.write_text("no certificate")
    for path in (broken, tmp_path / "none.pem"):
        with pytest.raises(ConfigurationError, match=r"AVATARMOD_CA_FILE: .* PEM file"):
            load_settings(Settings, ca_file=path)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "gone"))
    for cached in (authorities.context, authorities.bundle):
        cached.cache_clear()
    public = len(authorities.context().get_ca_certs())
    monkeypatch.setenv("AVATARMOD_CA_FILE", str(own))
    assert load_settings(Settings).ca_file == own
    authorities.context.cache_clear()
    try:
        assert authorities.own_files() == [str(own)]
        assert len(authorities.context().get_ca_certs()) == public
        text = Path(authorities.bundle()).read_text()
        assert text.count("BEGIN CERTIFICATE") > public
        monkeypatch.delenv("AVATARMOD_CA_FILE")
        monkeypatch.setenv("SSL_CERT_FILE", str(own))
        assert authorities.own_files() == [str(own)]
    finally:
        for cached in (authorities.context, authorities.bundle):
            cached.cache_clear()


def test_the_case_of_a_scheme_says_nothing() -> None:
    """`HTTPS://` is https; the rest is kept as it is."""
    assert check_image_reference("HTTPS://Web.example/A.png") == "https://Web.example/A.png"
    assert check_image_reference("S3://bucket/Key") == "s3://bucket/Key"
