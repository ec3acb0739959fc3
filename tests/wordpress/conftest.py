"""One WordPress for the folder, connected to a whole instance whose verdicts it is told."""

from __future__ import annotations

import base64
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.databases import mariadb
from tests.integration.web.conftest import Stack, run_stack
from tests.wordpress.site import SOURCE, Site, wordpress


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything here is of this tier, and shares one site."""
    for item in items:
        if item.nodeid.startswith("tests/wordpress/"):
            item.add_marker(pytest.mark.wordpress)


def lacking() -> str:
    """What is not installed, in words; empty where nothing is."""
    if not (SOURCE / "wp-load.php").exists():
        return "WordPress is not installed"
    if shutil.which("php") is None or shutil.which("mariadbd", path="/usr/sbin:/usr/bin") is None:
        return "php or MariaDB is not installed"
    modules = subprocess.run(["php", "-m"], capture_output=True, text=True, check=True).stdout
    missing = {"mysqli", "gd"} - set(modules.split())
    return f"php lacks {', '.join(sorted(missing))}" if missing else ""


@pytest.fixture(scope="session")
def secret() -> str:
    return "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()


@pytest.fixture(scope="session")
def unconnected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The site before it is connected."""
    if why := lacking():
        message = f"{why}; on Debian: apt-get install wordpress mariadb-server php-mysql php-gd"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with (
        mariadb(tmp_path_factory.mktemp("my")) as database,
        wordpress(tmp_path_factory.mktemp("site"), database) as site,
    ):
        yield site
        assert site.complaints() == []


@pytest.fixture(scope="session")
def service(
    tmp_path_factory: pytest.TempPathFactory, unconnected: Site, secret: str
) -> Iterator[Stack]:
    """The instance, which calls the site back."""
    with run_stack(
        tmp_path_factory.mktemp("service"),
        AVATARMOD_CALLBACK_URL=f"{unconnected.url}/index.php?rest_route=/avatarmod/v1/verdict",
        AVATARMOD_CALLBACK_SECRETS=secret,
        AVATARMOD_CALLBACK_SCHEDULE_S="1,1,2,2,4,60",
    ) as service:
        yield service


@pytest.fixture(scope="session")
def connection(service: Stack, secret: str) -> str:
    """The line to paste."""
    return f"http://{service.api_key}@{service.url.removeprefix('http://')}?secret={secret}"


@pytest.fixture
def site(unconnected: Site, connection: str) -> Iterator[Site]:
    """The site, connected."""
    unconnected.connect(connection)
    unconnected.permalinks("")
    yield unconnected
    assert unconnected.complaints() == []
