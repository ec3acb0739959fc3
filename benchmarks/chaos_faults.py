"""The faults that chaos.py injects, and the two servers it plays: web tier and review provider."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from producer.contract import Stage
from producer.store import Store
from worker.supervisor import Supervisor

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")


class Behaviour:
    """How a server of ours answers just now; changed by faults, read by its handlers."""

    def __init__(self) -> None:
        self.failing_share = 0.0
        self.delay_s = 0.0
        self._random = random.Random(1)

    def fails(self) -> bool:
        """Wait as told, then say whether this request is to fail."""
        time.sleep(self.delay_s)
        return self._random.random() < self.failing_share


class ReviewStub:
    """A Hugging Face endpoint: answers by the picture's hash, counts calls per picture."""

    def __init__(self, token: str) -> None:
        self.behaviour = Behaviour()
        self.calls: Counter[str] = Counter()
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                if self.headers.get("authorization") != f"Bearer {token}":
                    self._answer(401, {"error": "unauthorized"})
                elif stub.behaviour.fails():
                    self._answer(503, {"error": "overloaded"})
                else:
                    digest = hashlib.sha256(body).hexdigest()
                    stub.calls[digest] += 1
                    score = 0.97 if int(digest[0], 16) < 4 else 0.02
                    self._answer(
                        200,
                        [
                            {"label": "nsfw", "score": score},
                            {"label": "normal", "score": 1 - score},
                        ],
                    )

            def _answer(self, status: int, content: Any) -> None:
                text = json.dumps(content).encode()
                with contextlib.suppress(OSError):
                    self.send_response(status)
                    self.send_header("content-type", "application/json")
                    self.send_header("content-length", str(len(text)))
                    self.end_headers()
                    self.wfile.write(text)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Faults:
    """Injects one fault at a time, chosen by a seeded generator, and notes recovery times."""

    def __init__(
        self,
        supervisor: Supervisor,
        store: Store,
        receiver: Behaviour,
        provider: Behaviour,
        accepted: list[str],
        enqueue_again: Callable[[str], object],
        seed: int,
    ) -> None:
        self._supervisor = supervisor
        self._store = store
        self._receiver = receiver
        self._provider = provider
        self._accepted = accepted
        self._enqueue_again = enqueue_again
        self._random = random.Random(seed)
        self.count: Counter[str] = Counter()
        self.recovery_s: dict[str, list[float]] = {}
        self.faults: dict[str, Callable[[], None]] = {
            "kill moderate worker": lambda: self._kill("moderate"),
            "kill io worker": lambda: self._kill("io"),
            "kill both workers (and the sweeper)": lambda: self._kill("moderate", "io"),
            "kill Valkey": lambda: self._kill("valkey"),
            "webhook receiver fails": lambda: self._degrade(self._receiver, failing_share=1.0),
            "webhook receiver is slow": lambda: self._degrade(self._receiver, delay_s=1.0),
            "provider fails half of the time": lambda: self._degrade(
                self._provider, failing_share=0.5
            ),
            "provider is slow": lambda: self._degrade(self._provider, delay_s=1.5),
            "delete all broker messages": self._delete_messages,
            "duplicate enqueues, wake-ups and due entries": self._duplicate,
        }
        if FAKETIME.exists():
            self.faults["move the worker's clock by an hour"] = self._move_clock

    def inject(self) -> str:
        """One fault; returns its name."""
        rare = self.count
        name = min(self.faults, key=lambda n: (rare[n], self._random.random()))
        self.count[name] += 1
        with contextlib.suppress(redis.RedisError):
            self.faults[name]()
        return name

    def heal(self) -> None:
        """Everything answers again."""
        for behaviour in (self._receiver, self._provider):
            behaviour.failing_share = behaviour.delay_s = 0.0

    def _kill(self, *names: str, clock: str = "") -> None:
        """Kill by name; the moderate worker comes back with a clock that is off by `clock`."""
        # Under libfaketime every sleep of Python 3.11+ fails at once: a harsher fault than the
        # clock alone, so it ends with the next kill.
        self._supervisor.set_env("LD_PRELOAD", str(FAKETIME) if clock else "", only="moderate")
        self._supervisor.set_env("FAKETIME", clock, only="moderate")
        self._supervisor.set_env("DONT_FAKE_MONOTONIC", "1", only="moderate")
        pids = self._supervisor.pids()
        killed_s = time.monotonic()
        for name in names:
            with contextlib.suppress(ProcessLookupError, KeyError):
                os.kill(pids[name], signal.SIGKILL)
        threading.Thread(
            target=self._watch_recovery, args=("kill " + " + ".join(names), killed_s), daemon=True
        ).start()

    def _watch_recovery(self, name: str, killed_s: float) -> None:
        """Seconds from the kill to the next transition by a worker."""
        before = None
        while time.monotonic() - killed_s < 120:
            with contextlib.suppress(redis.RedisError, OSError):
                last = self._store.redis.hget(self._store.key("counts"), "last_transition_at")
                if before is not None and last != before and time.monotonic() - killed_s > 0.3:
                    self.recovery_s.setdefault(name, []).append(time.monotonic() - killed_s)
                    return
                if before is None or time.monotonic() - killed_s < 0.3:
                    before = last
            time.sleep(0.05)

    def _degrade(
        self, behaviour: Behaviour, *, failing_share: float = 0.0, delay_s: float = 0.0
    ) -> None:
        behaviour.failing_share, behaviour.delay_s = failing_share, delay_s
        timer = threading.Timer(3.0, self._restore, (behaviour,))
        timer.daemon = True
        timer.start()

    @staticmethod
    def _restore(behaviour: Behaviour) -> None:
        behaviour.failing_share = behaviour.delay_s = 0.0

    def _delete_messages(self) -> None:
        prefix = self._store.prefix.strip("{}:")
        for stage in Stage:
            self._store.redis.delete(f"{prefix}:celery:{stage}")
        self._store.redis.delete(f"{prefix}:celery:unacked", f"{prefix}:celery:unacked_index")

    def _duplicate(self) -> None:
        some = self._random.sample(self._accepted, min(20, len(self._accepted)))
        for upload_id in some:
            self._enqueue_again(upload_id)
        now = self._store.now()
        for stage in (Stage.MODERATE, Stage.REVIEW):
            due = self._store.key("due", stage, "normal")
            self._store.redis.zadd(due, {upload_id: now for upload_id in some[:10]})

    def _move_clock(self) -> None:
        self._kill("moderate", clock=self._random.choice(["+3600", "-3600"]))
