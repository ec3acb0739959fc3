"""Builds the WordPress plugin: compiles its translations and packs it, as WordPress takes it.

`python -m scripts.make_wordpress_plugin` writes `dist/avatarmod.zip`; the same files give the same
bytes.
"""

from __future__ import annotations

import io
import re
import struct
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "examples" / "wordpress" / "avatarmod"

#: A sentence in PHP: `__( 'text', 'avatarmod' )` and its escaping sisters.
_SENTENCE = re.compile(
    r"\b(?:esc_html_|esc_attr_)?_?_?[ex]?\(\s*'((?:[^'\\]|\\.)+)',\s*'avatarmod'\s*\)"
)


def sentences() -> set[str]:
    """Every sentence that the plugin says."""
    found: set[str] = set()
    for path in PLUGIN.rglob("*.php"):
        found |= {re.sub(r"\\(.)", r"\1", s) for s in _SENTENCE.findall(path.read_text("utf-8"))}
    return found


def _files() -> Iterator[tuple[str, bytes]]:
    for path in sorted(PLUGIN.rglob("*")):
        name = f"{PLUGIN.name}/{path.relative_to(PLUGIN).as_posix()}"
        if path.suffix == ".po":
            yield name.removesuffix(".po") + ".mo", _compiled(path)
        if path.is_file():
            yield name, path.read_bytes()


def _compiled(path: Path) -> bytes:
    """A catalogue as WordPress reads it: it wants to know where the hash table would be.

    Source: WordPress 6.1, wp-includes/pomo/mo.php; Babel writes 0, for there is none.
    """
    compiled = io.BytesIO()
    with path.open("rb") as file:
        write_mo(compiled, read_po(file))
    data = bytearray(compiled.getvalue())
    (total,) = struct.unpack_from("=I", data, 8)
    struct.pack_into("=I", data, 24, 28 + 16 * total)
    return bytes(data)


def build(to: Path) -> Path:
    """Write the zip; returns its path."""
    to.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in _files():
            entry = zipfile.ZipInfo(name)  # of 1980, so that the same files give the same bytes
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, data)
    return to


if __name__ == "__main__":
    print(build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist" / "avatarmod.zip"))
