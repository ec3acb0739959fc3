"""A real WordPress of Debian's package on a MariaDB, served by php, and how people use it."""

from __future__ import annotations

import contextlib
import html
import json
import os
import re
import shutil
import signal
import subprocess
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from scripts.make_wordpress_plugin import build
from tests.databases import MariaDb, free_port

HERE = Path(__file__).parent

#: Where Debian's package puts it.
SOURCE = Path("/usr/share/wordpress")

CONFIG = """<?php
define( 'DB_NAME', 'avatarmod' );
define( 'DB_USER', 'root' );
define( 'DB_PASSWORD', '' );
define( 'DB_HOST', 'localhost:{socket}' );
define( 'DB_CHARSET', 'utf8mb4' );
define( 'WP_HOME', '{url}' );
define( 'WP_SITEURL', '{url}' );
define( 'WP_DEBUG', true );
define( 'WP_DEBUG_DISPLAY', false );
define( 'WP_DEBUG_LOG', '{log}' );
// Nothing here may depend on wordpress.org.
define( 'WP_HTTP_BLOCK_EXTERNAL', true );
define( 'WP_ACCESSIBLE_HOSTS', '127.0.0.1' );
foreach ( array( 'AUTH_KEY', 'SECURE_AUTH_KEY', 'LOGGED_IN_KEY', 'NONCE_KEY', 'AUTH_SALT',
    'SECURE_AUTH_SALT', 'LOGGED_IN_SALT', 'NONCE_SALT' ) as $name ) {{
    define( $name, 'only for tests ' . $name );
}}
$table_prefix = 'wp_';
require_once ABSPATH . 'wp-settings.php';
"""


class Site:
    """One WordPress with the plugin active."""

    def __init__(self, root: Path, port: int) -> None:
        self.root = root
        self.url = f"http://127.0.0.1:{port}"
        self.log = root.parent / "debug.log"
        self._made = 0

    # -- inside ----------------------------------------------------------------------------------

    def php(self, code: str, **given: Any) -> Any:
        """What a piece of code returns that runs inside WordPress; it finds `given` in `$given`."""
        done = subprocess.run(
            ["php", str(HERE / "run.php"), str(self.root), self.url, code, json.dumps(given)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        _, mark, answer = done.stdout.partition("\n--answer--\n")
        assert mark, done.stdout + done.stderr
        return json.loads(answer)

    def connect(self, connection: str) -> None:
        """As the settings page does."""
        self.php(
            "$now = get_option('avatarmod', array()) ?: array();"
            "update_option('avatarmod', array('connection' => $given['to']) + $now);"
            "return add_option('avatarmod_connected_at', time());",
            to=connection,
        )

    def permalinks(self, structure: str) -> None:
        """Pretty ones by a structure, plain ones where it is empty."""
        code = "global $wp_rewrite; $wp_rewrite->set_permalink_structure($given['to']);"
        self.php(code + "flush_rewrite_rules(false); return 1;", to=structure)

    def new_user(self, role: str = "subscriber", locale: str = "") -> Person:
        """Somebody who is signed in."""
        self._made += 1
        name = f"user{self._made}"
        user_id = self.php(
            "$id = wp_insert_user(array('user_login' => $given['name'], 'user_pass' => 'secret',"
            "'user_email' => $given['name'] . '@example.org', 'role' => $given['role'],"
            "'locale' => $given['locale'])); return $id;",
            name=name,
            role=role,
            locale=locale,
        )
        return Person(self, int(user_id), name)

    def admin(self) -> Person:
        """The administrator, signed in."""
        return Person(self, 1, "admin")

    def run_cron(self) -> None:
        """What a system cron job does."""
        httpx.get(f"{self.url}/wp-cron.php?doing_wp_cron", timeout=120, trust_env=False)

    # -- how it stands ---------------------------------------------------------------------------

    def record(self, user_id: int) -> dict[str, Any]:
        """What the plugin knows of somebody's picture."""
        return dict(self.php("return (array) Avatarmod\\Record::of($given['id']);", id=user_id))

    def shown(self, user_id: int) -> str:
        """The address of the avatar that others see."""
        return str(
            self.php("return get_avatar_url($given['id'], array('size' => 96));", id=user_id)
        )

    def is_default(self, user_id: int) -> bool:
        """Whether others see the default avatar."""
        return self.shown(user_id).endswith("/assets/default-avatar.svg")

    def visit(self, user_id: int) -> str:
        """The address that the avatar of an author has in the site's own REST API."""
        answer = httpx.get(
            f"{self.url}/index.php?rest_route=/wp/v2/users/{user_id}", trust_env=False
        )
        return str(answer.json()["avatar_urls"]["96"])

    def complaints(self) -> list[str]:
        """What PHP complained of in the plugin since the last look."""
        text = self.log.read_text() if self.log.exists() else ""
        self.log.unlink(missing_ok=True)
        return [line for line in text.splitlines() if "PHP" in line and "avatarmod" in line]


class Person:
    """A signed-in browser."""

    def __init__(self, site: Site, user_id: int, name: str) -> None:
        self.site, self.id, self.name = site, user_id, name
        self.http = httpx.Client(
            base_url=site.url, timeout=60, follow_redirects=True, trust_env=False
        )
        form = {"log": name, "pwd": "secret", "testcookie": "1", "redirect_to": ""}
        self.http.cookies.set("wordpress_test_cookie", "WP Cookie check", domain="127.0.0.1")
        answer = self.http.post("/wp-login.php", data=form)
        assert any(name.startswith("wordpress_logged_in") for name in self.http.cookies), (
            answer.text
        )

    def page(self, path: str) -> str:
        """A page's HTML."""
        answer = self.http.get(path)
        assert answer.status_code == 200, answer.text[-2000:]
        return answer.text

    def upload(self, picture: bytes | None, **fields: str) -> str:
        """Choose a picture on the profile page; returns the page that follows."""
        text = self.page("/wp-admin/profile.php")
        form = {**hidden_fields(text, "your-profile"), **fields}
        form |= {"nickname": self.name, "email": f"{self.name}@example.org", "action": "update"}
        files = {"avatarmod_file": ("me.png", picture, "image/png")} if picture else None
        answer = self.http.post("/wp-admin/profile.php", data=form, files=files)
        assert answer.status_code == 200
        return answer.text

    def close(self) -> None:
        """Close the browser."""
        self.http.close()


def hidden_fields(text: str, form_id: str) -> dict[str, str]:
    """Names and values of a form's hidden fields."""
    found = re.search(rf'<form[^>]*id="{form_id}".*?</form>', text, re.DOTALL)
    assert found, text[-3000:]
    return all_hidden(found[0])


def all_hidden(form: str) -> dict[str, str]:
    """The same of a form's HTML."""
    fields = {}
    for tag in re.findall(r"<input[^>]*type=[\"']hidden[\"'][^>]*>", form):
        attributes = dict(re.findall(r"(\w+)=[\"']([^\"']*)[\"']", tag))
        fields[attributes.get("name", "")] = html.unescape(attributes.get("value", ""))
    return fields


def eventually(condition: Callable[[], object], what: str, timeout_s: float = 40) -> None:
    """Wait for something that must come."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.3)


@contextlib.contextmanager
def wordpress(folder: Path, database: MariaDb) -> Iterator[Site]:
    """A fresh site with the packed plugin, not connected yet."""
    root, port = folder / "wordpress", free_port()
    shutil.copytree(SOURCE, root, ignore=shutil.ignore_patterns("wp-content", "wp-config.php"))
    plugins = root / "wp-content" / "plugins"
    plugins.mkdir(parents=True)
    with zipfile.ZipFile(build(folder / "avatarmod.zip")) as archive:
        archive.extractall(plugins)
    site = Site(root, port)
    config = CONFIG.format(socket=database.socket, url=site.url, log=site.log)
    (root / "wp-config.php").write_text(config)
    command = ["php", str(HERE / "install.php"), str(root), site.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.endswith("ok"), done.stdout + done.stderr
    router = str(HERE / "router.php")
    with (folder / "php.log").open("wb") as log:
        server = subprocess.Popen(
            # Without a cache, which sees a changed file seconds later.
            ["php", "-d", "opcache.enable=0", "-S", f"127.0.0.1:{port}", "-t", str(root), router],
            env={**os.environ, "PHP_CLI_SERVER_WORKERS": "6"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        eventually(lambda: is_up(site.url), "php serves WordPress")
        yield site
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def is_up(url: str) -> bool:
    """Whether somebody answers."""
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/wp-login.php", trust_env=False, timeout=30).status_code == 200
    return False
