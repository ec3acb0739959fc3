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

LENGTHS = struct.Struct(">II")

#: Idle seconds after which the helper ends and its memory is free again.
IDLE_S = 120.0

#: Pictures kept, each under 180 kB.
MAX_KEPT = 32


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
        self._kept: collections.OrderedDict[tuple[str, str, int, str], bytes] = (
            collections.OrderedDict()
        )

    def safe_jpeg(self, avatar: Avatar) -> bytes:
        """The normalised picture of an upload.

        Raises:
            ModerationError: it is gone, no picture, or cannot be decoded here.
        """
        key = (avatar.upload_id, avatar.sha256, avatar.frame, avatar.background)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        data = self._images.fetch(avatar.image, avatar.upload_id)
        if avatar.sha256 and hashlib.sha256(data).hexdigest() != avatar.sha256:
            # What a person decides sticks to the content that was scored.
            raise ImageChanged("the picture is not the one that was scored")
        request = {"frame": avatar.frame, "background": avatar.background}
        with self._lock:
            header, jpeg = self._ask(request, data)
        if "error" in header:
            kind = getattr(errors, header["error"], CorruptImage)
            is_ours = isinstance(kind, type) and issubclass(kind, ModerationError)
            raise (kind if is_ours else CorruptImage)(header["message"])
        if avatar.sha256:
            with self._lock:
                self._kept[key] = jpeg
                while len(self._kept) > MAX_KEPT:
                    self._kept.popitem(last=False)
        return jpeg

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
        raise DecoderUnavailable("pictures cannot be decoded for the console; see its log")

    def _start(self) -> subprocess.Popen[bytes]:
        if self._helper is not None and self._helper.poll() is not None:
            _close_pipes(self._helper)
            self._helper = None
        if self._helper is None:
            self._helper = subprocess.Popen(
                [sys.executable, "-m", "worker.pictures", json.dumps(self._limits)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        return self._helper


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
    from worker.decode import DecodeLimits, Decoder
    from worker.pixels import InputSpec
    from worker.views import ViewOptions

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
                jpeg = decoder.normalise(data, **header)
                _write(sink, {}, jpeg)
            except ModerationError as error:
                _write(sink, {"error": type(error).__name__, "message": str(error)[:200]}, b"")


if __name__ == "__main__":
    main()
