"""Execute a step once more with every operation watched, and find the first harmful birth.

A birth is an operation whose operands are finite and whose result is not. It does harm if an unbroken chain
of non-finite values leads from it to the loss, a gradient, a parameter, a buffer or the state
of an optimizer. The step is executed twice: to find the birth, and to look at it and at what its operands are
made of.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import _disable_current_modes

from nanscope.recording.finite import is_finite
from nanscope.recording.rewind.batch import Batch
from nanscope.recording.rewind.chains import Chains, Start
from nanscope.recording.rewind.names import Names
from nanscope.recording.rewind.operations import VIEWS, Operation, Operations
from nanscope.recording.rewind.portrait import Portrait
from nanscope.recording.rewind.surroundings import Given, Scene

MOST_LINKS = 12
MOST_HEALED = 5


@dataclass(slots=True)
class Birth:
    """Where something non-finite was born.

    Attributes:
        data: fields of the event `origin`.
    """

    data: dict[str, Any] = field(default_factory=dict)

    @property
    def phase(self) -> str:
        """Of the step."""
        return str(self.data["phase"])


@dataclass(slots=True)
class _Course:
    """How a step went: which of its operations made what does harm in the end."""

    operations: Operations
    scene: Scene
    ends: set[int] = field(default_factory=set)
    loss_is_finite: bool = True
    error: Exception | None = None

    def see_roots(self, roots: Sequence[Tensor]) -> None:
        """A backward pass begins."""
        self._see_loss()
        with _disable_current_modes():  # the look itself is no part of the step
            for root in roots:
                if not is_finite(root):
                    self.loss_is_finite = False
                    self.end_at(root)

    def _see_loss(self) -> None:
        """What was computed since the pass before, outside of the model and of optimizers, is loss.

        What was computed before the model was called is data.
        """
        if self.scene.is_updating:
            return
        phase = "loss"
        for operation in reversed(self.operations.made):
            if operation.phase == "backward":
                return
            if operation.phase == "forward":
                phase = "data"
            elif phase == "loss" or operation.phase == "update":
                operation.phase = phase

    def see_gradient(self, roots: Sequence[Tensor]) -> None:
        """A gradient is asked for, which may or may not become part of the loss."""
        with _disable_current_modes():
            self.loss_is_finite &= all(map(is_finite, roots))

    def end_at(self, tensor: Tensor) -> None:
        """A broken tensor does harm."""
        maker = self.operations.maker(tensor)
        if maker is not None:
            self.ends.add(maker)


def watch(
    step: Callable[[], object],
    model: nn.Module,
    optimizers: Sequence[Optimizer],
    *,
    inputs: Sequence[Tensor] = (),
    targets: Sequence[Tensor] = (),
    rows: int = 0,
    axis: int = 0,
    again: Callable[[], None],
    given: Given = lambda: None,
    is_open: bool = False,
) -> Birth | None:
    """The first harmful birth in a step.

    Args:
        step: executes it; whatever it changes stays changed.
        inputs: what goes into the model, `targets` what else comes from outside of the step.
        rows: samples in the batch, along dimension `axis` of the inputs.
        again: puts everything back as it was before the step.
        given: the user's frames of the function under way, where a step is executed again from a tape.
        is_open: whether the step was left before its end, so that what broke last is harm enough.

    Returns:
        None if nothing that was born did harm.

    Raises:
        Exception: what the step raised, if nothing was born before.
    """
    names = Names(model, optimizers, inputs, targets)
    course = _followed(step, Scene(model, given), names, model, optimizers)
    made = course.operations.made
    chains = Chains(made, loss_is_finite=course.loss_is_finite)
    start = chains.start_of(course.ends)
    if start is None and (course.error is not None or is_open):
        start = chains.birth_of(_last_seen(made))
    if start is None:
        if course.error is not None:
            raise course.error
        return None
    again()
    portrait = Portrait(made, start, names, Batch(rows, axis))
    scene = Scene(model, given)
    second = Operations(scene, names, wanted=portrait.wanted, before=portrait.before, after=portrait.after)
    scene.on_given = second.see_given
    with suppress(Exception), scene.watched(), second:  # it ends with the birth, if the step does not fail
        step()
    return Birth(portrait.data() | _what_followed(chains, start, made))


def _followed(
    step: Callable[[], object], scene: Scene, names: Names, model: nn.Module, optimizers: Sequence[Optimizer]
) -> _Course:
    course = _Course(Operations(scene, names), scene)
    scene.on_backward, scene.on_gradient = course.see_roots, course.see_gradient
    scene.on_given = course.operations.see_given
    try:
        with scene.watched(), course.operations:
            step()
    except Exception as error:  # noqa: BLE001 - a check of the program's own may raise after the birth
        course.error = error
    for tensor in _harmed(model, optimizers):
        if not is_finite(tensor):
            course.end_at(tensor)
    return course


def _last_seen(made: Sequence[Operation]) -> set[int]:
    """What the program last had in hand that was broken, when it gave up."""
    last = next((o for o in reversed(made) if o.broken or o.bad_sources), None)
    if last is None or last.broken:
        return set() if last is None else {last.index}
    return {source for _, source in last.bad_sources if source is not None}


def _harmed(model: nn.Module, optimizers: Sequence[Optimizer]) -> Iterator[Tensor]:
    """What must be finite after a step."""
    parameters = {id(p): p for p in model.parameters()}
    parameters |= {id(p): p for o in optimizers for group in o.param_groups for p in group["params"]}
    for parameter in parameters.values():
        yield parameter
        if parameter.grad is not None:
            yield parameter.grad
    yield from model.buffers()
    for optimizer in optimizers:
        for state in optimizer.state.values():
            yield from (value for value in state.values() if isinstance(value, Tensor))


def _what_followed(chains: Chains, start: Start, made: Sequence[Operation]) -> dict[str, Any]:
    later = chains.later(start)
    links = later if len(later) <= MOST_LINKS else [*later[: MOST_LINKS // 2], *later[-MOST_LINKS // 2 :]]
    harmful = {start.index, *(operation.index for operation in later)}
    before = [o for o in made[: start.index] if o.broken and o.index not in harmful and o.name not in VIEWS]
    return {"trail": list(map(_link, links)), "healed": list(map(_link, before[:MOST_HEALED]))}


def _link(operation: Operation) -> dict[str, Any]:
    around = operation.around
    frames = () if around is None else around.frames
    file, line, function = frames[0] if frames else (None, None, None)
    return {
        "op": operation.name,
        "call": None if around is None else around.call,
        "module": "" if around is None else around.module,
        "phase": operation.phase,
        "location": None if file is None else {"file": file, "line": line, "function": function},
        **operation.counts,
    }
