"""The columns of `overhead.py`: ways to watch a training, switched on and off between two steps of it.

What a rival *says* is any warning, error or event that reaches its user by itself.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import nanscope
from nanscope.recording.alert import WINDOW
from tests.benchmarks.overhead_models import Training

OFTEN = 4  # steps between two looks that are still far enough apart not to touch


class Bare:
    """Nobody watches; also what the others have in common.

    Attributes:
        said: what was said, with the number of the step in which it was.
    """

    needs: str | None = None  # the package without which there is no such column

    def __init__(self, training: Training, folder: Path) -> None:
        self.training, self.folder = training, folder
        self.said: list[tuple[int, str]] = []

    def on(self) -> None:
        """Watch from the next step on."""

    def off(self) -> None:
        """Do not watch any more, until `on`."""

    def step(self) -> None:
        """One step."""
        self.training.step()

    def flush(self) -> None:
        """Write down what waits to be written."""

    def close(self) -> None:
        """The training is over."""

    def say(self, words: str) -> None:
        """Note what was said."""
        self.said.append((self.training.number, words))


class Recorded(Bare):
    """`nanscope.record`, file and all."""

    def __init__(self, training: Training, folder: Path) -> None:
        super().__init__(training, folder)
        self.recorder = nanscope.record(training.model, training.optimizer, folder / "run.h5")
        self.recorder.__enter__()
        self.recorder._suspend()

    @property
    def path(self) -> Path:
        """The run file."""
        assert self.recorder.path is not None
        return self.recorder.path

    def on(self) -> None:
        """Hooks on."""
        self.recorder._resume()

    def off(self) -> None:
        """Hooks off."""
        self.recorder._suspend()

    def flush(self) -> None:
        """The rows of all steps so far."""
        if (ledger := self.recorder._ledger) is not None:
            ledger.write(wait=True)

    def close(self) -> None:
        """Finish the run file."""
        self.recorder.close()
        assert self.recorder.steps, "nothing was recorded, so nothing was measured"


class Paced:
    """The same recorder with its close looks in other steps than every hundredth, in calm weather.

    Which of them are also looks at the weights depends on the batch; it is the same share of them as ever.
    """

    def __init__(self, recorded: Recorded, pace: Callable[[int], int]) -> None:
        self.recorded, self.pace = recorded, pace
        self.step, self.flush = recorded.step, recorded.flush

    def on(self) -> None:
        """A step is looked at if the one that `pace` gives would be."""
        self.recorded.on()
        alert = self._alert()
        due, looks = alert.due, alert.looks
        alert.due = lambda step: due(self.pace(step))
        alert.looks = lambda step, samples: looks(self.pace(step), samples)

    def off(self) -> None:
        """As it was."""
        self.recorded.off()
        alert = self._alert()
        del alert.due, alert.looks

    def _alert(self) -> Any:
        ledger = self.recorded.recorder._ledger
        assert ledger is not None
        return ledger.alert


def never(step: int) -> int:
    """No step is looked at."""
    return step * WINDOW + 1


def often(step: int) -> int:
    """Every fourth step is looked at."""
    return step * (WINDOW // OFTEN)


class Anomaly(Bare):
    """`torch.autograd.detect_anomaly`, around the whole step."""

    def on(self) -> None:
        """Enter the mode."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it is slow is what is being measured
            self.mode = torch.autograd.detect_anomaly()
        self.mode.__enter__()

    def off(self) -> None:
        """Leave it."""
        self.mode.__exit__(None, None, None)


class Handwritten(Bare):
    """What people write: norm and finiteness of the loss, every output, its gradient, every gradient."""

    def __init__(self, training: Training, folder: Path) -> None:
        super().__init__(training, folder)
        self.norms: dict[str, float] = {}
        self.handles: list[RemovableHandle] = []

    def on(self) -> None:
        """Forward and full backward hooks on every module."""
        for name, module in self.training.model.named_modules():
            self.handles.append(module.register_forward_hook(self._forward(name)))
            self.handles.append(module.register_full_backward_hook(self._backward(name)))

    def off(self) -> None:
        """Take them off."""
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def step(self) -> None:
        """A step with a look at loss and gradients before the update."""
        self.look("loss", self.training.gradients())
        for name, parameter in self.training.model.named_parameters():
            if parameter.grad is not None:
                self.look(f"gradient of {name}", parameter.grad)
        self.training.update()

    def look(self, name: str, tensor: Tensor) -> None:
        """As everybody does."""
        self.norms[name] = tensor.detach().norm().item()
        if not torch.isfinite(tensor).all():
            self.say(f"{name} is not finite")

    def _forward(self, name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _args, output: self.look(f"output of {name}", output)

    def _backward(self, name: str) -> Callable[[nn.Module, Any, tuple[Tensor | None, ...]], None]:
        def hook(_module: nn.Module, _into: Any, gradients: tuple[Tensor | None, ...]) -> None:
            for gradient in gradients:
                if gradient is not None:
                    self.look(f"gradient at {name}", gradient)

        return hook


class HuggingFace(Bare):
    """Hugging Face's `DebugUnderflowOverflow`, which prints and raises in the forward pass."""

    needs = "transformers"

    def on(self) -> None:
        """It has no off, so remember which hooks were there before."""
        modules = list(self.training.model.modules())
        self.before = [(module, set(module._forward_hooks)) for module in modules]
        import_module("transformers.debug_utils").DebugUnderflowOverflow(self.training.model)

    def off(self) -> None:
        """Take off what it put on."""
        for module, before in self.before:
            for key in set(module._forward_hooks) - before:
                del module._forward_hooks[key]

    def step(self) -> None:
        """A step; its prints go nowhere."""
        with contextlib.redirect_stdout(io.StringIO()):
            self.training.step()


class Trainscope(Bare):
    """trainscope, an always-on recorder, with its default settings: `scope.step(loss)` before the update."""

    needs = "trainscope"

    def __init__(self, training: Training, folder: Path) -> None:
        super().__init__(training, folder)
        package = import_module("trainscope")
        config = package.TrainScopeConfig(run_dir=str(folder), run_name="trainscope")
        self.scope = package.TrainScope(training.model, training.optimizer, config)
        self.logger = logging.getLogger("trainscope")
        self.handler = Listener(self.say)
        self.logger.addHandler(self.handler)
        self.logger.propagate = False

    def on(self) -> None:
        """Hooks on."""
        self.scope.attach()

    def off(self) -> None:
        """Hooks off; the file stays open."""
        for hook in self.scope._hooks:
            hook.remove()
        self.scope._hooks.clear()

    def step(self) -> None:
        """A step as its documentation has it."""
        loss = self.training.gradients().item()
        if (event := self.scope.step(loss)) is not None:
            self.say(f"spike, score {event['spike_score']:.1f}")
        self.training.update()

    def close(self) -> None:
        """Close its files."""
        self.scope.detach()
        self.logger.removeHandler(self.handler)


class Listener(logging.Handler):
    """Passes warnings of a log on."""

    def __init__(self, say: Callable[[str], None]) -> None:
        super().__init__(logging.WARNING)
        self.say = say

    def emit(self, record: logging.LogRecord) -> None:
        """Called by `logging`."""
        self.say(record.getMessage())


RECORDED = "recorded"
RIVALS: dict[str, type[Bare]] = {
    "detect_anomaly": Anomaly,
    "hand-written hooks": Handwritten,
    "DebugUnderflowOverflow": HuggingFace,
    "trainscope": Trainscope,
}


def installed(rival: type[Bare]) -> bool:
    """Whether it can be tried here."""
    return rival.needs is None or find_spec(rival.needs) is not None
