"""The plugin's commands in WP-CLI itself; where TEST_WPCLI_FOLDER has it.

It is not among Debian's packages, so CI has it not: name a folder that holds `php/boot-fs.php`,
as composer's `vendor/wp-cli/wp-cli` does.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.web.conftest import Stack
from tests.wordpress.site import Person, Site
from tests.wordpress.test_plugin import decide, gray, harmless, person, wait_for

__all__ = ["person"]

#: A command's arguments -> its exit code and what it said, without PHP's remarks on WordPress.
Run = Callable[..., tuple[int, str]]

NOWHERE = "http://avm_x@127.0.0.1:9?secret=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def wp(site: Site) -> Run:
    """`wp` in the site's folder."""
    folder = os.environ.get("TEST_WPCLI_FOLDER", "")
    if not folder or not (Path(folder) / "php" / "boot-fs.php").exists():
        pytest.skip("TEST_WPCLI_FOLDER names no folder of WP-CLI")

    def run(*arguments: str) -> tuple[int, str]:
        done = subprocess.run(
            ["php", f"{folder}/php/boot-fs.php", "--allow-root", f"--path={site.root}", *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        lines = (done.stdout + done.stderr).splitlines()
        return done.returncode, "\n".join(line for line in lines if "Deprecated" not in line)

    return run


@pytest.fixture
def away(site: Site, connection: str) -> Iterator[None]:
    """Nobody answers where the service should."""
    site.connect(NOWHERE)
    yield
    site.connect(connection)


def test_the_help_says_what_each_command_does(wp: Run) -> None:
    """Its description is a sentence, not a comment of PHP."""
    code, said = wp("help", "avatarmod")
    assert code == 0
    assert "  Avatars of users, and the service that looks at them." in said
    assert all(f"  {name} " in said for name in ("send", "reconcile", "status", "test"))
    assert "/**" not in said


def test_the_avatars_of_a_site_are_sent_and_shown(
    wp: Run, site: Site, service: Stack, person: Person
) -> None:
    """Test, send, decide, reconcile: as a site's owner does it in a shell."""
    assert wp("avatarmod", "test") == (
        0,
        "Success: The service answers, and the key may send pictures and read verdicts.",
    )
    person.upload(gray(81))
    code, said = wp("avatarmod", "send")
    assert code == 0, said
    assert "Users looked at: " in said
    record = wait_for(site, person.id, "held")
    decide(service, record["upload_id"], "approved")
    code, said = wp("avatarmod", "reconcile")
    assert code == 0, said
    assert "Verdicts taken over: " in said
    assert site.record(person.id)["state"] == "approved"
    code, said = wp("avatarmod", "status")
    assert code == 0
    assert "Avatar approved: " in said
    assert "Last test: The service answers" in said


@pytest.mark.usefixtures("away")
@pytest.mark.parametrize("command", ["test", "send", "reconcile"])
def test_a_service_that_does_not_answer_is_an_error(wp: Run, command: str) -> None:
    """So cron tells somebody; the status keeps what was said."""
    code, said = wp("avatarmod", command)
    assert code == 1
    assert "Error: Verdicts cannot be read: cURL error 7" in said
    assert "Success" not in said
    assert "Last test: Verdicts cannot be read" in wp("avatarmod", "status")[1]


def test_what_a_handler_does_not_take_is_an_error_until_it_takes_it(
    wp: Run, site: Site, service: Stack, person: Person
) -> None:
    """The page is read again, and the error is gone with it."""
    site.php("Avatarmod\\Settings::note('handler_error', 'the table is locked'); return 1;")
    assert "Errors: the table is locked" in wp("avatarmod", "status")[1]
    person.upload(harmless(82))
    wait_for(site, person.id, "approved")
    assert wp("avatarmod", "reconcile")[0] == 0
    assert "Errors" not in wp("avatarmod", "status")[1]
