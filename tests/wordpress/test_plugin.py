"""The plugin on a real WordPress: from a picture that somebody chooses to what others see."""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from standardwebhooks import Webhook

from tests.integration.web.conftest import Stack
from tests.wordpress.site import Person, Site, all_hidden, eventually
from worker.demo.pictures import encode, landscape, transparent_badge


def gray(seed: int) -> bytes:
    """A picture that a moderator must look at, and that nobody else has."""
    with Image.open(io.BytesIO(transparent_badge())) as badge:
        badge.putpixel((100 + seed % 5, 100 + seed // 5), (0, 0, seed))
        return encode(badge, "PNG")


#: When somebody's picture is tried again.
NEXT_TRY = "return wp_next_scheduled('avatarmod_examine', array($given['id']));"


def harmless(seed: int) -> bytes:
    """A landscape that nobody else has."""
    return encode(landscape(seed), "PNG")


@pytest.fixture
def person(site: Site) -> Iterator[Person]:
    """Somebody new."""
    person = site.new_user()
    yield person
    person.close()


def decide(service: Stack, upload_id: str, verdict: str) -> dict[str, Any]:
    """What a moderator does."""
    with service.http() as http:
        answer = http.post(
            f"/v1/avatars/{upload_id}/decision", json={"verdict": verdict, "by": "ann"}
        )
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def has_state(site: Site, user_id: int, *states: str) -> bool:
    return site.record(user_id)["state"] in states


def wait_for(site: Site, user_id: int, *states: str) -> dict[str, Any]:
    """The record once it is in one of these states; WP-Cron is what WordPress makes of it."""
    eventually(lambda: has_state(site, user_id, *states), f"{states}: {site.record(user_id)}")
    return site.record(user_id)


def test_a_picture_waits_is_approved_and_is_shown(
    site: Site, service: Stack, person: Person
) -> None:
    """Upload, waiting, approve, shown; the profile page does not wait for the service."""
    assert site.is_default(person.id)
    person.upload(gray(1))
    assert site.is_default(person.id)
    record = wait_for(site, person.id, "held")
    assert record["upload_id"].startswith("wp-")
    assert site.is_default(person.id), "a moderator has not looked yet"
    assert "is being looked at" in person.page("/wp-admin/index.php")
    decide(service, record["upload_id"], "approved")
    wait_for(site, person.id, "approved")
    assert not site.is_default(person.id)
    picture = httpx.get(site.shown(person.id), trust_env=False)
    assert picture.headers["content-type"] == "image/png"
    assert "is being looked at" not in person.page("/wp-admin/index.php")


def test_a_blocked_picture_is_hidden_and_its_owner_is_told_why(site: Site, service: Stack) -> None:
    """In Chinese too; the file is served no longer; an overruled block brings it back."""
    person = site.new_user(locale="zh_CN")
    person.upload(gray(2))
    record = wait_for(site, person.id, "held")
    decide(service, record["upload_id"], "approved")
    wait_for(site, person.id, "approved")
    address = site.shown(person.id)
    assert httpx.get(address, trust_env=False).status_code == 200
    decide(service, record["upload_id"], "blocked")
    blocked = wait_for(site, person.id, "blocked")
    assert site.is_default(person.id)
    gone = httpx.get(address, follow_redirects=True, trust_env=False)
    assert "image" not in gone.headers["content-type"]
    page = person.page("/wp-admin/index.php")
    assert "您的头像未显示" in page
    assert blocked["reason"]
    assert blocked["reason"] in page
    (hidden,) = blocked["hidden"].values()
    kept = site.root / "wp-content/uploads/avatarmod-blocked"
    assert (kept / hidden).exists()
    assert "denied" in (kept / ".htaccess").read_text()
    decide(service, record["upload_id"], "approved")
    wait_for(site, person.id, "approved")
    assert site.shown(person.id) == address
    assert httpx.get(address, trust_env=False).status_code == 200
    person.close()


def test_the_same_picture_again_after_a_block_stays_hidden(site: Site, service: Stack) -> None:
    """Its bytes are what was blocked, whatever the file is called now."""
    person = site.new_user()
    person.upload(gray(3))
    record = wait_for(site, person.id, "held", "approved", "blocked")
    decide(service, record["upload_id"], "blocked")
    wait_for(site, person.id, "blocked")
    person.upload(gray(3))
    eventually(lambda: len(site.record(person.id)["hidden"]) == 2, "the new file is hidden, too")
    assert site.is_default(person.id)
    decide(service, record["upload_id"], "approved")
    person.close()


def test_an_old_picture_chosen_again_is_shown_at_once(
    site: Site, service: Stack, person: Person
) -> None:
    """The service knows it: its answer has the state, and nobody has to decide again."""
    first, second = harmless(11), harmless(12)
    shown = []
    for picture in (first, second, first):
        person.upload(picture)
        eventually(
            lambda: (
                has_state(site, person.id, "approved")
                and not site.is_default(person.id)
                and site.shown(person.id) not in shown
            ),
            f"shown: {site.record(person.id)}",
        )
        shown.append(site.shown(person.id))
    sent = {site.record(person.id)["upload_id"]}
    assert len(sent) == 1
    assert len(set(shown)) == 3, "each has a name of its own"


def test_a_handler_that_fails_hears_it_again(site: Site, service: Stack, person: Person) -> None:
    """What is shown follows at once; the verdict is remembered only after all have taken it."""
    plugins = site.root / "wp-content" / "mu-plugins"
    plugins.mkdir(exist_ok=True)
    (plugins / "handler.php").write_text(
        "<?php add_action('avatarmod_verdict', function ($data, $user_id) {"
        "  if (get_option('test_user') != $user_id) { return; }"
        "  $heard = get_option('test_heard', array()); $heard[] = $data['state'];"
        "  update_option('test_heard', $heard);"
        "  if (get_option('test_fails')) { update_option('test_fails', 0);"
        "    throw new RuntimeException('the forum is away'); }"
        "}, 10, 2);"
    )
    try:
        person.upload(gray(4))
        record = wait_for(site, person.id, "held", "approved")
        site.php(
            "update_option('test_user', $given['id']); update_option('test_fails', 1);"
            "return delete_option('test_heard');",
            id=person.id,
        )
        decide(service, record["upload_id"], "blocked")
        wait_for(site, person.id, "blocked")
        heard = "return get_option('test_heard', array());"
        eventually(lambda: site.php(heard) == ["blocked", "blocked"], "it is told once more")
        after = site.record(person.id)
        assert after["seq"] == after["shown_seq"]
        told = site.php("return Avatarmod\\Settings::noted('handler_error');")
        assert told == "the forum is away"
        time.sleep(3)
        assert site.php(heard) == ["blocked", "blocked"], "and not again after that"
        decide(service, record["upload_id"], "approved")
    finally:
        (plugins / "handler.php").unlink()


def test_while_the_service_is_away_pictures_wait_and_say_so(
    site: Site, connection: str, person: Person
) -> None:
    """A transient fault is seen in the list of users and tried again; then it is sent."""
    secret = connection.partition("?")[2]
    site.connect(f"http://avm_x@127.0.0.1:9?{secret}")
    started = time.monotonic()
    person.upload(harmless(21))
    assert time.monotonic() - started < 15, "nobody waits for it"
    eventually(lambda: site.record(person.id)["attempts"] == 1, "it was tried")
    record = site.record(person.id)
    assert record["state"] == "unsent"
    assert "127.0.0.1" in record["error"]
    assert site.is_default(person.id)
    next_try = site.php(NEXT_TRY, id=person.id)
    assert next_try - time.time() == pytest.approx(60, abs=20)
    assert site.php("return Avatarmod\\Settings::noted('fault');") is None
    admin = site.admin()
    assert "127.0.0.1" in admin.page("/wp-admin/users.php?avatarmod=unsent")
    site.connect(connection)
    admin.close()
    site.php("Avatarmod\\Sender::again($given['id']); return 1;", id=person.id)
    site.run_cron()
    wait_for(site, person.id, "approved")


def test_a_wrong_key_is_a_fault_that_the_administrator_sees(
    site: Site, connection: str, person: Person
) -> None:
    """Not tried every minute; said in the dashboard and in Site Health, until it works."""
    site.connect(connection.replace("avm_", "avm_0"))
    person.upload(harmless(22))
    eventually(lambda: site.record(person.id)["attempts"] == 1, "it was tried")
    next_try = site.php(NEXT_TRY, id=person.id)
    assert next_try - time.time() > 3000
    admin = site.admin()
    assert "HTTP 401" in admin.page("/wp-admin/index.php")
    assert "HTTP 401" not in person.page("/wp-admin/index.php")
    assert "HTTP 401" in site.php("return Avatarmod\\Health::problem();")
    site.connect(connection)
    site.php("Avatarmod\\Sender::again($given['id']); return 1;", id=person.id)
    site.run_cron()
    wait_for(site, person.id, "approved")
    assert "HTTP 401" not in admin.page("/wp-admin/index.php")
    admin.close()


def test_an_id_of_another_picture_is_said_and_not_tried_for_ever(
    site: Site, service: Stack, person: Person
) -> None:
    """The service refuses other bytes under a known id; only another picture of the owner helps."""
    mine, somebody = harmless(23), site.new_user()
    somebody.upload(mine)
    known = wait_for(site, somebody.id, "approved")["upload_id"]
    somebody.close()
    upload_id = known.replace(f"user-{somebody.id}/", f"user-{person.id}/")
    with service.http() as http:
        files = {"image": ("x", harmless(24))}
        other = {"upload_id": upload_id, "callback_url": "none"}
        assert http.post("/v1/uploads", data=other, files=files).is_success
    person.upload(mine)
    eventually(lambda: "Save it anew" in site.record(person.id)["reason"], "it is refused")
    site.run_cron()
    record = site.record(person.id)
    assert (record["state"], record["upload_id"]) == ("rejected", "")
    assert not site.php(NEXT_TRY, id=person.id)
    assert site.is_default(person.id)
    assert "Save it anew" in person.page("/wp-admin/index.php")
    person.upload(harmless(25))
    wait_for(site, person.id, "approved")


@pytest.mark.parametrize("structure", ["", "/%postname%/"], ids=["plain", "pretty"])
def test_the_address_of_verdicts_works_with_every_kind_of_permalink(
    site: Site, secret: str, structure: str
) -> None:
    """What the settings page shows can be called as it is; a ping comes back."""
    site.permalinks(structure)
    url = site.php("return Avatarmod\\Settings::callback_url();")
    assert ("rest_route" in url) == (structure == "")
    answer = call(url, secret, {"type": "avatar.ping", "data": {"nonce": "n0nce"}})
    assert answer.status_code == 200
    assert "n0nce" in answer.text
    assert answer.headers["avatarmod-receiver"] == "wordpress"
    assert "html" not in answer.headers["content-type"]


def call(
    url: str, secret: str, event: dict[str, Any], *, age_s: int = 0, text: str = ""
) -> httpx.Response:
    """A callback as the service signs it."""
    body, now = json.dumps(event), int(time.time()) - age_s
    signature = Webhook(secret).sign("msg_1", datetime.fromtimestamp(now, UTC), body)
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(now),
        "webhook-signature": signature,
        "content-type": "application/json",
    }
    return httpx.post(url, content=text or body, headers=headers, timeout=60, trust_env=False)


def test_only_the_service_is_believed(site: Site, secret: str, person: Person) -> None:
    """Wrong secret, old, altered; ids of others, older numbers, unknown types change nothing."""
    url = site.php("return Avatarmod\\Settings::callback_url();")
    person.upload(harmless(31))
    record = wait_for(site, person.id, "approved")
    data = {"upload_id": record["upload_id"], "state": "blocked", "seq": record["seq"] + 1}
    event = {"type": "avatar.moderated", "data": data}
    other = "whsec_" + base64.b64encode(b"x" * 32).decode()
    assert call(url, other, event).status_code == 401
    assert call(url, secret, event, age_s=400).status_code == 401
    altered = json.dumps({**event, "more": 1})
    assert call(url, secret, event, text=altered).status_code == 401
    assert httpx.post(url, json=event, trust_env=False).status_code == 401
    for changed in (
        {"upload_id": "demo/17"},
        {"upload_id": record["upload_id"].replace("wp-", "wp-0")},
        {"upload_id": record["upload_id"][:-40] + "0" * 40},
        {"seq": record["seq"]},
        {"seq": record["seq"] - 1},
    ):
        answer = call(url, secret, {**event, "data": {**data, **changed}})
        assert answer.status_code == 200, changed
    assert call(url, secret, {"type": "avatar.imagined", "data": data}).status_code == 200
    assert call(url, secret, {"type": "avatar.moderated"}).status_code == 200
    assert site.record(person.id) == record
    assert call(url, secret, event).status_code == 200
    assert site.record(person.id)["state"] == "blocked"


def test_no_hash_of_an_address_leaves_the_site(site: Site, person: Person) -> None:
    """Neither in pages nor for comments of strangers nor in the list of defaults."""
    admin = site.admin()
    for path in (
        "/wp-admin/users.php",
        "/wp-admin/profile.php",
        "/wp-admin/options-discussion.php",
    ):
        assert "gravatar.com" not in admin.page(path), path
    admin.close()
    shown = site.php(
        "$id = wp_insert_comment(array('comment_post_ID' => 1, 'comment_content' => 'x',"
        "'comment_author_email' => 'stranger@example.org', 'comment_approved' => 1));"
        "return array(get_avatar(get_comment($id)), get_avatar('stranger@example.org'));"
    )
    assert all("default-avatar.svg" in text and "gravatar" not in text for text in shown)
    assert "default-avatar.svg" in site.visit(1)


def test_the_list_of_users_has_a_column_and_filters(site: Site, person: Person) -> None:
    """How many are in which state, and only those."""
    person.upload(harmless(41))
    wait_for(site, person.id, "approved")
    admin = site.admin()
    page = admin.page("/wp-admin/users.php?avatarmod=approved")
    assert 'class="current"' in page
    assert f">{person.name}<" in page
    assert ">approved" in page
    other = admin.page("/wp-admin/users.php?avatarmod=rejected")
    assert f">{person.name}<" not in other
    admin.close()


def test_settings_want_their_nonce_and_the_right_to_manage(
    site: Site, connection: str, person: Person
) -> None:
    """One line to paste, a test, a status; the secret is not shown again."""
    admin = site.admin()
    path = "/wp-admin/options-general.php?page=avatarmod"
    page = admin.page(path)
    assert connection.partition("@")[0] not in page
    assert "rest_route=/avatarmod/v1/verdict" in page
    form = all_hidden(page[page.index("options.php") : page.index("</form>")])
    bad = admin.http.post(
        "/wp-admin/options.php", data={**form, "avatarmod[connection]": "https://nothing"}
    )
    assert "This is no connection" in bad.text
    assert site.php("return Avatarmod\\Settings::connection();") == connection
    good = {**form, "avatarmod[connection]": connection, "avatarmod[own_field]": "1"}
    assert admin.http.post("/wp-admin/options.php", data=good).status_code == 200
    assert (
        admin.http.post("/wp-admin/options.php", data={**good, "_wpnonce": "x"}).status_code == 403
    )
    button = page[page.index("avatarmod_test") :]
    tried = admin.http.post("/wp-admin/admin-post.php", data=form_of(button))
    assert "The service answers" in tried.text
    assert (
        admin.http.post("/wp-admin/admin-post.php", data={"action": "avatarmod_test"}).status_code
        == 403
    )
    assert person.http.get(path).status_code == 403
    refused = person.http.post("/wp-admin/admin-post.php", data=form_of(button))
    assert refused.status_code == 403
    admin.close()


def form_of(button: str) -> dict[str, str]:
    """The hidden fields of the form that a button is in."""
    return {"action": "avatarmod_test"} | all_hidden(button[: button.index("</form>")])


def test_a_profile_form_without_its_nonce_changes_nothing(site: Site, person: Person) -> None:
    """Nor does a picture that is none, which is said."""
    text = person.upload(harmless(51), avatarmod_nonce="0")
    assert (
        site.php("return get_user_meta($given['id'], 'avatarmod_upload', true);", id=person.id)
        == ""
    )
    text = person.upload(b"<?php no picture")
    assert "avatarmod" in text or "file type" in text
    assert (
        site.php("return get_user_meta($given['id'], 'avatarmod_upload', true);", id=person.id)
        == ""
    )
    uploads = site.root / "wp-content" / "uploads"
    assert not [p for p in uploads.rglob("*.php") if p.name != "index.php"]


def test_avatars_from_before_are_sent_a_page_at_a_time(site: Site, service: Stack) -> None:
    """What `wp avatarmod send` and the button do; kept in sight meanwhile where that is wished."""
    person = site.new_user()
    name = "old-avatar.png"
    uploads = site.root / "wp-content" / "uploads"
    (uploads / name).write_bytes(gray(5))
    os.utime(uploads / name, (1_700_000_000, 1_700_000_000))
    plugins = site.root / "wp-content" / "mu-plugins"
    plugins.mkdir(exist_ok=True)
    # Another plugin, which keeps pictures in its own way and answers the core's filter.
    (plugins / "other.php").write_text(
        "<?php add_filter('pre_get_avatar_data', function ($args, $who) {"
        f"  if ($who == {person.id}) {{ $args['url'] = content_url('uploads/{name}'); }}"
        "  return $args; }, 10, 2);"
    )
    try:
        keep = "$new = array('keep_existing' => $given['on']) + get_option('avatarmod');"
        keep += "update_option('avatarmod', $new); return 1;"
        site.php(keep, on=False)
        assert site.is_default(person.id)
        site.php(keep, on=True)
        assert site.shown(person.id).endswith(name)
        site.php(
            "Avatarmod\\Schedule::look_at_all();"
            "while (Avatarmod\\Schedule::look_at_more()) {} return 1;"
        )
        record = wait_for(site, person.id, "held")
        assert site.shown(person.id).endswith(name), "it was there before"
        site.php(keep, on=False)
        assert site.is_default(person.id)
        decide(service, record["upload_id"], "approved")
        wait_for(site, person.id, "approved")
        assert site.shown(person.id).endswith(name)
        # Other bytes under the same name are another picture.
        site.php(keep, on=True)
        (uploads / name).write_bytes(gray(6))
        assert site.is_default(person.id)
        # Anybody may call a file as WordPress calls its copies.
        (uploads / name).write_bytes(gray(5))
        site.php("Avatarmod\\Sender::examine($given['id']); return 1;", id=person.id)
        assert site.shown(person.id).endswith(name)
        (uploads / "old-avatar-96x96.png").write_bytes(gray(7))
        text = (plugins / "other.php").read_text().replace(name, "old-avatar-96x96.png")
        (plugins / "other.php").write_text(text)
        assert site.is_default(person.id)
    finally:
        (plugins / "other.php").unlink()
        site.php(keep, on=False)
        person.close()


def test_verdicts_that_no_callback_brought_are_asked_for(
    site: Site, service: Stack, person: Person
) -> None:
    """Every few minutes, from where it was read last; a cursor that is too old begins again."""
    plugin = site.root / "wp-content/plugins/avatarmod/includes/class-receiver.php"
    text = plugin.read_text()
    # Not by itself meanwhile: the next turn is an hour away.
    site.php(
        "wp_unschedule_hook('avatarmod_tick');"
        "return wp_schedule_event(time() + 3600, 'avatarmod', 'avatarmod_tick');"
    )
    # As a firewall in front of the site would.
    plugin.write_text(text.replace("return $holds ?", "return false ?"))
    try:
        person.upload(gray(8))
        eventually(lambda: site.record(person.id)["upload_id"], "it was sent")
        upload_id = site.record(person.id)["upload_id"]
        with service.http() as http:
            http.get(f"/v1/avatars/{upload_id}?wait=30")
        decide(service, upload_id, "approved")
        assert site.is_default(person.id)
        news = site.php("return Avatarmod\\Reconciler::run();")
        assert news >= 1
        assert site.record(person.id)["state"] == "approved"
        assert site.php("return Avatarmod\\Reconciler::run();") == 0
        cursor = site.php("return Avatarmod\\Settings::noted('cursor');")
        decide(service, upload_id, "blocked")
        site.php(
            "Avatarmod\\Settings::note('cursor', $given['old']); return 1;",
            old="0" * 16 + cursor[cursor.index(".") :],
        )
        assert site.php("return Avatarmod\\Reconciler::run();") >= 1
        assert site.record(person.id)["state"] == "blocked"
    finally:
        plugin.write_text(text)


def test_the_commands_of_wp_cli_say_what_they_did(site: Site, person: Person) -> None:
    """WP-CLI is not among Debian's packages: what is called of it is stood in for."""
    said = site.php(
        "class WP_CLI { public static $said = array();"
        " static function log($t) { self::$said[] = $t; }"
        ' static function success($t) { self::$said[] = "Success: $t"; }'
        " static function error($t) { throw new RuntimeException($t); } }"
        "$cli = new Avatarmod\\Cli(); $cli->test(); $cli->send(); $cli->reconcile();"
        "return WP_CLI::$said;"
    )
    assert said[0].startswith("Success: The service answers")
    assert any(line.startswith("Users looked at: ") for line in said)
    assert any(line.startswith("Connection: http://127.0.0.1") for line in said)
    assert "Verdicts taken over" in said[-1]


def test_uninstalling_leaves_nothing_behind(site: Site, connection: str, person: Person) -> None:
    """No options, no records, no files, no events."""
    person.upload(harmless(71))
    record = wait_for(site, person.id, "approved")
    assert record["stamp"]
    file = site.root / "wp-content" / "uploads" / record["stamp"].partition("|")[0]
    assert file.exists()
    left = site.php(
        "define('WP_UNINSTALL_PLUGIN', 'avatarmod/avatarmod.php');"
        "require WP_PLUGIN_DIR . '/avatarmod/uninstall.php'; global $wpdb;"
        "$sql = \"SELECT COUNT(*) FROM $wpdb->options WHERE option_name LIKE 'avatarmod%'\";"
        "$meta = \"SELECT COUNT(*) FROM $wpdb->usermeta WHERE meta_key LIKE 'avatarmod%'\";"
        "return array((int) $wpdb->get_var($sql), (int) $wpdb->get_var($meta),"
        "wp_next_scheduled('avatarmod_tick'));"
    )
    assert left == [0, 0, False]
    assert not file.exists()
    assert not Path(site.root / "wp-content/uploads/avatarmod-blocked").exists()
