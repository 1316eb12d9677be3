"""What a verification has looked at and found so far."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nanscope.numbers import count
from nanscope.run import Column
from nanscope.store.verification.recount import Disagreement

MOST_PROBLEMS = 200  # that are told of one run; a file full of noise has millions


class Tally:
    """Counts what was checked and keeps what was found.

    Attributes:
        checked: how much was looked at, by what it is.
        problems: what is wrong and where, a sentence each.
        notes: what is no damage, but good to know.
        width: number of columns.
    """

    def __init__(self, columns: Sequence[Column], prefix: str, report: Callable[[int], None]) -> None:
        self.checked: dict[str, int] = {}
        self.problems: list[str] = []
        self.notes: list[str] = []
        self._columns, self._prefix, self._report = columns, prefix, report
        self._more = 0
        self.width = len(columns)

    def count(self, what: str, number: int = 1) -> None:
        """So many more of these were checked."""
        self.checked[what] = self.checked.get(what, 0) + number

    def advance(self, rows: int) -> None:
        """So many more rows are done with."""
        self._report(rows)

    def problem(self, sentence: str) -> None:
        """Something is wrong."""
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(self._prefix + sentence)
        else:
            self._more += 1

    @property
    def found(self) -> int:
        """How many problems there are, told or not."""
        return len(self.problems) + self._more

    def note(self, sentence: str) -> None:
        """Something is good to know."""
        self.notes.append(self._prefix + sentence)

    def disagreement(self, found: Disagreement, steps: str) -> None:
        """A summary and the values that it summarises do not agree."""
        what = f"its summary has {found.quantity} {found.stored:g}, its values have {found.counted:g}"
        self.problem(f"{self.series(found.column)}, {steps}: {what}")

    def series(self, column: int) -> str:
        """A column by name."""
        site, stat = self._columns[column].site, self._columns[column].stat
        return stat or f"spare column {column}" if site is None else f"{site}.{stat}"

    def close(self) -> None:
        """Say how much is not told."""
        if self._more:
            self.problems.append(f"{self._prefix}and {count(self._more)} more problems")
