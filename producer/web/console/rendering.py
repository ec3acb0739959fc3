"""Templates to pages, in the reader's language."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import quote

from fastapi.responses import HTMLResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from producer.contract import public_url
from producer.web.console import charts
from producer.web.console.context import PREFIX, Context
from producer.web.console.lanes import counts_of
from producer.web.console.languages import Language, iso_time


def show(context: Context, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A rendered page."""
    return HTMLResponse(render(context, template, **values), status)


def render(context: Context, template: str, **values: Any) -> str:
    """A page, or a part of one, as text."""
    return context.console.render(context, template, **values)


def make_renderer(languages: Mapping[str, Language]) -> Callable[..., str]:
    """A function (context, template, values) -> page, with one environment a language."""
    environments = {tag: _environment(language) for tag, language in languages.items()}

    def render(context: Context, template: str, **values: Any) -> str:
        found = environments[context.language.tag].get_template(template)
        return found.render(context=context, **values)

    return render


def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=PackageLoader("producer.web.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.i18n"],
    )
    environment.install_gettext_translations(  # type: ignore[attr-defined]
        language.translations, newstyle=True
    )
    environment.globals.update(
        charts=charts,
        counts_of=counts_of,
        language=language,
        picture_url=_picture_url,
        prefix=PREFIX,
        upload_url=_upload_url,
    )
    environment.filters.update(
        ago=language.ago,
        capitalize_first=lambda text: text[:1].upper() + text[1:],
        decided_by=language.decided_by,
        iso=iso_time,
        json=lambda value: json.dumps(value, ensure_ascii=False, indent=2),
        money=language.money,
        number=language.number,
        percent=language.percent,
        public_url=public_url,
        reason=language.reason,
        size=language.size,
        span=language.span,
        sure=language.sure,
        text=language.text,
        time=language.time,
        word=language.word,
    )
    return environment


def _picture_url(upload_id: str, size: str = "") -> str:
    place = f"{PREFIX}/picture/{quote(upload_id, safe='@:')}"
    return f"{place}?size={size}" if size else place


def _upload_url(upload_id: str) -> str:
    return f"{PREFIX}/uploads/{quote(upload_id, safe='@:')}"
