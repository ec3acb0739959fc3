"""Headless browsers that paint files: a local page draws each one and posts its pixels back.

`Witnesses` starts the browsers that are installed, hands them one file after another and yields
what each of them showed. A browser that hangs or dies is replaced and gets the file once more.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import shutil
import signal
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

#: Seconds that a browser may take to open the page, and to paint one file.
_START_S, _FILE_S = 90.0, 60.0
#: Files that wait for the browsers at a time, so that both are busy.
_AHEAD = 24

_CHROMIUM_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--force-color-profile=srgb",
)
_FIREFOX_PREFERENCES: dict[str, bool | int | str] = {
    "gfx.color_management.mode": 1,
    "gfx.color_management.force_srgb": True,
    "app.normandy.enabled": False,
    "app.update.enabled": False,
    "browser.aboutwelcome.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.sessionstore.resume_from_crash": False,
    "browser.shell.checkDefaultBrowser": False,
    "browser.startup.homepage_override.mstone": "ignore",
    "datareporting.healthreport.uploadEnabled": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.ipc.processCount": 1,
    "extensions.update.enabled": False,
    "media.gmp-manager.updateEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "network.dns.disablePrefetch": True,
    "services.settings.server": "data:,#remote-settings-dummy/v1",
    "toolkit.startup.max_resumed_crashes": -1,
    "toolkit.telemetry.reportingpolicy.firstRun": False,
    "toolkit.telemetry.unified": False,
}

#: First bytes -> what a page would name the file's type. Source: WHATWG MIME Sniffing, 6.1.
_TYPES = (
    (0, b"\x89PNG", "image/png"),
    (0, b"\xff\xd8", "image/jpeg"),
    (0, b"GIF8", "image/gif"),
    (8, b"WEBP", "image/webp"),
    (0, b"BM", "image/bmp"),
    (4, b"ftyp", "image/avif"),
)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Painted:
    """One picture as a browser painted it.

    Attributes:
        pixels: (rows, columns, 4) RGBA, not premultiplied; smaller than the picture if that is big.
        width_px: the picture's natural width.
        height_px: its natural height.
        duration_s: of a frame; -1 for the still picture that an <img> shows.
    """

    pixels: Pixels
    width_px: int
    height_px: int
    duration_s: float


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What one browser made of one file; no pictures where it shows none."""

    browser: str
    pictures: list[Painted] = field(default_factory=list)
    error: str = ""
    animation_error: str = ""


def installed() -> dict[str, str]:
    """Names and programs of the browsers on this machine."""
    found = {
        "chromium": shutil.which("chromium") or shutil.which("chromium-browser"),
        "firefox": shutil.which("firefox-esr") or shutil.which("firefox"),
    }
    return {name: program for name, program in found.items() if program}


def media_type(data: bytes) -> str:
    """What the first bytes say; "" for nothing that browsers show."""
    return next((name for at, magic, name in _TYPES if data[at:].startswith(magic)), "")


class Witnesses:
    """The installed browsers and the page that they look at."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._files: dict[int, bytes] = {}
        self._numbers = 0
        self._folder = tempfile.TemporaryDirectory(prefix="witness-", ignore_cleanup_errors=True)
        url = f"http://127.0.0.1:{self._server.server_port}/page"
        self.browsers = {
            name: _Browser(name, program, f"{url}/{name}", Path(self._folder.name))
            for name, program in installed().items()
        }

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        for browser in self.browsers.values():
            browser.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        for browser in self.browsers.values():
            browser.stop()
        self._server.shutdown()
        self._server.server_close()
        self._folder.cleanup()

    def file(self, number: int) -> bytes:
        """A file that the page asks for."""
        return self._files.get(number, b"")

    def show(self, files: Iterable[bytes]) -> Iterator[tuple[bytes, list[Shown]]]:
        """Have every file painted by every browser; in order, read ahead by a few."""
        waiting: queue.Queue[int] = queue.Queue()
        for data in files:
            waiting.put(self._submit(data))
            if waiting.qsize() >= _AHEAD:
                yield self._collect(waiting.get())
        while not waiting.empty():
            yield self._collect(waiting.get())

    def _submit(self, data: bytes) -> int:
        self._numbers += 1
        self._files[self._numbers] = data
        for browser in self.browsers.values():
            task = {
                "number": self._numbers,
                "url": f"/file/{self._numbers}",
                "type": media_type(data),
            }
            browser.tasks.put(task)
        return self._numbers

    def _collect(self, number: int) -> tuple[bytes, list[Shown]]:
        shown = [browser.result(number) for browser in self.browsers.values()]
        return self._files.pop(number), shown


class _Browser:
    """One program, its queue of files and its answers."""

    def __init__(self, name: str, program: str, url: str, folder: Path) -> None:
        self.name = name
        self.tasks: queue.Queue[dict[str, Any]] = queue.Queue()
        self._program, self._url, self._folder = program, url, folder
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: dict[int, Shown] = {}
        self._changed = threading.Condition()
        self._under_way: dict[str, Any] | None = None
        self._since_s = 0.0
        self._restarts = 0

    def start(self) -> None:
        profile = self._folder / f"{self.name}-{self._restarts}"
        profile.mkdir()
        if self.name == "chromium":
            command = [*_CHROMIUM_FLAGS, f"--user-data-dir={profile}", self._url]
        else:
            lines = (
                f"user_pref({json.dumps(key)}, {json.dumps(value)});\n"
                for key, value in _FIREFOX_PREFERENCES.items()
            )
            (profile / "user.js").write_text("".join(lines))
            command = ["--headless", "--no-remote", "--profile", str(profile), self._url]
        self._since_s = time.monotonic() + _START_S - _FILE_S
        self._process = subprocess.Popen(
            [self._program, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": str(profile), "MOZ_CRASHREPORTER_DISABLE": "1"},
        )

    def stop(self) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None

    def next(self) -> dict[str, Any] | None:
        """The page asks for work; None after a while without any."""
        with self._changed:
            if self._under_way is not None:
                # The page was reloaded in the middle of a file: it gets it again.
                return self._under_way
        try:
            task = self.tasks.get(timeout=5.0)
        except queue.Empty:
            task = None
        with self._changed:
            self._under_way, self._since_s = task, time.monotonic()
        return task

    def answer(self, number: int, body: bytes) -> None:
        shown = _unpack(self.name, body)
        with self._changed:
            self._answers[number] = shown
            self._under_way, self._since_s = None, time.monotonic()
            self._changed.notify_all()

    def result(self, number: int) -> Shown:
        """Wait for one file's answer; replace the browser where none comes."""
        with self._changed:
            while number not in self._answers:
                self._changed.wait(1.0)
                dead = self._process is None or self._process.poll() is not None
                if dead or time.monotonic() - self._since_s > _FILE_S:
                    self._replace()
            return self._answers.pop(number)

    def _replace(self) -> None:
        task, self._under_way = self._under_way, None
        self._restarts += 1
        if self._restarts > 50:
            raise RuntimeError(f"{self.name} was started 50 times and shows nothing")
        self.stop()
        if task is not None and not task.get("again"):
            self._under_way = {**task, "again": True}
        elif task is not None:
            self._answers[task["number"]] = Shown(browser=self.name, error="hung twice")
        self.start()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that goes away in the middle is replaced by its owner."""


def _unpack(browser: str, body: bytes) -> Shown:
    (length,) = struct.unpack_from("<I", body)
    report = json.loads(body[4 : 4 + length])
    at = 4 + length
    pictures = []
    for picture in report["pictures"]:
        shape = (picture["rows"], picture["columns"], 4)
        count = shape[0] * shape[1] * 4
        pixels = np.frombuffer(body, np.uint8, count, offset=at).reshape(shape)
        at += count
        pictures.append(
            Painted(
                pixels=pixels,
                width_px=picture["width"],
                height_px=picture["height"],
                duration_s=picture["duration_s"],
            )
        )
    return Shown(
        browser=browser,
        pictures=pictures,
        error=report["error"],
        animation_error=report["animation_error"],
    )


@functools.cache
def _page() -> bytes:
    return (Path(__file__).parent / "page.html").read_bytes()


def _handler(witnesses: Witnesses) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            _, road, name, *_ = [*self.path.split("/"), "", ""]
            if road == "page":
                self._send(_page(), "text/html")
            elif road == "next":
                task = witnesses.browsers[name].next()
                self._send(json.dumps(task).encode(), "application/json")
            elif road == "file":
                data = witnesses.file(int(name))
                self._send(data, media_type(data) or "application/octet-stream")
            else:
                self.send_error(404)

        def do_POST(self) -> None:
            _, _, name, number = self.path.split("/")
            body = self.rfile.read(int(self.headers["Content-Length"]))
            witnesses.browsers[name].answer(int(number), body)
            self._send(b"", "text/plain")

        def _send(self, body: bytes, kind: str) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            with contextlib.suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler
