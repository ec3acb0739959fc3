"""The WordPress plugin as it is packed; tests/wordpress runs it."""

from __future__ import annotations

import gettext
import io
import re
import zipfile
from pathlib import Path

import pytest
from babel.messages.pofile import read_po

from scripts.make_wordpress_plugin import PLUGIN, build, sentences

PHP = sorted(PLUGIN.rglob("*.php"))


def test_the_zip_is_a_plugin_and_always_the_same(tmp_path: Path) -> None:
    """One folder with the main file, all parts and the compiled translation."""
    one, other = build(tmp_path / "one.zip"), build(tmp_path / "deep" / "other.zip")
    assert one.read_bytes() == other.read_bytes()
    with zipfile.ZipFile(one) as archive:
        names = archive.namelist()
        assert {name.partition("/")[0] for name in names} == {"avatarmod"}
        assert {"avatarmod/avatarmod.php", "avatarmod/uninstall.php"} <= set(names)
        compiled = archive.read("avatarmod/languages/avatarmod-zh_CN.mo")
    assert gettext.GNUTranslations(io.BytesIO(compiled)).gettext("approved") == "已通过"


def test_every_sentence_is_said_in_chinese_with_the_same_places() -> None:
    """And no sentence is translated that nobody says any more."""
    with (PLUGIN / "languages" / "avatarmod-zh_CN.po").open("rb") as file:
        known = {str(m.id): str(m.string) for m in read_po(file) if m.id}
    assert set(known) == sentences()
    for text, chinese in known.items():
        assert re.findall(r"%\w", text) == re.findall(r"%\w", chinese), text
        assert chinese


@pytest.mark.parametrize("path", PHP, ids=lambda path: path.name)
def test_each_file_keeps_the_manners_of_wordpress(path: Path) -> None:
    """It ends where WordPress has not loaded it, stays small, and prints nothing unescaped."""
    text = path.read_text("utf-8")
    assert re.search(r"^defined\( '(ABSPATH|WP_UNINSTALL_PLUGIN)' \) \|\| exit;$", text, re.M)
    assert len(text.splitlines()) < 300
    assert "\r" not in text
    for number, line in enumerate(text.splitlines(), 1):
        if re.search(r"\becho\b|<\?=", line):
            is_escaped = re.search(r"echo (esc_\w+|get_avatar)\(|echo '[^$]*';|esc_\w+\(", line)
            assert is_escaped, f"{path.name}:{number}"
        if "$wpdb->" in line and "SELECT" in line:
            assert "prepare(" in line, f"{path.name}:{number}"
