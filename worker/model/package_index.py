"""Where the package index keeps a wheel, asked as pip would ask it.

Source: PEP 503 and PEP 691 (the simple API as HTML and as JSON).
"""

from __future__ import annotations

import html.parser
import os
import re
import subprocess
import sys
from urllib.parse import urldefrag, urljoin

import httpx

from producer.errors import BundleError
from worker.model.recipes import WheelSource

PYPI = "https://pypi.org/simple"

_ACCEPT = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"


def index_urls() -> list[str]:
    """The indexes that pip is configured to use: environment first, then its files, then PyPI."""
    first = os.environ.get("PIP_INDEX_URL") or _pip_setting("index-url") or PYPI
    more = os.environ.get("PIP_EXTRA_INDEX_URL") or _pip_setting("extra-index-url")
    return [url for url in (first, *more.split()) if url.startswith(("https://", "http://"))]


def find_wheel(client: httpx.Client, source: WheelSource) -> str:
    """Return the address of a wheel.

    Raises:
        BundleError: no index has it or can be reached; the message says what to set.
    """
    name = re.sub(r"[-_.]+", "-", source.package).lower()
    problems = []
    for index in index_urls():
        page = f"{index.rstrip('/')}/{name}/"
        host = httpx.URL(page).host
        try:
            answer = client.get(page, headers={"accept": _ACCEPT})
            answer.raise_for_status()
        except httpx.HTTPStatusError as error:
            problems.append(f"{host} answered {error.response.status_code}")
            continue
        except httpx.HTTPError as error:
            problems.append(f"{host} cannot be reached ({type(error).__name__})")
            continue
        found = _links(answer).get(source.wheel)
        if found:
            return urljoin(str(answer.url), urldefrag(found).url)
        problems.append(f"{host} has no {source.wheel}")
    raise BundleError(
        f"{'; '.join(problems)}; set PIP_INDEX_URL to an index that has {source.package}"
    )


def _links(answer: httpx.Response) -> dict[str, str]:
    if "json" in answer.headers.get("content-type", ""):
        return {file["filename"]: file["url"] for file in answer.json()["files"]}
    parser = _Anchors()
    parser.feed(answer.text)
    return parser.found


class _Anchors(html.parser.HTMLParser):
    """File name -> address, of a page of anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._href = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self._href = dict(attrs).get("href") or ""

    def handle_data(self, data: str) -> None:
        if self._href and data.strip():
            self.found[data.strip()] = self._href


def _pip_setting(name: str) -> str:
    """What pip's own files say; empty where pip is absent or silent."""
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return " ".join(done.stdout.split()) if done.returncode == 0 else ""
