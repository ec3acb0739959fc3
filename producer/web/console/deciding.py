"""One person's word on one picture, from a form; used by every page that decides."""

from __future__ import annotations

import dataclasses
import re
from typing import Any, cast

from starlette.datastructures import FormData

from producer.contract import Avatar
from producer.errors import InvalidUpload, UnknownUpload
from producer.findings import Seen
from producer.record.decisions import Decided, Decisions, NotScored, Outdated, Why
from producer.web.console.context import Context, Refused, text_field
from producer.web.console.lanes import is_own_appeal

#: What a person says of an approval that is audited.
LABELS = ("harmless", "explicit")

#: Uploads with the same picture that the activity lists one by one.
MAX_LISTED = 2000


@dataclasses.dataclass(frozen=True)
class Word:
    """What a form says."""

    verdict: str
    upload_id: str
    seen: Seen
    why: Why
    copies: bool


def read_word(context: Context, form: FormData) -> Word:
    """What a form says; of a picture without a hash, what this person was shown counts."""
    upload_id, seq = text_field(form, "upload_id"), text_field(form, "seq")
    sha256 = text_field(form, "sha256")
    if not sha256 and context.console.looks is not None:
        sha256 = context.console.looks.seen(upload_id, context.name)
    return Word(
        text_field(form, "verdict"),
        upload_id,
        Seen(
            int(seq) if re.fullmatch(r"[0-9]{1,15}", seq) else None,
            sha256,
            text_field(form, "approved_by"),
        ),
        Why(text_field(form, "reason"), text_field(form, "note")),
        bool(text_field(form, "copies")),
    )


def decide(context: Context, word: Word) -> Decided:
    """Do it, and note it.

    Raises:
        Refused: 409 with who did what meanwhile, or why it cannot be; 422 for no decision at all.
    """
    try:
        done = _done(context, word)
    except UnknownUpload as error:
        message = context.gettext("No upload has this id, or it has expired.")
        raise Refused(409, message) from error
    except Outdated as error:
        raise Refused(409, _changed(context, word.upload_id)) from error
    except NotScored as error:
        message = context.gettext(
            "Nothing has scored this picture: wait for the model, or replay it, then decide."
        )
        raise Refused(409, message) from error
    except InvalidUpload as error:
        message = context.gettext("Its present state does not allow this decision.")
        raise Refused(409, message) from error
    for other in done.others[:MAX_LISTED]:
        context.audit(word.verdict, other.upload_id, "same picture")
    context.audit(word.verdict, word.upload_id, "done")
    return done


def _done(context: Context, word: Word) -> Decided:
    decisions, by = Decisions(context.store), context.name
    if word.verdict == "undo":
        return decisions.undo(word.upload_id, by=by, seen=word.seen)
    if word.verdict in ("approved", "blocked"):
        avatar = context.store.get(word.upload_id)
        if avatar is not None and is_own_appeal(context, avatar):
            raise Refused(
                409,
                context.gettext("Its owner objects to your own block; somebody else decides."),
            )
        return decisions.decide(
            word.upload_id,
            cast("Any", word.verdict),
            by=by,
            seen=word.seen,
            why=word.why if word.verdict == "blocked" else Why(note=word.why.note),
            copies=word.copies,
        )
    if word.verdict in LABELS:
        return Decided(decisions.audit(word.upload_id, cast("Any", word.verdict), by=by), [])
    raise Refused(422, context.gettext("Unknown decision."))


def _changed(context: Context, upload_id: str) -> str:
    """Who did what and when, in the reader's language."""
    avatar = context.store.get(upload_id)
    if avatar is None:
        return context.gettext("No upload has this id, or it has expired.")
    if who := context.store.approved_by(avatar):
        return context.gettext(
            "%(who)s has approved it while you looked; it waits for its safe copy. "
            "Look at it again.",
            who=who,
        )
    return context.gettext(
        "It changed while you looked: %(state)s, by %(who)s, %(when)s. Look at it again.",
        state=context.language.word(state_of(context, avatar)),
        who=who_decided(context, avatar),
        when=context.language.ago(context.store.now() - avatar.updated_at),
    )


def state_of(context: Context, avatar: Avatar) -> str:
    """As people see it: approved, too, where that waits for the safe copy."""
    return "approved" if context.store.approved_by(avatar) else str(avatar.state)


def who_decided(context: Context, avatar: Avatar) -> str:
    """A person's name, or what decided instead."""
    if who := context.store.approved_by(avatar):
        return who
    return avatar.decided_by.removeprefix("operator:") or context.gettext("nobody yet")
