"""Every HTML report in Debian's chromium: light, dark and narrow, without an error or a request."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from playwright.sync_api import Browser, ConsoleMessage

from producer.cli import cli
from producer.findings import Opinion
from producer.settings import Settings
from worker.demo.pictures import dunes, encode, landscape
from worker.ledger.database import write_transaction
from worker.ledger.rows import to_row
from worker.ledger.schema import events
from worker.ledger.writer import Ledger

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One file of each kind, made by the commands themselves."""
    home = tmp_path_factory.mktemp("home")
    dataset = home / "dataset"
    for name, picture in (("harmless", landscape), ("explicit", dunes)):
        (dataset / name).mkdir(parents=True)
        for number in range(24):
            (dataset / name / f"{number}.jpg").write_bytes(encode(picture(number), "JPEG"))
    images = home / "images"
    shutil.copytree(dataset / "harmless", images)
    fill_ledger(home)
    strict = home / "strict.toml"
    strict.write_text("[photo]\napprove_below = 0\n[drawn]\napprove_below = 0\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AVATARMOD_DATA_FOLDER", str(home))
        patch.setenv("AVATARMOD_FLAT_RULE", "false")
        commands = {
            "report": ["report"],
            "evaluation": ["evaluate", str(dataset)],
            "frontier": ["tune", str(dataset)],
            "what-if": ["tune", "ledger", "--what-if", str(strict)],
        }
        for name, command in commands.items():
            file = home / f"{name}.html"
            result = CliRunner().invoke(cli, [*command, "--html", str(file)])
            assert file.exists(), result.output
    return {name: home / f"{name}.html" for name in commands}


def fill_ledger(home: Path) -> None:
    """Six uploads, two of them gray and paid for, with a name that would be markup."""
    ledger = Ledger.open(Settings(data_folder=home))
    now = time.time() - 60
    opinion = Opinion(provider="tencent", decision="block", cost_yuan=0.0015)  # type: ignore[arg-type]
    rows = []
    for number in range(6):
        common = {"upload_id": f"<b>{number}", "kind": "transition", "created_at": str(now)}
        gray = number < 2
        detail = (
            f'{{"probability": {0.1 * number}, "decided_by": "model", "sha256": "{number:064x}", '
            '"bundle": "b@1"}'
        )
        steps = [
            {"from": "", "to": "queued", "seq": "1", "detail": f'{{"image": "{number}.jpg"}}'},
            {
                "from": "queued",
                "to": "reviewing" if gray else "approved",
                "seq": "2",
                "detail": detail,
            },
        ]
        rows += [
            to_row("avatarmod", f"{n}-{number}", {**common, **step, "at": str(now + n)})
            for n, step in enumerate(steps, 1)
        ]
    paid = {"upload_id": "x", "kind": "opinion", "seq": "2", "to": "uncertain", "at": str(now)}
    row = to_row("avatarmod", "9-9", paid)
    rows.append({**row, "provider": opinion.provider, "provider_calls": 1, "cost_microyuan": 1500})
    with write_transaction(ledger.engine) as connection:
        connection.execute(events.insert(), rows)
    ledger.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["report", "evaluation", "frontier", "what-if"])
def test_a_report_opens_cleanly(
    browser: Browser, pages: dict[str, Path], tmp_path: Path, name: str, scheme: str
) -> None:
    """No console message, no request, nothing wider than a phone, text that can be told apart."""
    page = browser.new_page(
        viewport={"width": 390, "height": 800},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    said: list[str] = []

    def note(message: ConsoleMessage) -> None:
        said.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url))
    url = pages[name].as_uri()
    page.goto(url)
    assert [entry for entry in said if entry != url and not entry.startswith("data:")] == []
    assert page.locator("h1").is_visible()
    assert page.locator("b > b, script").count() == 0
    wide = page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
    assert wide <= 0
    colours = page.evaluate("(s => [s.color, s.backgroundColor])(getComputedStyle(document.body))")
    assert colours[0] != colours[1]
    if name in ("report", "evaluation", "frontier"):
        assert page.locator("svg").count() >= 2
    page.screenshot(path=str(tmp_path / f"{name}-{scheme}.png"), full_page=True)
    page.close()
