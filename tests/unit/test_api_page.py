"""docs/api.md says what the OpenAPI document says: routes, statuses, fields and error codes."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI

from producer.web.api import avatars, classify, misskey, operate, ops, reasons, uploads
from producer.web.api.schemas import AvatarData, UploadIn

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")


def routes() -> dict[str, dict[str, Any]]:
    """What the OpenAPI document says about each `METHOD /path`."""
    app = FastAPI()
    for part in (ops, uploads, operate, avatars, classify, misskey, reasons):
        app.include_router(part.router)
    return {
        f"{method.upper()} {path}": operation
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    }


def test_every_route_is_on_the_page_and_nothing_else_is() -> None:
    """One row of the first table each."""
    named = re.findall(r"^\| `((?:GET|POST|DELETE) [^`]+)` \|", PAGE, re.MULTILINE)
    assert sorted(named) == sorted(routes())


@pytest.mark.parametrize("route", sorted(routes()))
def test_every_status_of_a_route_is_explained(route: str) -> None:
    """Its own answers in its row, errors in the table of errors."""
    (row,) = [line for line in PAGE.splitlines() if line.startswith(f"| `{route}` |")]
    errors = re.findall(r"^\| (\d{3}) \|", PAGE, re.MULTILINE)
    own = re.findall(r"\b\d{3}\b", row)
    statuses = routes()[route]["responses"]
    assert set(statuses) <= set(own) | set(errors)
    assert set(own) <= set(statuses)


def test_every_field_is_explained() -> None:
    """Of a request and of an answer."""
    for field in {**UploadIn.model_fields, **AvatarData.model_fields}:
        assert re.search(rf"^\| [^|]*`{field}`[^|]* \|", PAGE, re.MULTILINE), field


def test_every_code_of_an_error_is_explained() -> None:
    """All that the API's code names itself."""
    codes = {
        call.args[1].value
        for path in sorted((ROOT / "producer" / "web").rglob("*.py"))
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Name)
        and call.func.id == "Problem"
        and isinstance(call.args[1], ast.Constant)
    }
    assert len(codes) >= 8
    assert sorted(code for code in codes if f"`{code}`" not in PAGE) == []  # type: ignore[type-var]
