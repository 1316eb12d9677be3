"""What counts as a failure: the ini options, overridden by the markers of a test."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from nanscope.values import Phase

KINDS = ("nan", "inf")


class PolicyError(Exception):
    """An option or an argument of the marker that nobody knows; says what may be written instead."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What counts as a failure.

    Attributes:
        allow: of `nan` and `inf`, what may occur.
        collapse: whether a collapse to one class is a failure, too.
        modules: patterns of module names; only what is born in one of them is a failure. None for all.
        phases: words of `Phase`; only what is born in one of them is a failure. None for all.
        skip: whether nothing is watched.
    """

    allow: frozenset[str] = frozenset()
    collapse: bool = False
    modules: tuple[str, ...] | None = None
    phases: frozenset[str] | None = None
    skip: bool = False

    def but(self, arguments: Mapping[str, Any]) -> Policy:
        """With other values for some attributes, as a marker or an ini file has them.

        Raises:
            PolicyError: a name or a value that is not known.
        """
        unknown = arguments.keys() - CHECKS.keys()
        if unknown:
            raise PolicyError(f"nanscope does not know {min(unknown)!r}: it takes {', '.join(CHECKS)}")
        checked: dict[str, Any] = {name: CHECKS[name](value) for name, value in arguments.items()}
        return replace(self, **checked)

    def takes_module(self, name: str) -> bool:
        """Whether what is born in this module counts; the module itself goes with `name.*`."""
        if self.modules is None:
            return True
        return any(fnmatchcase(name, p) or fnmatchcase(name, p.removesuffix(".*")) for p in self.modules)

    def takes_phase(self, phase: str) -> bool:
        """Whether what is born in this phase counts."""
        return self.phases is None or phase in self.phases


def _words(value: Any) -> tuple[str, ...]:
    """One word, several between commas, or a sequence of them."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, Iterable) or not all(isinstance(part, str) for part in parts):
        raise PolicyError(f"nanscope takes words here, not {value!r}")
    return tuple(word.strip() for part in parts for word in part.split(",") if word.strip())


def _some_of(known: Iterable[str], value: Any) -> frozenset[str]:
    words = frozenset(map(str.lower, _words(value)))
    if unknown := words - set(known):
        raise PolicyError(f"nanscope does not know {min(unknown)!r}: say any of {', '.join(known)}")
    return words


def _allow(value: Any) -> frozenset[str]:
    return _some_of(KINDS, value)


def _phases(value: Any) -> frozenset[str] | None:
    return None if value is None else _some_of(list(Phase), value)


def _modules(value: Any) -> tuple[str, ...] | None:
    return None if value is None else _words(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise PolicyError(f"nanscope takes True or False here, not {value!r}")
    return value


CHECKS = {"allow": _allow, "collapse": _flag, "modules": _modules, "phases": _phases, "skip": _flag}
"""The arguments of the marker, each with what makes an attribute of its value."""
