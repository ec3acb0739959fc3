"""What happened to an upload, told in order of time: one entry an event, in words.

What the model said stands in the template, beside its scales (`parts.html`); everything else that
an event carries is its `details`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from producer.findings import LooksLike
from producer.texts import of_json
from producer.web.console.context import Context
from producer.web.console.words import N_

Event = Mapping[str, Any]

#: Where a transition leads to, said with its reason.
_BECAME = {
    "queued": N_("It waits for the model: %(why)s."),
    "reviewing": N_("It goes to a review provider: %(why)s."),
    "held": N_("It waits for a moderator: %(why)s."),
    "approved": N_("It was approved: %(why)s."),
    "blocked": N_("It was blocked: %(why)s."),
    "rejected": N_("It was refused: %(why)s."),
    "dead": N_("It could not be finished: %(why)s."),
}

#: What a person's word made of it.
_SAID = {
    "approved": N_("%(who)s approved it."),
    "blocked": N_("%(who)s blocked it."),
    "held": N_("%(who)s took a decision back; it waits for a moderator again."),
    "reviewing": N_("%(who)s sent it to a review provider again."),
    "queued": N_("%(who)s sent it to the model again."),
    "rejected": N_("%(who)s discarded it."),
}

#: What a provider's opinion was.
_FOUND = {
    "approve": N_("%(provider)s found it harmless."),
    "block": N_("%(provider)s found it explicit."),
    "uncertain": N_("%(provider)s could not tell."),
}

#: What came of telling the web tier.
_TOLD = {
    "delivered": N_("The web tier was told."),
    "dead": N_("The web tier could not be told: %(error)s."),
    "replayed": N_("The callback is sent once more."),
    "discarded": N_("The callback was discarded."),
}

#: What an audit of an approval found.
_AUDITED = {
    "harmless": N_("An audit found the approved picture harmless."),
    "explicit": N_("An audit found the approved picture explicit."),
    "unanswered": N_("An audit of the approval got no answer."),
}

#: Done by people, and told by the transition that it made.
_TOLD_ELSEWHERE = frozenset(
    ("approve", "approved", "block", "blocked", "undo", "harmless", "explicit", "replay", "discard")
) | {"retry", "appeal"}


#: Facts of hundreds of characters that say nothing to people.
_FOR_PROGRAMS = ("seen", "before", "said")


@dataclasses.dataclass(frozen=True)
class Told:
    """One entry of the story.

    Attributes:
        at: seconds since the epoch.
        state: of which it is coloured; empty for what changes none.
        look: what the model said then, for the template's scales; None where it did not look.
        sentences: in the reader's language.
        details: all that is known of the event.
    """

    at: float
    state: str
    look: dict[str, Any] | None
    sentences: list[str]
    details: dict[str, Any]


def tell(context: Context, events: Iterable[Event]) -> list[Told]:
    """The story of one upload from its events, the oldest first."""
    in_order = sorted(events, key=lambda event: (event["at"], event["seq"]))
    return [told for event in in_order if (told := _Teller(context, event).tell())]


class _Teller:
    """Tells one event."""

    def __init__(self, context: Context, event: Event) -> None:
        self._context, self._event = context, event
        self._detail: Mapping[str, Any] = event["detail"]
        self._to = str(event["to_state"])

    def tell(self) -> Told | None:
        kinds: dict[str, Callable[[], Iterator[str]]] = {
            "transition": self._transition,
            "callback": self._callback,
            "label": self._label,
            "audit": self._action,
            "memory": self._memory,
        }
        say = kinds.get(self._event["kind"], self._other)
        if not (sentences := list(say())):
            return None
        is_change = self._event["kind"] == "transition"
        facts = {name: fact for name, fact in self._detail.items() if name not in _FOR_PROGRAMS}
        if is_change:
            facts = {"seq": self._event["seq"], **facts}
        return Told(
            self._event["at"], self._to if is_change else "", self._look(), sentences, facts
        )

    def _look(self) -> dict[str, Any] | None:
        event = self._event
        if event["kind"] != "transition" or event["from_state"] != "queued":
            return None
        if event["probability"] is None or self._tier == "operator":
            return None
        second = self._detail.get("second_probability")
        return {
            "probability": event["probability"],
            "second_probability": float(second) if second else None,
            "style": self._detail.get("style", ""),
        }

    # -- kinds ---------------------------------------------------------------------------------

    def _transition(self) -> Iterator[str]:
        if not self._event["from_state"] and not self._event["reason"]:
            yield self.gettext("It was accepted and waits for the model.")
            return
        yield from map(self._opinion, self._detail.get("opinions") or ())
        if (like := self._like()) is not None:
            said = {
                "state": self._context.language.word(like.state),
                "who": self._context.language.decided_by(like.decided_by),
            }
            it = like.upload_id
            yield (
                self.gettext("It looks like %(id)s, which was %(state)s by %(who)s.", id=it, **said)
                if it
                else self.gettext(
                    "It looks like an earlier picture that was %(state)s by %(who)s.", **said
                )
            )
        if self._person:
            yield from self._persons_word()
        else:
            yield self._machines_word()
        if message := self._message():
            yield message

    def _machines_word(self) -> str:
        if self._event["reason"] == "appealed":
            return self.gettext("Its owner objects to the block; it waits for a moderator.")
        if self._tier == "cache":
            return self.gettext("The same picture was scored before.") + " " + self._became()
        return self._became()

    def _became(self) -> str:
        reason = self._event["reason"]
        why = (
            self._context.language.reason(reason) if reason else self.gettext("no reason is given")
        )
        return self.gettext(_BECAME.get(self._to, "%(why)s"), why=why)

    def _persons_word(self) -> Iterator[str]:
        if self._event["from_state"] == "queued" and self._to in ("approved", "blocked"):
            yield self.gettext("%(who)s had decided about the same picture.", who=self._person)
            yield self._became()
        # Events of earlier versions name the other upload (`same_as`).
        elif self._detail.get("follows") or self._detail.get("same_as"):
            yield self.gettext(
                "It followed what %(who)s decided about the same picture.", who=self._person
            )
        else:
            yield self.gettext(_SAID.get(self._to, "%(who)s"), who=self._person)
        if found := self._detail.get("block_reason"):
            yield self.gettext("Reason: %(reason)s.", reason=self._context.language.word(found))
        if note := self._detail.get("note"):
            yield self.gettext("Note: %(note)s", note=note)

    def _opinion(self, opinion: Mapping[str, Any]) -> str:
        found = self.gettext(
            _FOUND.get(str(opinion.get("decision")), _FOUND["uncertain"]),
            provider=opinion.get("provider", "?"),
        )
        labels = ", ".join(map(str, opinion.get("labels") or ()))
        return f"{found} ({labels})" if labels else found

    def _callback(self) -> Iterator[str]:
        if self._to in _TOLD:
            error = self._message() or self._detail.get("error") or "?"
            yield self.gettext(_TOLD[self._to], error=error)
            if (attempts := int(self._detail.get("attempts") or 1)) > 1:
                yield self.gettext("It took %(n)s attempts.", n=attempts)

    def _label(self) -> Iterator[str]:
        if self._to in _AUDITED:
            yield self.gettext(_AUDITED[self._to])

    def _action(self) -> Iterator[str]:
        if self._to not in _TOLD_ELSEWHERE:
            words = self._context.language.word
            outcome = words(str(self._detail.get("outcome", "")))
            yield f"{self._detail.get('by', '?')}: {words(self._to)}, {outcome}"

    def _memory(self) -> Iterator[str]:
        """What is remembered follows from decisions, which are told by themselves."""
        if self._to == "forgotten":
            yield self.gettext("What people decided about this picture was forgotten.")

    def _other(self) -> Iterator[str]:
        yield f"{self._event['kind']}: {self._context.language.word(self._to)}"

    # -- facts ---------------------------------------------------------------------------------

    def gettext(self, text: str, **values: object) -> str:
        """A sentence in the reader's language."""
        return self._context.gettext(text, **values)

    def _message(self) -> str:
        """What an error said; an ordinary text, such as a decoder's, as it is."""
        text = of_json(str(self._detail.get("message") or ""), self._detail.get("said"))
        return self._context.language.text(text)

    @property
    def _tier(self) -> str:
        return str(self._event["decided_by"]).partition(":")[0]

    @property
    def _person(self) -> str:
        """Who decided, or took a decision back; empty where nobody did."""
        tier, _, name = str(self._event["decided_by"]).partition(":")
        return name if tier == "operator" else str(self._detail.get("by") or "")

    def _like(self) -> LooksLike | None:
        """What it looked like when it was scored."""
        try:
            return LooksLike.from_json(self._detail["looks_like"])
        except (KeyError, TypeError, ValueError):
            return None
