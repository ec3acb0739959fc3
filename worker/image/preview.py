"""Safe pictures for the console: hostile bytes in, a JPEG drawn anew out, in a process of its own.

The console's process stays free of numpy and Pillow. The helper starts with the first picture that
somebody looks at and ends after two idle minutes; it decodes as the workers do, in a child that may
crash. Talks over its standard input and output: two lengths, a JSON header, bytes.
"""

from __future__ import annotations

import collections
import hashlib
import json
import select
import struct
import subprocess
import sys
import threading
from typing import IO, Any

from producer import errors
from producer.contract import Avatar
from producer.errors import CorruptImage, DecoderUnavailable, ImageChanged, ModerationError
from producer.images import Images
from producer.texts import say

LENGTHS = struct.Struct(">II")

#: Idle seconds after which the helper ends and its memory is free again.
IDLE_S = 120.0

#: Bytes of pictures that are kept; each has under 180 kB, a small one 10 kB.
MAX_KEPT_BYTES = 6 * 2**20

#: Seconds that each frame of a row is shown.
Durations = tuple[float, ...]


class SafePictures:
    """Gives safe JPEGs; safe to share between threads."""

    def __init__(self, images: Images, limits: dict[str, Any]) -> None:
        """Prepare.

        Args:
            images: where the bytes are.
            limits: fields of `DecodeLimits`.
        """
        self._images = images
        self._limits = limits
        self._helper: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._kept: collections.OrderedDict[tuple[Any, ...], tuple[bytes, Durations]] = (
            collections.OrderedDict()
        )

    def safe_jpeg(self, avatar: Avatar) -> tuple[bytes, str]:
        """The normalised picture of an upload, and the SHA-256 of the bytes it was drawn from.

        Raises:
            ModerationError: it is gone, no picture, or cannot be decoded here.
        """
        jpeg, sha256, _ = self._look(avatar, {"op": "normalise"})
        return jpeg, sha256

    def sheet(
        self, avatar: Avatar, side_px: int, most: int = 1
    ) -> tuple[bytes, str, tuple[float, ...]]:
        """The same, small, or the frames of an animation in a row with the seconds of each.

        Raises:
            ModerationError: as `safe_jpeg`.
        """
        return self._look(avatar, {"op": "sheet", "side_px": side_px, "most": most})

    def _look(self, avatar: Avatar, request: dict[str, Any]) -> tuple[bytes, str, Durations]:
        shown = (avatar.upload_id, avatar.sha256, avatar.frame, avatar.background)
        key = (*shown, *request.values())
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                jpeg, durations_s = self._kept[key]
                return jpeg, avatar.sha256, durations_s
        data = self._images.fetch(avatar.image, avatar.upload_id)
        sha256 = hashlib.sha256(data).hexdigest()
        if avatar.sha256 and sha256 != avatar.sha256:
            # What a person decides sticks to the content that was scored.
            raise ImageChanged("the picture is not the one that was scored")
        where = {"frame": avatar.frame, "background": avatar.background}
        with self._lock:
            header, jpeg = self._ask({**request, **where}, data)
        raise_for(header)
        durations_s = tuple(header.get("durations_s", ()))
        if avatar.sha256:
            self._keep(key, (jpeg, durations_s))
        return jpeg, sha256, durations_s

    def _keep(self, key: tuple[Any, ...], value: tuple[bytes, Durations]) -> None:
        with self._lock:
            self._kept[key] = value
            while sum(len(jpeg) for jpeg, _ in self._kept.values()) > MAX_KEPT_BYTES:
                self._kept.popitem(last=False)

    def close(self) -> None:
        """End the helper."""
        with self._lock:
            if self._helper is not None:
                self._helper.kill()
                self._helper.wait()
                _close_pipes(self._helper)
                self._helper = None

    def _ask(self, request: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        for _ in range(2):
            helper = self._start()
            try:
                assert helper.stdin is not None
                assert helper.stdout is not None
                _write(helper.stdin, request, data)
                return _read(helper.stdout)
            except (OSError, EOFError):
                # It ended, perhaps of idleness just now: a fresh one is asked once more.
                helper.kill()
                helper.wait()
                _close_pipes(helper)
                self._helper = None
        raise DecoderUnavailable(say("pictures cannot be decoded for the console; see its log"))

    def _start(self) -> subprocess.Popen[bytes]:
        if self._helper is not None and self._helper.poll() is not None:
            _close_pipes(self._helper)
            self._helper = None
        if self._helper is None:
            self._helper = subprocess.Popen(
                [sys.executable, "-m", "worker.image.preview", json.dumps(self._limits)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        return self._helper


def raise_for(header: dict[str, Any]) -> None:
    """Raise here what a helper process was refused by, as its answer says it."""
    if "error" in header:
        kind = getattr(errors, header["error"], CorruptImage)
        is_ours = isinstance(kind, type) and issubclass(kind, ModerationError)
        raise (kind if is_ours else CorruptImage)(header["message"])


def error_of(error: ModerationError) -> dict[str, str]:
    """What `raise_for` reads."""
    return {"error": type(error).__name__, "message": str(error)[:200]}


def _close_pipes(helper: subprocess.Popen[bytes]) -> None:
    for pipe in (helper.stdin, helper.stdout):
        if pipe is not None:
            try:
                pipe.close()
            except OSError:
                continue


def _write(pipe: IO[bytes], header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    pipe.write(LENGTHS.pack(len(text), len(data)) + text)
    pipe.write(data)
    pipe.flush()


def _read(pipe: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    header_bytes, data_bytes = LENGTHS.unpack(_exactly(pipe, LENGTHS.size))
    header = json.loads(_exactly(pipe, header_bytes))
    return header, _exactly(pipe, data_bytes)


def _exactly(pipe: IO[bytes], length: int) -> bytes:
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError("the other side ended")
    return data


def main() -> None:
    """The helper: answers requests until nobody asks any more."""
    from worker.image.decoder import DecodeLimits, Decoder
    from worker.image.preprocess import InputSpec
    from worker.image.views import ViewOptions

    limits = DecodeLimits(**json.loads(sys.argv[1]))
    # The options are for scoring; a normalised picture does not depend on them.
    spec = InputSpec(
        width_px=224, height_px=224, resize="stretch", resize_px=224, interpolation="bilinear"
    )
    options = ViewOptions(spec=spec)
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    with Decoder(limits, options) as decoder:
        while select.select([source], [], [], IDLE_S)[0]:
            try:
                header, data = _read(source)
            except EOFError:
                return
            try:
                if header.pop("op") == "sheet":
                    jpeg, durations_s = decoder.sheet(data, **header)
                    _write(sink, {"durations_s": durations_s}, jpeg)
                else:
                    _write(sink, {}, decoder.normalise(data, **header))
            except ModerationError as error:
                _write(sink, error_of(error), b"")


if __name__ == "__main__":
    main()
