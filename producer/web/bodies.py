"""What a request's body says it is."""

from __future__ import annotations

import email.message

from fastapi import Request

from producer.web.problems import Problem

#: Bytes of one form field that is no file.
MAX_FIELD_BYTES = 16 * 1024


def media_type(request: Request) -> str:
    """The media type of a body, in lower case.

    Raises:
        Problem: 415, its text is in another charset than UTF-8; some take minutes to decode.
    """
    message = email.message.Message()
    message["content-type"] = request.headers.get("content-type", "")
    charsets = [value for name, value in message.get_params([]) if name.startswith("charset")]
    if any(str(charset).lower() not in ("utf-8", "utf8") for charset in charsets):
        raise Problem(415, "unsupported_media_type", "send text in the charset utf-8")
    return message.get_content_type() if message["content-type"] else ""
