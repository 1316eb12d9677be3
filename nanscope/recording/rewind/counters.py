"""Numbers that modules keep as plain attributes, such as a count of their calls: they are state, too.

Nobody tells when one of them changes. But a step that is executed again changes it by as much as it did the
first time, and so what it was before follows from what it is now.
"""

from __future__ import annotations

from torch import nn

Values = dict[tuple[str, str], float | int]
"""By the name of the module and that of the attribute."""


class Counters:
    """Of one model, when steps are about to be executed again.

    Attributes:
        begin: the values with which an execution begins.
    """

    def __init__(self, model: nn.Module) -> None:
        self._modules = dict(model.named_modules())
        self._live = self.begin = self.now()

    def now(self) -> Values:
        """The present values."""
        return {
            (name, key): value
            for name, module in self._modules.items()
            for key, value in module.__dict__.items()
            if type(value) in (int, float)
        }

    def put(self) -> None:
        """Begin anew."""
        for (name, key), value in self.begin.items():
            self._modules[name].__dict__[key] = value

    def restore(self) -> None:
        """As the program has them now."""
        self.begin = self._live
        self.put()

    def moved(self) -> Values:
        """By how much what was executed since the beginning has changed them; those that did change."""
        now = self.now()
        moves = {key: now[key] - value for key, value in self.begin.items() if key in now}
        return {key: move for key, move in moves.items() if move}

    def step_back(self, executed: int, steps: int) -> bool:
        """Let an execution of all steps end with the values that the program had.

        Args:
            executed: steps since the beginning, of `steps` in all.

        Returns:
            Whether that is another beginning.
        """
        before, moves = self.begin, self.moved()
        shares = {key: move * steps / executed for key, move in moves.items()}
        self.begin = {key: type(v)(v - shares.get(key, 0)) for key, v in self._live.items()}
        return self.begin != before

    def names(self) -> str:
        """Those that changed, in words."""
        return ", ".join(f"{name}.{key}".lstrip(".") for name, key in self.moved())
