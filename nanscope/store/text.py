"""Text from a run file: cleaned once, here, so that no screen has to fear it."""

from __future__ import annotations

from typing import Any


def clean(text: str, keep: str = "") -> str:
    """Text with `?` for every control character, bidi control and lone surrogate, but for those to keep."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in keep else "?" for c in text)


def clean_json(value: Any) -> Any:
    """JSON value with every string in it cleaned; line breaks and tabs stay, for tracebacks and code."""
    if isinstance(value, str):
        return clean(value, keep="\n\t")
    if isinstance(value, list):
        return [clean_json(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean_json(item) for key, item in value.items()}
    return value
