"""The policy file as people change it: who, why, and what it was before.

One road for the command line and the console. Beside the file stands its history, one line of JSON
a change, so that it lies where the file does and is backed up with it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import filelock
import structlog

from producer.errors import PolicyError
from producer.whole_files import write_whole
from worker.moderation.policy import Policy, load_policy, parse_policy
from worker.moderation.road import policy_in_use
from worker.settings import POLICY_FILE, WorkerSettings

log = structlog.get_logger()

#: Characters of a note.
MAX_NOTE = 500

#: Who changed it, where nobody said so.
BY_HAND = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
    """One state of the policy.

    Args:
        at: since when, seconds since the epoch.
        by: who made it so; empty where the file was edited by hand.
        note: why.
        version: of the policy; see `Policy.version`.
        text: the file; None: there was none, and the built-in policy held.
    """

    at: float
    by: str
    note: str
    version: str
    text: str | None


class PolicyFile:
    """Reads and changes one policy file. Several processes may do so at once."""

    def __init__(self, settings: WorkerSettings) -> None:
        #: The file that is written; it need not be there.
        self.path = settings.policy_file or settings.data_folder / POLICY_FILE
        self._is_named = settings.policy_file is not None
        #: Beside it; neither need this be there.
        self.history_path = self.path.with_name(f"{self.path.name}.history")

    def policy(self) -> Policy:
        """What the file says, or the built-in policy.

        Raises:
            PolicyError: see `load_policy`.
        """
        return load_policy(self.path if self.path.exists() else None)

    def problem(self) -> str:
        """Why this process cannot change it; empty where it can."""
        folder = self.path.parent
        if not folder.is_dir():
            return f"the folder {folder} does not exist"
        for place in (folder, self.path, self.history_path):
            if place.exists() and not os.access(place, os.W_OK):
                return f"this process may not write {place}"
        return ""

    def history(self) -> list[Change]:
        """Every state that is known, the present one first."""
        try:
            lines = self.history_path.read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        found = [Change(**json.loads(line)) for line in lines]
        text = self._text()
        if not found or found[-1].text != text:
            found.append(self._state(text, by=BY_HAND, note="", at=self._edited_at()))
        return found[::-1]

    def apply(self, text: str, *, by: str, note: str) -> Change:
        """Put a new policy in the file's place; workers and the console take it up by themselves.

        Args:
            text: TOML; see policy.py.
            by: who wants it.
            note: why.

        Raises:
            PolicyError: it is no policy, or the file cannot be written; nothing was changed.
        """
        return self._change(lambda _: text, by=by, note=note)

    def roll_back(self, *, by: str, note: str) -> Change:
        """Go back to what held before the last change.

        Raises:
            PolicyError: nothing was changed before, or the file cannot be written, or taken away
                where the settings name it.
        """
        return self._change(self._before, by=by, note=note)

    def _before(self, known: list[Change]) -> str | None:
        if len(known) < 2:
            raise PolicyError("the policy was never changed before: nothing to go back to")
        if known[1].text is None and self._is_named:
            raise PolicyError(
                f"before that change there was no file {self.path}, which AVATARMOD_POLICY_FILE "
                "names, and without it no worker starts; apply another policy instead"
            )
        return known[1].text

    def _change(
        self, text_of: Callable[[list[Change]], str | None], *, by: str, note: str
    ) -> Change:
        if problem := self.problem():
            raise PolicyError(f"the policy file {self.path} was not changed: {problem}")
        try:
            with filelock.FileLock(f"{self.history_path}.lock", timeout=10):
                known = self.history()
                text = text_of(known)
                new = self._state(text, by=by, note=note[:MAX_NOTE], at=time.time())
                # First: killed in between, the next reader sees that the file is not that state.
                lines = [json.dumps(dataclasses.asdict(one)) for one in [*known[::-1], new]]
                _write(self.history_path, "\n".join(lines) + "\n")
                if text is None:
                    self.path.unlink(missing_ok=True)
                else:
                    _write(self.path, text)
        except (OSError, filelock.Timeout) as error:
            raise PolicyError(f"the policy file {self.path} was not changed: {error}") from error
        log.info("policy_changed", by=by, version=new.version, file=str(self.path))
        return new

    def _state(self, text: str | None, *, by: str, note: str, at: float) -> Change:
        try:
            policy = parse_policy(tomllib.loads(text), "policy") if text else load_policy(None)
        except tomllib.TOMLDecodeError as error:
            raise PolicyError(f"the policy is not TOML: {error}") from error
        return Change(at=at, by=by, note=note, version=policy.version, text=text)

    def _text(self) -> str | None:
        try:
            return self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PolicyError(f"policy file {self.path}: {error.strerror}") from error

    def _edited_at(self) -> float:
        return self.path.stat().st_mtime if self.path.exists() else 0.0


class PolicyInUse:
    """The policy of this process, read again when its file changes.

    A file that is wrong changes nothing: the last good policy holds, and it is said once.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._stamp = self._look()
        self._policy = policy_in_use(settings)

    def get(self) -> Policy:
        """As the file says now."""
        stamp = self._look()
        if stamp != self._stamp:
            self._stamp = stamp
            try:
                self._policy = policy_in_use(self._settings)
            except PolicyError as error:
                log.error("policy_wrong", error=str(error), effect="the last good one holds")
        return self._policy

    def _look(self) -> tuple[int, ...]:
        path = self._settings.policy_path()
        try:
            found = path.stat() if path else None
        except OSError:
            found = None
        return (found.st_mtime_ns, found.st_size, found.st_ino) if found else ()


def _write(path: Path, text: str) -> None:
    """With the rights that the file had."""
    mode = path.stat().st_mode & 0o777 if path.exists() else 0o644
    write_whole(path, text.encode(), mode)
