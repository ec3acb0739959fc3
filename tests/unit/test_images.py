"""References to images, and a folder that nothing leads out of."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.contract import UPLOAD_ID_PATTERN
from producer.errors import (
    ImageMissing,
    ImageTooLarge,
    InsecureAddress,
    InvalidUpload,
    PrivateAddress,
    StorageMisconfigured,
    StorageUnavailable,
)
from producer.image_references import check_image_reference
from producer.image_stores import FolderStore
from producer.images import Images, NotOurs, default_name
from producer.networks import parse_networks
from producer.settings import Settings


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "a.png",
        "folder/a.png",
        "..a/..b",
        "s3://bucket/key with space?#.png",
        "https://example.org/a.png?signature=x%2F",
        "名前.png",
        "x" * 2000,
    ],
)
def test_a_good_reference_is_returned_unchanged(reference: str) -> None:
    """Names in the store, S3 objects and web addresses."""
    assert check_image_reference(reference) == reference


@pytest.mark.parametrize("place", ["https://xn--/b", "https://[b/", "https://b:99999/", "//xn--"])
def test_an_address_that_is_none_is_no_picture(tmp_path: Path, place: str) -> None:
    """Where a host sends us there, and in a record of a version that took it; erased it can be."""
    images = Images(Settings(data_folder=tmp_path))
    images._http = httpx.Client(
        transport=httpx.MockTransport(lambda _: httpx.Response(302, headers={"location": place}))
    )
    with pytest.raises((ImageMissing, StorageUnavailable)):
        images.fetch("https://example.org/a.png", "a")
    if place.startswith("https://"):
        with pytest.raises(ImageMissing):
            images.fetch(place, "a")
        with pytest.raises(NotOurs):
            images.remove_of(place, "a")


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("x" * 2001, "at most 2000 bytes"),
        ("é" * 1001, "at most 2000 bytes"),
        ("a\nb", "must be printable"),
        ("a\0b", "must be printable"),
        ("a\u202eb", "must be printable"),
        ("/etc/passwd", "leaves the image store"),
        ("../secret", "leaves the image store"),
        ("a/../../b", "leaves the image store"),
        ("a/..", "leaves the image store"),
        ("file:///etc/passwd", "file:// is not fetched"),
        ("gopher://x/", "gopher:// is not fetched"),
        ("HTTP://example.org/", "over plain http"),
        ("s3://bucket", "is incomplete; write s3://bucket/key"),
        ("s3://bucket/", "is incomplete"),
        ("s3:///key", "is incomplete"),
        ("https://", "is incomplete"),
        ("https:///a.png", "is incomplete"),
        ("https://[::1", "is no address"),
        ("https://example.org:99999/a.png", "is no address"),
        ("https://xn--/a.png", "is no address"),
        ("https://me@[example.org/a.png", "is no address"),
        ("https://example.org]/a.png", "is no address"),
        ("https://me@/a.png", "is no address"),
        ("a\ud800b", "must be printable"),
    ],
)
def test_a_bad_reference_is_refused_at_once(reference: str, words: str) -> None:
    """Before anything is accepted, with what is wrong."""
    with pytest.raises(InvalidUpload, match=words) as caught:
        check_image_reference(reference)
    assert caught.value.field == "image"


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "169.254.169.254",
        "10.1.2.3:8080",
        "user@192.168.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "127.0.0.1.",
        "localhost.",
        "a.localhost.",
        "[::1]",
        "[::ffff:10.0.0.1]",
        "[fe80::1]",
        "localhost",
        "any.localhost",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_private_address_is_refused_at_once(scheme: str, host: str) -> None:
    """However it is written; the setting that would allow it is named."""
    with pytest.raises(InvalidUpload, match=r"private address|no address") as caught:
        check_image_reference(f"{scheme}://{host}/a.png", parse_networks(["10.9.0.0/16"]))
    assert caught.value.field == "image"
    if isinstance(caught.value, PrivateAddress):
        assert "AVATARMOD_PRIVATE_NETWORKS" in str(caught.value)


def test_an_allowed_network_may_be_named() -> None:
    """With and without TLS; the other private networks stay closed."""
    allowed = parse_networks(["10.9.0.0/16", "127.0.0.0/8"])
    for url in ("http://10.9.1.1/a", "https://10.9.1.1/a", "http://localhost:8000/a"):
        assert check_image_reference(url, allowed) == url
    with pytest.raises(PrivateAddress):
        check_image_reference("http://10.8.1.1/a", allowed)


def test_plain_http_is_for_allowed_networks() -> None:
    """Nowhere without one; with one a name may lie there, a public address cannot."""
    allowed = parse_networks(["10.9.0.0/16"])
    for url, networks in (
        ("http://example.org/a.png", ()),
        ("http://1.1.1.1/a.png", ()),
        ("http://1.1.1.1/a.png", allowed),
    ):
        with pytest.raises(InsecureAddress, match="plain http; use https://"):
            check_image_reference(url, networks)
    assert check_image_reference("http://pictures.internal/a", allowed)


@given(
    st.from_regex(UPLOAD_ID_PATTERN, fullmatch=True),
    st.from_regex(UPLOAD_ID_PATTERN, fullmatch=True),
)
def test_every_id_has_one_name_of_its_own(one: str, other: str) -> None:
    """Never a path, never a hidden way up, never two ids under one name."""
    name = default_name(one)
    assert "/" not in name
    assert name not in ("", ".", "..")
    assert (name == default_name(other)) == (one == other)


@pytest.mark.parametrize(
    ("upload_id", "name"),
    [
        ("user-17", "user-17"),
        ("a/b", "a%2Fb"),
        ("../x", "..%2Fx"),
        ("a:b@c", "a%3Ab%40c"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "%2E%2E%2E"),
        ("a" * 200, "a" * 200),
        ("@" * 85, "%40" * 85),
        ("@" * 86, "~" + hashlib.sha256(b"@" * 86).hexdigest()),
    ],
)
def test_an_id_is_percent_encoded(upload_id: str, name: str) -> None:
    """As the web tier must name the file that it puts there."""
    assert default_name(upload_id) == name


class TestFolder:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        (tmp_path / "secret").write_bytes(b"secret")
        return folder

    @pytest.fixture
    def store(self, folder: Path) -> FolderStore:
        return FolderStore(folder, max_bytes=100)

    def test_what_is_put_is_fetched_and_removed(self, store: FolderStore, folder: Path) -> None:
        """Also under folders that are made on the way; no temporary file stays."""
        store.put("a/b/c.png", b"bytes")
        assert store.fetch("a/b/c.png") == b"bytes"
        store.put("a/b/c.png", b"others")
        assert store.fetch("a/b/c.png") == b"others"
        assert [path.name for path in (folder / "a/b").iterdir()] == ["c.png"]
        for _ in range(2):
            store.remove("a/b/c.png")
        with pytest.raises(ImageMissing):
            store.fetch("a/b/c.png")

    @pytest.mark.parametrize("name", ["..", ".", "../secret", "x/../../secret", "", "/etc/passwd"])
    def test_no_name_leads_out(self, store: FolderStore, name: str) -> None:
        """Neither for reading, nor for writing, nor for deleting."""
        for act in (
            lambda: store.fetch(name),
            lambda: store.put(name, b"x"),
            lambda: store.remove(name),
        ):
            with pytest.raises(ImageMissing):
                act()

    def test_no_symbolic_link_leads_out(self, store: FolderStore, folder: Path) -> None:
        """A link to a file or a folder outside is as good as missing; one inside is followed."""
        (folder / "out").symlink_to(folder.parent / "secret")
        (folder / "up").symlink_to(folder.parent)
        (folder / "loop").symlink_to(folder / "loop")
        (folder / "real").write_bytes(b"inside")
        (folder / "in").symlink_to(folder / "real")
        for name in ("out", "up/secret", "up/images/../secret", "loop"):
            with pytest.raises(ImageMissing):
                store.fetch(name)
        assert store.fetch("in") == b"inside"
        with pytest.raises(ImageMissing):
            store.put("out", b"overwritten")
        assert (folder.parent / "secret").read_bytes() == b"secret"

    def test_what_is_no_file_is_missing(self, store: FolderStore, folder: Path) -> None:
        """A folder, a pipe that nobody writes to, a name below a file; no descriptor leaks."""
        (folder / "folder").mkdir()
        os.mkfifo(folder / "pipe")
        (folder / "file").write_bytes(b"x")
        before = len(os.listdir("/proc/self/fd"))
        for name in ("folder", "pipe", "file/below", "n" * 300, "nothing"):
            with pytest.raises(ImageMissing):
                store.fetch(name)
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_file_over_the_limit_is_not_read(self, store: FolderStore, folder: Path) -> None:
        """At the limit it is, one byte above it is not; a huge sparse file costs no memory."""
        (folder / "fits").write_bytes(b"x" * 100)
        (folder / "over").write_bytes(b"x" * 101)
        with (folder / "huge").open("wb") as file:
            file.truncate(2**40)
        assert len(store.fetch("fits")) == 100
        for name in ("over", "huge"):
            with pytest.raises(ImageTooLarge, match="more than 100 bytes"):
                store.fetch(name)

    def test_a_folder_that_cannot_be_written_is_a_passing_trouble(
        self, store: FolderStore, folder: Path
    ) -> None:
        """A file where a folder should be: the caller hears of the store, not of Python."""
        (folder / "file").write_bytes(b"x")
        with pytest.raises(StorageUnavailable, match="cannot write 'file/below'"):
            store.put("file/below", b"x")
        with pytest.raises(StorageUnavailable, match="cannot delete 'file/below'"):
            store.remove("file/below")

    @pytest.mark.parametrize("wrong", ["does not exist", "is empty", "cannot be read"])
    def test_a_folder_that_is_not_what_it_should_be_is_no_uploads_fault(
        self, tmp_path: Path, wrong: str
    ) -> None:
        """Not mounted, or another one: an operator's to repair, never a missing picture."""
        folder = tmp_path / "mount"
        if wrong == "is empty":
            folder.mkdir()
        elif wrong == "cannot be read":
            folder.write_bytes(b"a file in its place")
        store = FolderStore(folder, max_bytes=10)
        for act in (store.check, lambda: store.fetch("a.png"), lambda: store.fetch("x/a.png")):
            with pytest.raises(StorageMisconfigured, match=wrong):
                act()
        if wrong == "is empty":
            (folder / "other.png").write_bytes(b"x")
            store.check()
            with pytest.raises(ImageMissing, match="no file"):
                store.fetch("a.png")

    @pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
    def test_a_file_without_the_right_to_read_it_is_no_uploads_fault(
        self, store: FolderStore, folder: Path
    ) -> None:
        """The web tier's umask is not a picture's fault."""
        (folder / "a").write_bytes(b"x")
        (folder / "a").chmod(0)
        with pytest.raises(StorageMisconfigured, match="may not be read by user"):
            store.fetch("a")

    def test_the_folder_itself_may_be_a_link(self, tmp_path: Path, folder: Path) -> None:
        """An operator may move the images to another disk."""
        (folder / "a").write_bytes(b"x")
        (tmp_path / "link").symlink_to(folder)
        assert FolderStore(tmp_path / "link", max_bytes=10).fetch("a") == b"x"
