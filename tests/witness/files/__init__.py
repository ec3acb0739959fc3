"""Files that could show people one picture and the decoder another, made here byte by byte.

One module a format; each has `files()`, which yields names and bytes. The pictures are drawn: sand
(what must not hide), hills (what it would hide behind), a smiling face. What is legal but rare is
in the folder `rare`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.witness.files import apng, avif, bmp, gif, jpeg, png, rare, webp

Files = Callable[[], Iterator[tuple[str, bytes]]]


def _with_rare(usual: Files, *unusual: Files) -> Files:
    def both() -> Iterator[tuple[str, bytes]]:
        yield from usual()
        for each in unusual:
            for name, data in each():
                yield f"rare-{name}", data

    return both


FORMATS: dict[str, Files] = {
    "png": _with_rare(png.files, rare.png.stills, rare.tables.files),
    "apng": _with_rare(apng.files, rare.png.moving),
    "gif": _with_rare(gif.files, rare.gif.files),
    "jpeg": _with_rare(jpeg.files, rare.jpeg.files, rare.gain.jpegs, rare.profiles.files),
    "webp": _with_rare(webp.files, rare.webp.files),
    "bmp": _with_rare(bmp.files, rare.bmp.files),
    "avif": _with_rare(avif.files, rare.avif.files, rare.avif_at_odds.files, rare.gain.avifs),
}


def files(*formats: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of all files, or of some formats."""
    for name in formats or FORMATS:
        for kind, data in FORMATS[name]():
            yield f"{name}/{kind}", data
