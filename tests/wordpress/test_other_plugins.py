"""Beside the plugins that sites keep avatars with; where TEST_PLUGINS_FOLDER has them.

They are not among Debian's packages, so CI has them not: name a folder that holds their folders
`simple-local-avatars` and `buddypress`, as wordpress.org packs them.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.web.conftest import Stack
from tests.wordpress.site import Person, Site, all_hidden
from tests.wordpress.test_plugin import decide, gray, harmless, wait_for


@contextlib.contextmanager
def active(site: Site, name: str, main: str) -> Iterator[None]:
    """Another plugin, installed and active meanwhile."""
    folder = os.environ.get("TEST_PLUGINS_FOLDER", "")
    if not (Path(folder) / name).is_dir() or not folder:
        pytest.skip(f"TEST_PLUGINS_FOLDER has no folder {name}")
    target = site.root / "wp-content" / "plugins" / name
    shutil.copytree(Path(folder) / name, target)
    load = "require_once ABSPATH . 'wp-admin/includes/plugin.php';"
    try:
        error = site.php(
            load + "$e = activate_plugin($given['p']); return is_wp_error($e) ? $e : null;",
            p=f"{name}/{main}",
        )
        assert error is None
        yield
    finally:
        site.php(load + "deactivate_plugins(array($given['p'])); return 1;", p=f"{name}/{main}")
        shutil.rmtree(target)


def test_simple_local_avatars(site: Site, service: Stack) -> None:
    """Its own field, its sizes, its hooks: waiting, shown, blocked in all sizes, removed."""
    with active(site, "simple-local-avatars", "simple-local-avatars.php"):
        person = site.new_user("author")
        page = person.page("/wp-admin/profile.php")
        form = all_hidden(page[page.index('id="your-profile"') :])
        form |= {"nickname": person.name, "email": f"{person.name}@example.org", "action": "update"}
        answer = person.http.post(
            "/wp-admin/profile.php",
            data=form,
            files={"simple-local-avatar": ("me.png", gray(31), "image/png")},
        )
        assert answer.status_code == 200
        record = wait_for(site, person.id, "held")
        assert site.is_default(person.id)
        decide(service, record["upload_id"], "approved")
        wait_for(site, person.id, "approved")
        small = site.php("return get_avatar_url($given['id'], array('size' => 48));", id=person.id)
        assert re.search(r"-48x48\.png$", small), "its own smaller copy"
        decide(service, record["upload_id"], "blocked")
        blocked = wait_for(site, person.id, "blocked")
        assert site.is_default(person.id)
        assert len(blocked["hidden"]) >= 2, blocked
        assert not list((site.root / "wp-content" / "uploads").rglob("*-48x48.png"))
        person.close()


def test_buddypress(site: Site, service: Stack) -> None:
    """Its two sizes in a folder for each user, also where it shows them by itself."""
    with active(site, "buddypress", "bp-loader.php"):
        person = site.new_user()
        uploaded(site, person, gray(41))
        record = wait_for(site, person.id, "held")
        fetch = (
            "return array(bp_core_fetch_avatar(array('item_id' => $given['id'], 'html' => false)),"
            "bp_core_fetch_avatar(array('item_id' => $given['id'], 'type' => 'full')),"
            "get_avatar_url($given['id']));"
        )
        for shown in site.php(fetch, id=person.id):
            assert "default-avatar.svg" in shown
            assert "gravatar" not in shown
        decide(service, record["upload_id"], "approved")
        wait_for(site, person.id, "approved")
        thumb, full, core = site.php(fetch, id=person.id)
        assert thumb.endswith("-bpthumb.png")
        assert "-bpfull.png" in full
        assert "/avatars/" in core
        decide(service, record["upload_id"], "blocked")
        wait_for(site, person.id, "blocked")
        for shown in site.php(fetch, id=person.id):
            assert "default-avatar.svg" in shown
        folder = site.root / f"wp-content/uploads/avatars/{person.id}"
        assert not list(folder.glob("*.png"))
        uploaded(site, person, harmless(42))
        wait_for(site, person.id, "approved")
        assert site.php(fetch, id=person.id)[0].endswith("-bpthumb.png")
        person.close()


def uploaded(site: Site, person: Person, picture: bytes) -> None:
    """What BuddyPress does once somebody has cropped a picture."""
    folder = site.root / f"wp-content/uploads/avatars/{person.id}"
    folder.mkdir(parents=True, exist_ok=True)
    for size in ("bpfull", "bpthumb"):
        (folder / f"{len(picture)}-{size}.png").write_bytes(picture)
    site.php(
        "do_action('bp_members_avatar_uploaded', $given['id'], 'upload', array(), ''); return 1;",
        id=person.id,
    )
