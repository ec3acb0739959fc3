"""Which callback addresses an upload may name."""

from __future__ import annotations

import pytest

from producer.client import is_under


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://a.example/hook", "https://a.example"),
        ("https://a.example/hook", "https://a.example/"),
        ("https://a.example/hook", "https://a.example/hook"),
        ("https://a.example/hook?x=1", "https://a.example/hook"),
        ("https://a.example/hook/17", "https://a.example/hook/"),
        ("https://a.example:8443/hook", "https://a.example:8443"),
    ],
)
def test_at_or_below_an_allowed_address(url: str, allowed: str) -> None:
    """Same scheme, host and port, and the path or one below it."""
    assert is_under(url, allowed)


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("http://a.example/hook", "https://a.example"),
        ("https://b.example/hook", "https://a.example"),
        ("https://a.example.evil.example/", "https://a.example"),
        ("https://a.example@evil.example/", "https://a.example"),
        ("https://evil@a.example/", "https://a.example"),
        ("https://a.example:444/", "https://a.example"),
        ("https://a.example/hooked", "https://a.example/hook"),
        ("https://a.example/hook/../admin", "https://a.example/hook"),
        ("https://a.example/hook/%2e%2e/admin", "https://a.example/hook"),
        ("https://a.example/hook/%2E./admin", "https://a.example/hook"),
        ("https://a.example/hook/..%2fadmin", "https://a.example/hook"),
        ("https://a.example/hook\\..\\admin", "https://a.example/hook"),
        ("https://a.example\\@evil.example/", "https://a.example"),
        ("https://a.example/hook\n", "https://a.example/hook"),
        ("https://a.exam\tple/hook", "https://a.example/hook"),
        (" https://a.example/hook", "https://a.example/hook"),
        ("/hook", "https://a.example/hook"),
        ("", "https://a.example/"),
    ],
)
def test_no_trick_leads_elsewhere(url: str, allowed: str) -> None:
    """Not by user names, look-alikes, dots, encodings, backslashes or blanks."""
    assert not is_under(url, allowed)
