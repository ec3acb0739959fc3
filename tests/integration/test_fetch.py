"""Images from real local servers: the web's bad manners, and an S3-compatible store."""

from __future__ import annotations

import gzip
import time
import tracemalloc
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber
from moto.server import ThreadedMotoServer

from producer.errors import (
    ImageMissing,
    ImageTooLarge,
    InsecureAddress,
    ModerationError,
    PrivateAddress,
    StorageMisconfigured,
    StorageUnavailable,
)
from producer.image_stores import S3Store
from producer.images import Images
from producer.settings import Settings, load_settings
from tests.integration.servers import Request, Server, serving
from tests.support import FREE_NETWORKS

LIMIT = 1000

#: 100 MB in the body of a redirect.
BOMB = gzip.compress(b"\0" * 100_000_000)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Every route of these tests."""

    def compressed(request: Request) -> None:
        request.answer(200, zlib.compress(b"\0" * 10_000_000, 9)[:900], content_encoding="deflate")

    def endless(request: Request) -> None:
        request.send_response(200)
        request.send_header("transfer-encoding", "chunked")
        request.end_headers()
        while True:
            request.wfile.write(b"ff\r\n" + b"x" * 255 + b"\r\n")

    def lying(request: Request) -> None:
        request.send_response(200)
        request.send_header("content-length", "100")
        request.end_headers()
        request.wfile.write(b"short")
        request.close_connection = True

    def stairs(request: Request) -> None:
        time.sleep(0.25)
        request.answer(302, location="/stairs")

    with serving(
        ok=lambda r: r.answer(200, b"bytes"),
        fits=lambda r: r.answer(200, b"x" * LIMIT),
        over=lambda r: r.answer(200, b"x" * (LIMIT + 1)),
        endless=endless,
        lying=lying,
        compressed=compressed,
        missing=lambda r: r.answer(404),
        gone=lambda r: r.answer(410),
        broken=lambda r: r.answer(500),
        forbidden=lambda r: r.answer(403),
        slow_headers=lambda r: r.drip(b"HTTP/1.1 200 OK\r\nx: " + b"y" * 500, 0.05),
        slow_body=lambda r: r.drip(
            b"HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n" + b"z" * 900, 0.05
        ),
        silent=lambda r: time.sleep(30),
        relative=lambda r: r.answer(302, location="/ok"),
        bomb=lambda r: r.answer(302, BOMB, content_encoding="gzip", location="/ok"),
        inside=lambda r: r.answer(302, location="http://169.254.169.254/latest/meta-data/"),
        mapped=lambda r: r.answer(302, location="http://[::ffff:10.0.0.1]/"),
        public=lambda r: r.answer(302, location="http://1.1.1.1/"),
        file=lambda r: r.answer(302, location="file:///etc/passwd"),
        circle=lambda r: r.answer(302, location="/circle"),
        stairs=stairs,
    ) as server:
        yield server


@pytest.fixture
def images(tmp_path: Path) -> Iterator[Images]:
    """Fetches from this machine only."""
    settings = load_settings(
        Settings,
        data_folder=tmp_path,
        private_networks="127.0.0.0/8",
        max_image_bytes=LIMIT,
        image_timeout_s=0.6,
    )
    images = Images(settings)
    yield images
    images.close()


@pytest.mark.parametrize(("path", "size"), [("ok", 5), ("fits", LIMIT), ("relative", 5)])
def test_an_image_is_fetched(images: Images, server: Server, path: str, size: int) -> None:
    """At the limit too, and after a redirect."""
    assert len(images.fetch(f"{server.url}/{path}", "a")) == size


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        ("over", ImageTooLarge, "more than 1000 bytes"),
        ("endless", ImageTooLarge, "more than 1000 bytes"),
        ("missing", ImageMissing, "answers 404"),
        ("gone", ImageMissing, "answers 410"),
        ("broken", StorageUnavailable, "answers 500"),
        ("forbidden", StorageUnavailable, "answers 403"),
        ("lying", StorageUnavailable, "does not answer: RemoteProtocolError"),
        ("slow_headers", StorageUnavailable, "ReadTimeout"),
        ("slow_body", StorageUnavailable, "ReadTimeout|took longer"),
        ("silent", StorageUnavailable, "ReadTimeout"),
        ("inside", PrivateAddress, r"169\.254\.169\.254 is a private address"),
        ("mapped", PrivateAddress, r"::ffff:\S+ is (a|the) private address"),
        ("public", InsecureAddress, r"1\.1\.1\.1 is to be reached over plain http"),
        ("file", ImageMissing, "UnsupportedProtocol"),
        ("circle", ImageMissing, "TooManyRedirects"),
        ("stairs", StorageUnavailable, "ReadTimeout"),
    ],
)
def test_a_bad_answer_has_its_outcome_in_bounded_time(
    images: Images, server: Server, path: str, error: type[ModerationError], words: str
) -> None:
    """Rejected when it can never work, tried again when it may; nobody is waited for long."""
    started_s = time.monotonic()
    with pytest.raises(error, match=words) as caught:
        images.fetch(f"{server.url}/{path}?signature=hunter2".replace("?", "#"), "a")
    assert time.monotonic() - started_s < 15
    assert "hunter2" not in str(caught.value)


def test_what_a_server_compressed_is_not_unpacked(images: Images, server: Server) -> None:
    """900 bytes stay 900 bytes, whatever they would swell to."""
    assert len(images.fetch(f"{server.url}/compressed", "a")) == 900


def test_the_body_of_a_redirect_is_not_unpacked_either(images: Images, server: Server) -> None:
    """100 kB that would swell to 100 MB in the worker's memory are left where they are."""
    tracemalloc.start()
    try:
        assert images.fetch(f"{server.url}/bomb", "a") == b"bytes"
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_a_private_address_is_refused_before_anything_is_sent(
    tmp_path: Path, server: Server
) -> None:
    """Without the network on the list, the server never hears of it."""
    before = len(server.seen)
    images = Images(load_settings(Settings, data_folder=tmp_path))
    with pytest.raises(PrivateAddress, match="AVATARMOD_PRIVATE_NETWORKS"):
        images.fetch(f"{server.url}/ok", "a")
    images.close()
    assert len(server.seen) == before


def test_nobody_listening_is_a_passing_trouble(images: Images) -> None:
    """A refused connection is tried again later."""
    with Server({}) as gone:
        url = gone.url
    with pytest.raises(StorageUnavailable, match="does not answer: ConnectError"):
        images.fetch(f"{url}/a", "a")


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """An S3-compatible server."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class TestS3:
    @pytest.fixture
    def settings(self, endpoint: str, tmp_path: Path) -> Settings:
        return load_settings(
            Settings,
            data_folder=tmp_path,
            image_store="s3://avatars/new/",
            s3_endpoint_url=endpoint,
            s3_access_key_id="key",
            s3_secret_access_key="secret",
            max_image_bytes=LIMIT,
            private_networks=FREE_NETWORKS,
        )

    @pytest.fixture
    def bucket(self, endpoint: str) -> Any:
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        )
        client.create_bucket(Bucket="avatars")
        yield client
        client.close()

    def test_what_is_put_is_fetched_and_removed(self, settings: Settings, bucket: Any) -> None:
        """Under the prefix; references with a bucket of their own go there as they are."""
        images = Images(settings)
        assert images.put("a/b", b"bytes") == "a/b"
        assert images.fetch("a/b", "x") == b"bytes"
        assert images.fetch("s3://avatars/new/a/b", "x") == b"bytes"
        images.remove("a/b")
        images.remove("a/b")
        with pytest.raises(ImageMissing, match="no object 'a/b' in bucket 'avatars'"):
            images.fetch("a/b", "x")
        images.close()

    def test_an_object_is_named_exactly(self, settings: Settings, bucket: Any) -> None:
        """A question mark or a hash belongs to the key and does not cut it short."""
        for key, data in (("pic", b"other"), ("pic?1#2", b"mine"), ("new/user%2F1", b"default")):
            bucket.put_object(Bucket="avatars", Key=key, Body=data)
        images = Images(settings)
        assert images.fetch("s3://avatars/pic?1#2", "x") == b"mine"
        assert images.fetch("", "user/1") == b"default"
        images.close()

    def test_missing_keys_are_a_fault_of_the_configuration(
        self, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What to set is said; it is not taken for a server that does not answer."""
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        settings = load_settings(
            Settings, data_folder=tmp_path, image_store="s3://avatars", s3_endpoint_url=endpoint
        )
        images = Images(settings)
        for act in (
            lambda: images.fetch("s3://b/x", "x"),
            lambda: images.put("a", b"x"),
            lambda: images.remove("a"),
        ):
            with pytest.raises(StorageMisconfigured, match="set AVATARMOD_S3_ACCESS_KEY_ID"):
                act()
        images.close()

    def test_refused_keys_are_a_fault_of_the_configuration(self) -> None:
        """The service's own word for it is kept."""
        client = boto3.client(
            "s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        with Stubber(client) as stub:
            stub.add_client_error("get_object", "SignatureDoesNotMatch", http_status_code=403)
            with pytest.raises(StorageMisconfigured, match=r"refuses us \(SignatureDoes"):
                S3Store(client, "b", max_bytes=LIMIT).fetch("x")
        client.close()

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("NoSuchBucket", "correct the bucket's name in AVATARMOD_IMAGE_STORE"),
            ("AccessDenied", "s3:GetObject, and s3:ListBucket"),
            ("403", "s3:GetObject, and s3:ListBucket"),
            ("PermanentRedirect", "set AVATARMOD_S3_REGION"),
            ("AuthorizationHeaderMalformed", "set AVATARMOD_S3_REGION"),
            ("InvalidAccessKeyId", "set AVATARMOD_S3_ACCESS_KEY_ID"),
            ("RequestTimeTooSkewed", "clock"),
        ],
    )
    def test_each_refusal_says_what_to_set(self, code: str, words: str) -> None:
        """A wrong region, bucket or right is not "does not answer"."""
        client = boto3.client(
            "s3", region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
        )
        with Stubber(client) as stub:
            stub.add_client_error("get_object", code, http_status_code=400)
            with pytest.raises(StorageMisconfigured, match=f"refuses us \\({code}\\); .*{words}"):
                S3Store(client, "b", max_bytes=LIMIT).fetch("x")
        client.close()

    def test_an_empty_bucket_is_no_uploads_fault(self, settings: Settings, bucket: Any) -> None:
        """Nothing under the prefix at all: the wrong bucket or prefix, not a missing picture."""
        images = Images(settings.model_copy(update={"image_store": "s3://avatars/elsewhere"}))
        with pytest.raises(StorageMisconfigured, match="nothing under 'elsewhere/'"):
            images.fetch("a.png", "a")
        assert "elsewhere" in images.fault
        with pytest.raises(StorageMisconfigured):
            images.check()
        bucket.put_object(Bucket="avatars", Key="elsewhere/b.png", Body=b"bytes")
        with pytest.raises(ImageMissing):
            images.fetch("a.png", "a")
        images.check()
        assert images.fetch("b.png", "b") == b"bytes"
        assert images.fault == ""
        images.close()

    def test_troubles_have_their_outcome(self, settings: Settings, bucket: Any) -> None:
        """Too large, no such bucket, nobody there."""
        bucket.put_object(Bucket="avatars", Key="new/over", Body=b"x" * (LIMIT + 1))
        images = Images(settings)
        with pytest.raises(ImageTooLarge):
            images.fetch("over", "x")
        with pytest.raises(StorageMisconfigured, match="NoSuchBucket"):
            images.fetch("s3://nobody/a", "x")
        images.close()
        away = Images(settings.model_copy(update={"s3_endpoint_url": "http://127.0.0.1:9"}))
        for act in (
            lambda: away.fetch("a", "x"),
            lambda: away.put("a", b"x"),
            lambda: away.remove("a"),
        ):
            with pytest.raises(StorageUnavailable, match="EndpointConnectionError"):
                act()
        away.close()
