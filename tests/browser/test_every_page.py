"""Every page as people meet it: in both languages, light and dark, on a desk and on a phone."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Open, shoot
from tests.browser.test_console import PAGES, life, store_of, upload
from tests.integration.web.conftest import Stack
from worker.demo.pictures import cartoon_face, encode

__all__ = ["life"]

pytestmark = pytest.mark.browser

#: Violations of these grades fail; the rest is advice.
SERIOUS = {"serious", "critical"}

#: Ways in which every page is met: language, colours, width of the window in pixels.
WAYS = [("en-GB", "light", 1280), ("en-GB", "dark", 390), ("zh-CN", "light", 390)]
WAYS += [("zh-CN", "dark", 1280)]

#: A perceptual hash that nothing is near to.
HASH = "5a" * 32


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The script of axe-core, fetched by npm for the tests alone."""
    folder = tmp_path_factory.mktemp("axe")
    command = ["npm", "install", "--silent", "--no-save", "--prefix", str(folder), "axe-core@4"]
    try:
        subprocess.run(command, check=True, timeout=120, capture_output=True)
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"axe-core cannot be installed by npm: {type(error).__name__}")
    return Path(folder, "node_modules/axe-core/axe.min.js").read_text()


@pytest.fixture(scope="session")
def person(stack: Stack, life: None) -> str:
    """The name that the records have somebody under who sent three pictures."""
    for number in range(3):
        data = encode(cartoon_face(200 + number), "PNG")
        upload(stack, f"site-b/face-{number}", data, subject="user-4711")
    return store_of(stack).subjects.name_of("user-4711")


@pytest.mark.parametrize(("locale", "scheme", "width"), WAYS)
def test_nothing_is_hard_to_read_or_to_reach(
    open_page: Open, stack: Stack, person: str, axe: str, locale: str, scheme: str, width: int
) -> None:
    """No serious or critical violation by axe, no page wider than its window."""
    found: dict[str, list[str]] = {}
    own = ["/uploads/site-a%2Fbadge-7", f"/people/{person}", f"/look-alikes?hash={HASH}"]
    looks: dict[str, Any] = {
        "locale": locale,
        "color_scheme": scheme,
        "viewport": {"width": width, "height": 844},
        # For the injected axe alone; other tests run under the policy.
        "bypass_csp": True,
    }
    for signed_in, paths in ((False, ["/sign-in"]), (True, [*PAGES, *own])):
        page = open_page(signed_in=signed_in, **looks)
        for path in paths:
            page.goto("/console" + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            page.evaluate(axe)
            result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            found[path] = [
                f"{v['id']}: {v['help']} {v['nodes'][0]['html'][:120]}"
                for v in result["violations"]
                if v["impact"] in SERIOUS
            ]
            name = path.strip("/").partition("?")[0].partition("/")[0] or "overview"
            name += "-one" if path.startswith("/uploads/") else ""
            shoot(page, f"every/{locale}-{scheme}-{width}-{name}")
    assert {path: problems for path, problems in found.items() if problems} == {}
