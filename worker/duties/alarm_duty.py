"""Runs the alarms in the sweeper, remembers what is raised, and tells people.

An avatar service was once suspended by its regulator because its moderation had silently stopped.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import redis
import structlog

from producer.installed import how_to_install
from producer.record.store import Store
from producer.texts import Text
from worker.duties.alarm import Alarm
from worker.duties.alarms import evaluate
from worker.duties.alarms_redis import outage
from worker.duties.facts import gather
from worker.review.leave import ProviderStatus
from worker.settings import WorkerSettings

log = structlog.get_logger()

#: Seconds between two evaluations.
EVERY_S = 5.0

#: Seconds after which people are told again of what is still raised.
REPEAT_S = 4 * 3600.0

#: Seconds for which Redis may be away or refuse writes before people are told: a fail-over is over
#: by then.
OUTAGE_S = 60.0


def raised(store: Store) -> list[dict[str, Any]]:
    """What the sweeper has raised now, the longest first."""
    alarms = [{"code": code, **fields} for code, fields in store.alarms.all().items()]
    return sorted(alarms, key=lambda alarm: float(alarm["since"]))


class AlarmDuty:
    """Evaluates every few seconds in the process that holds the sweeper's lock.

    Args:
        store: facts and memory.
        settings: limits.
        providers: how the review providers stand.
        tell: sends texts to people (title, body); raises when it could not.
    """

    def __init__(
        self,
        store: Store,
        settings: WorkerSettings,
        providers: Callable[[], Sequence[ProviderStatus]],
        tell: Callable[[str, str], None] | None,
    ) -> None:
        self._store = store
        self._settings = settings
        self._providers = providers
        self._tell = tell
        self._next_s = 0.0
        self._outage_told_s: float | None = None
        self._first_seen: dict[str, float] = {}

    def __call__(self) -> None:
        """One evaluation, if it is time."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + EVERY_S
        facts = gather(self._store, self._settings, self._providers())
        self.note(evaluate(facts, self._settings), facts.now)

    def outage(self, error: redis.RedisError, seconds: float) -> None:
        """Redis fails, so neither a lock nor an alarm can be kept there: tell from here.

        Every process tells for itself.

        Args:
            error: why nothing works.
            seconds: for how long it has been so.
        """
        if seconds < OUTAGE_S:
            self._outage_told_s = None
            return
        now_s = time.monotonic()
        if self._outage_told_s is not None and now_s - self._outage_told_s < REPEAT_S:
            return
        self._outage_told_s = now_s
        alarm = outage(error, seconds)
        log.error("alarm_raised", code=alarm.code, message=alarm.message, fix=alarm.fix)
        if self._tell is not None:
            self._tell_in_background(self._tell, "avatar-moderation: Redis", [_news(alarm)])

    def note(self, alarms: Sequence[Alarm], now: float) -> None:
        """Compare with what was raised, remember, log, and tell people in the background."""
        before = {alarm["code"]: alarm for alarm in raised(self._store)}
        seen = self._first_seen
        self._first_seen = {alarm.code: seen.get(alarm.code, now) for alarm in alarms}
        present = {
            alarm.code: alarm
            for alarm in alarms
            if alarm.code in before or now - self._first_seen[alarm.code] >= alarm.after_s
        }
        news: list[str] = []
        for code in before.keys() - present.keys():
            self._store.alarms.remove(code)
            log.info("alarm_cleared", code=code)
            news.append(f"Cleared: {before[code]['message']}")
        for code, alarm in present.items():
            earlier = before.get(code)
            told_at = float(earlier["told_at"]) if earlier else 0.0
            if earlier is None:
                log.error("alarm_raised", code=code, message=alarm.message, fix=alarm.fix)
            if now - told_at > REPEAT_S:
                news.append(_news(alarm))
                told_at = now
            since = earlier["since"] if earlier else now
            fields = {
                "severity": alarm.severity,
                "message": alarm.message,
                "fix": alarm.fix,
                "texts": [
                    text.to_json() if isinstance(text, Text) else None
                    for text in (alarm.message, alarm.fix)
                ],
                "since": since,
                "told_at": told_at,
            }
            self._store.alarms.put(code, fields)
        if news and self._tell is not None:
            self._tell_in_background(self._tell, f"avatar-moderation: {len(news)} news", news)

    def _tell_in_background(
        self, tell: Callable[[str, str], None], title: str, news: list[str]
    ) -> None:
        def work() -> None:
            for pause_s in (0, 5, 30, 120):
                time.sleep(pause_s)
                try:
                    tell(title, "\n".join(news))
                    return
                except Exception as error:  # noqa: BLE001 - whatever the notifier does, log it
                    log.warning("alarm_not_told", error=type(error).__name__)

        threading.Thread(target=work, daemon=True, name="alarms").start()


def _news(alarm: Alarm) -> str:
    return f"{alarm.severity.upper()}: {alarm.message}\n  To do: {alarm.fix}"


def make_teller(settings: WorkerSettings) -> Callable[[str, str], None] | None:
    """What sends alarms to people, from `AVATARMOD_ALARM_URLS`; None when nobody is to be told.

    Raises:
        ConfigurationError: an address is not understood, or apprise is not installed.
    """
    if not settings.alarm_urls:
        return None
    from producer.errors import ConfigurationError

    try:
        import apprise
    except ImportError:
        raise ConfigurationError(
            f"AVATARMOD_ALARM_URLS needs apprise: {how_to_install('alarms')}"
        ) from None
    notifier = apprise.Apprise()
    for number, url in enumerate(settings.alarm_urls, 1):
        if not notifier.add(url.get_secret_value()):
            raise ConfigurationError(
                f"AVATARMOD_ALARM_URLS: address number {number} is not one that apprise knows, "
                "such as mailto://, slack:// or json://host/path"
            )

    def tell(title: str, body: str) -> None:
        if not notifier.notify(title=title, body=body):
            raise OSError("not every address could be told")

    return tell
