"""A local server that speaks the hub's download protocol, for tests of the real client."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class HubServer:
    """Serves folders as repositories: resolve URLs, ETags, commit header, redirects, ranges.

    Large files (safetensors) are redirected to another path with `X-Linked-ETag`, as the hub does
    with what lies in its object store.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Path] = {}
        #: The one revision that every repository has, besides `main`.
        self.commit = COMMIT
        #: Changes the bytes on their way, to simulate damage.
        self.tamper: Callable[[str, bytes], bytes] = lambda path, data: data
        #: Ends a transfer of this file after so many bytes, once.
        self.cut_after: dict[str, int] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                outer._answer(self, body=False)

            def do_GET(self) -> None:
                outer._answer(self, body=True)

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler, *, body: bool) -> None:
        path = request.path.split("?")[0]
        self.requests.append((request.command, path, request.headers.get("Range")))
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/([^/]+))?(/tree/[^/]+)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/(resolve|store)/([^/]+)/(.+)", path)
        match = api or file
        if match is None or match.group(1) not in self.repositories:
            self._error(request, 401 if match is None else 404, "RepoNotFound")
            return
        folder = self.repositories[match.group(1)]
        revision = match.group(3)
        if revision not in (None, "main", self.commit):
            self._error(request, 404, "RevisionNotFound")
            return
        if api:
            self._api(request, match.group(1), folder, tree=bool(api.group(4)))
            return
        target = folder / match.group(4)
        if not target.is_file():
            self._error(request, 404, "EntryNotFound")
            return
        self._file(request, match, target, body=body)

    def _api(self, request: BaseHTTPRequestHandler, name: str, folder: Path, *, tree: bool) -> None:
        files = sorted(path.name for path in folder.iterdir())
        data: object = {
            "id": name,
            "sha": self.commit,
            "siblings": [{"rfilename": f} for f in files],
        }
        if tree:
            data = [
                {"type": "file", "path": f, "oid": "0" * 40, "size": (folder / f).stat().st_size}
                for f in files
            ]
        text = json.dumps(data).encode()
        self._head(request, 200, {"Content-Type": "application/json"}, len(text))
        request.wfile.write(text)

    def _file(
        self, request: BaseHTTPRequestHandler, match: re.Match[str], target: Path, *, body: bool
    ) -> None:
        name, kind, _, path = match.groups()
        data = target.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        headers = {
            "X-Repo-Commit": self.commit,
            "ETag": f'"{digest[:40]}"',
            "Accept-Ranges": "bytes",
        }
        if path.endswith(".safetensors"):
            headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            if kind == "resolve":
                headers["Location"] = f"{self.url}/{name}/store/{self.commit}/{path}"
                self._head(request, 302, headers, 0)
                return
        data = self.tamper(path, data)
        start = 0
        if wanted := request.headers.get("Range"):
            start = int(wanted.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        self._head(request, 206 if start else 200, headers, len(data) - start)
        if not body:
            return
        rest = data[start:]
        if path in self.cut_after:
            rest = rest[: self.cut_after.pop(path)]
            request.close_connection = True
        request.wfile.write(rest)

    def _error(self, request: BaseHTTPRequestHandler, status: int, code: str) -> None:
        self._head(request, status, {"X-Error-Code": code, "X-Error-Message": code}, 0)

    def _head(
        self, request: BaseHTTPRequestHandler, status: int, headers: dict[str, str], length: int
    ) -> None:
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(length))
        request.end_headers()
