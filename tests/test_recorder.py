"""How the recorder behaves in a loop: what a step is, what it leaves behind, how it fails."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - the field's name for it

import nanscope
from nanscope.errors import NonFiniteError, UsageError
from nanscope.recording.arena import ROWS
from nanscope.recording.measure import Gauge
from nanscope.recording.rewind import memory
from nanscope.run import Run, is_missing
from nanscope.values import Epoch, Kind
from tests import models

X = torch.linspace(-1, 1, 24).reshape(3, 8)
Y = torch.tensor([0, 1, 3])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A name for a run file."""
    return tmp_path / "run.h5"


@pytest.fixture
def model() -> nn.Module:
    """A small network."""
    torch.manual_seed(0)
    return models.mlp()


def sgd(model: nn.Module, lr: float = 0.01) -> torch.optim.SGD:
    """Plain SGD."""
    return torch.optim.SGD(model.parameters(), lr=lr)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor = X) -> None:
    """One ordinary step."""
    optimizer.zero_grad()
    F.cross_entropy(model(x), Y).backward()
    optimizer.step()


def hooks(model: nn.Module) -> list[Any]:
    """Every hook on a model and its parameters."""
    tables = [(m._forward_hooks, m._forward_pre_hooks, m._backward_hooks) for m in model.modules()]
    return [hook for three in tables for table in three for hook in table.values()]


def outputs(run: Run) -> dict[str, Any]:
    """The norms of all outputs, by site."""
    return {str(site): run.series(site) for site in run.sites if site.kind is Kind.OUTPUT}


def test_everything_is_put_back(model: nn.Module, path: Path) -> None:
    """No hook, no patched function, no reference to a tensor survives the block."""
    original, call = torch.autograd.backward, nn.Module.__call__
    optimizer = sgd(model)
    with nanscope.record(model, optimizer, path):
        step(model, optimizer)
        assert torch.autograd.backward is not original
        assert nn.Module.__call__ is not call
        assert not hooks(model)
        x = X.clone()
        gone = weakref.ref(x)
        F.cross_entropy(model(x), Y).backward()
        del x
    gc.collect()
    assert torch.autograd.backward is original
    assert nn.Module.__call__ is call
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks
    assert gone() is None


def _half_a_step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    step(model, optimizer)
    model(X)
    raise ZeroDivisionError("in the loop")


def test_memory_stays_flat(model: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded loop keeps no more tensors alive after hundreds of steps than after some."""
    monkeypatch.setattr(memory, "MOST_STEPS", 10)  # that can be executed again: each keeps its batch
    optimizer = sgd(model)
    with nanscope.record(model, optimizer, path):
        _train(model, optimizer, [X] * 2 * ROWS)  # until every row of the arena was used
        few = _tensors_alive()
        _train(model, optimizer, [X] * 400)
        assert _tensors_alive() <= few + 2 * ROWS  # logits of the steps that wait for their batch


def _tensors_alive() -> int:
    gc.collect()
    return sum(type(thing) is Tensor for thing in gc.get_objects())


def test_everything_is_put_back_after_an_exception(model: nn.Module, path: Path) -> None:
    """A step that raises half-way leaves a readable file, the error in it, and no hook."""
    optimizer = sgd(model)
    with pytest.raises(ZeroDivisionError), nanscope.record(model, optimizer, path):
        _half_a_step(model, optimizer)
    assert not hooks(model)
    run = nanscope.open_run(path)
    assert (len(run), run.state) == (1, "failed")
    (event,) = run.events_of("error")
    assert event["message"] == "ZeroDivisionError: in the loop"


def test_an_exception_inside_the_forward_costs_only_its_step(model: nn.Module, path: Path) -> None:
    """A forward or backward that raises and is caught by the loop: the next steps are recorded as usual."""
    optimizer = sgd(model)
    with nanscope.record(model, optimizer, path):
        step(model, optimizer)
        with pytest.raises(RuntimeError):
            model(torch.zeros(3, 5))
        loss = F.cross_entropy(model(X), Y)
        loss.register_hook(lambda _g: (_ for _ in ()).throw(ValueError("in the backward")))
        with pytest.raises(ValueError, match="in the backward"):
            loss.backward()
        step(model, optimizer)
    run = nanscope.open_run(path)
    assert len(run) == 2
    assert run.scalar("samples")[1] == 3


def _interrupted(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    step(model, optimizer)
    raise KeyboardInterrupt


def test_ctrl_c_is_an_interruption(model: nn.Module, path: Path) -> None:
    """KeyboardInterrupt passes through and the run is marked as interrupted."""
    optimizer = sgd(model)
    with pytest.raises(KeyboardInterrupt), nanscope.record(model, optimizer, path):
        _interrupted(model, optimizer)
    assert nanscope.open_run(path).state == "interrupted"


def test_a_block_without_a_step_still_leaves_a_file(model: nn.Module, path: Path) -> None:
    """Zero steps: the file opens and says so."""
    with nanscope.record(model, sgd(model), path):
        pass
    run = nanscope.open_run(path)
    assert (len(run), run.state) == (0, "finished")


def test_evaluation_is_not_training(path: Path) -> None:
    """Calls without autograd, and evaluations that forgot no_grad, leave no trace in the rows."""
    runs = []
    for evaluate in (False, True):
        torch.manual_seed(0)
        fresh = models.mlp()
        optimizer = sgd(fresh)
        where = path.with_stem(f"run{evaluate}")
        with nanscope.record(fresh, optimizer, where):
            for _ in range(4):
                step(fresh, optimizer)
                if evaluate:
                    with torch.no_grad():
                        fresh(X * 100)
                    with torch.inference_mode():
                        fresh(X * 100)
                    fresh.eval()
                    fresh(X * 100)
                    fresh(X * 100)
                    fresh.train()
        runs.append(nanscope.open_run(where))
    plain, evaluated = runs
    assert len(plain) == len(evaluated) == 4
    for site in plain.sites:
        assert plain.series(site).tobytes() == evaluated.series(site).tobytes(), site


def test_a_module_that_is_not_called_is_missing(path: Path) -> None:
    """Missing is not NaN: a skipped module and a parameter without gradient hold no measurement."""
    torch.manual_seed(0)
    model = models.Structured()
    optimizer = sgd(model)
    with nanscope.record(model, optimizer, path):
        for _ in range(2):
            F.cross_entropy(model(X).scores, Y).backward()
            optimizer.step()
    run = nanscope.open_run(path)
    silent = {str(site) for site in run.sites if is_missing(run.series(site)).all()}
    assert {"unused.output", "unused.weight.grad", "frozen.weight.grad"} <= silent
    assert "block.head.output" not in silent


def test_several_optimizers_share_a_step(model: nn.Module, path: Path) -> None:
    """Two optimizers that step after the same backward end one step, not two."""
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (model[0], model[2])]
    with nanscope.record(model, optimizers, path) as recorder:
        for _ in range(3):
            model.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            for optimizer in optimizers:
                optimizer.step()
        assert recorder.steps == 3


def test_alternating_optimizers_each_end_a_step(model: nn.Module, path: Path) -> None:
    """Two optimizers that take turns end a step each."""
    first, second = (torch.optim.SGD(layer.parameters(), lr=0.1) for layer in (model[0], model[2]))
    with nanscope.record(model, (first, second), path):
        for optimizer in (first, second, first, second):
            step(model, optimizer)
    assert len(nanscope.open_run(path)) == 4


def test_two_models_are_recorded_apart(tmp_path: Path) -> None:
    """A generator and a critic in one loop: each file holds its own model's steps and gradients."""
    torch.manual_seed(0)
    generator, critic = nn.Linear(8, 8), nn.Linear(8, 1)
    ours, theirs = sgd(generator), sgd(critic)
    files = tmp_path / "generator.h5", tmp_path / "critic.h5"
    with nanscope.record(generator, ours, files[0]), nanscope.record(critic, theirs, files[1]):
        for _ in range(3):
            theirs.zero_grad()
            critic(generator(X).detach()).mean().backward()
            theirs.step()
            ours.zero_grad()
            critic(generator(X)).mean().neg().backward()
            ours.step()
    runs = [nanscope.open_run(file) for file in files]
    assert [len(run) for run in runs] == [3, 3]
    # the generator's backward ran through the critic too, but zero_grad threw those gradients away
    assert runs[1].scalar("samples").tolist() == [3.0, 3.0, 3.0]


def test_an_optimizer_is_found_by_its_parameters(model: nn.Module, path: Path) -> None:
    """Without an optimizer argument, only an optimizer of this model's parameters ends a step."""
    other = models.mlp()
    with nanscope.record(model, None, path) as recorder:
        step(other, sgd(other))
        assert recorder.steps == 0
        step(model, sgd(model))
        assert recorder.steps == 1


def test_a_step_given_as_a_function_needs_no_optimizer(model: nn.Module, path: Path) -> None:
    """A hand-written update is a step too, if it is run through the recorder."""

    def by_hand(x: Tensor) -> str:
        F.cross_entropy(model(x), Y).backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=0.1)
                parameter.grad = None
        return "done"

    with nanscope.record(model, None, path) as recorder:
        assert [recorder.step(by_hand, X) for _ in range(3)] == ["done"] * 3
    assert len(nanscope.open_run(path)) == 3


def test_a_loop_without_any_optimizer_is_told_so(model: nn.Module, path: Path) -> None:
    """Backward passes without a step: one warning that says what to do."""
    with pytest.warns(RuntimeWarning, match="pass the optimizer"), nanscope.record(model, None, path):
        F.cross_entropy(model(X), Y).backward()


def test_the_same_model_twice_is_refused(model: nn.Module, path: Path) -> None:
    """A second recorder on a model that is being recorded is an error; afterwards it is fine."""
    with nanscope.record(model, None, path):
        with pytest.raises(UsageError, match="already being recorded"), nanscope.record(model, None, path):
            pass
        step(model, sgd(model))
    assert len(nanscope.open_run(path)) == 1
    with nanscope.record(model, None, path.with_stem("again")):
        pass


def test_the_update_of_a_broken_step_is_looked_at(model: nn.Module, path: Path) -> None:
    """The step whose loss is not finite is the one in which the weights are seen to break."""
    optimizer = sgd(model)
    with nanscope.record(model, optimizer, path):
        for number in range(40):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X), Y)
            (loss * torch.inf if number == 35 else loss).backward()
            optimizer.step()
    run = nanscope.open_run(path)
    weight = next(site for site in run.sites if str(site) == "0.weight")
    assert is_missing(run.series(weight)[34])
    assert run.series(weight, "nan_count")[35] > 0


def test_arguments_are_checked(model: nn.Module, path: Path) -> None:
    """A wrong word, optimizer or module name is refused before anything is attached."""
    with pytest.raises(UsageError, match="is no torch optimizer"):
        nanscope.record(model, "run.h5")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="on_nonfinite"):
        nanscope.record(model, None, path, on_nonfinite="explode")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="names no watched module"):
        nanscope.record(model, None, path, logits="head")


def poison() -> Iterator[Tensor]:
    """Two sound batches and one that holds an infinity."""
    yield X
    yield X
    yield X.clone().index_fill_(0, torch.tensor([1]), float("inf"))
    for _ in range(3):
        yield X


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Tensor]) -> None:
    for x in batches:
        step(model, optimizer, x)


def test_raise_on_nonfinite(model: nn.Module, path: Path) -> None:
    """The error comes at the end of the bad step, names step, phase and site, and leaves the run readable."""
    optimizer = sgd(model)
    said = r"step 2, data phase, first at model.input.*diagnose"
    with (
        pytest.raises(NonFiniteError, match=said),
        nanscope.record(model, optimizer, path, on_nonfinite="raise"),
    ):
        _train(model, optimizer, poison())
    assert len(nanscope.open_run(path)) == 3


def test_stop_on_nonfinite(model: nn.Module, path: Path) -> None:
    """The block is left after the bad step, quietly, and the program goes on behind it."""
    optimizer, done = sgd(model), []
    with nanscope.record(model, optimizer, path, on_nonfinite="stop") as recorder:
        for x in poison():
            step(model, optimizer, x)
            done.append(recorder.steps)
    run = nanscope.open_run(path)
    assert (done, len(run), run.state) == ([1, 2], 3, "finished")


def test_an_infinity_that_the_program_means_is_no_trouble(path: Path) -> None:
    """A mask of -inf in a module's output, with a finite loss and finite gradients, raises nothing."""

    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)
            self.mask = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            return self.mask(self.layer(x).masked_fill(torch.tensor([False, False, True, False]), -torch.inf))

    model = Masked()
    optimizer = sgd(model)
    with nanscope.record(model, optimizer, path, on_nonfinite="raise") as recorder:
        for _ in range(3):
            step(model, optimizer)
        assert recorder.trouble is None
    run = nanscope.open_run(path)
    mask = next(site for site in run.sites if str(site) == "mask.output")
    assert run.series(mask, "inf_count").tolist() == [3, 3, 3]


def test_own_scalars_and_evaluations(model: nn.Module, path: Path) -> None:
    """A scalar belongs to the step under way, or to the one that just ended; evaluations come back whole."""
    optimizer = sgd(model)
    epoch = Epoch(1, 2, 2, 0.5, 1.25, 0.75, 0.5, ((1, 0), (1, 2)))
    with nanscope.record(model, optimizer, path) as recorder:
        for number in range(2):
            optimizer.zero_grad()
            F.cross_entropy(model(X), Y).backward()
            recorder.log(before=number + 0.5)
            optimizer.step()
            recorder.log(after=number)
        recorder.log_epoch(epoch)
    run = nanscope.open_run(path)
    assert run.scalar("before").tolist() == [0.5, 1.5]
    assert run.scalar("after").tolist() == [0.0, 1.0]
    assert run.epochs == (epoch,)


def test_progress_is_told(model: nn.Module, path: Path) -> None:
    """`latest` gives the step written last with its loss and its largest norm."""
    optimizer = sgd(model)
    with nanscope.record(model, optimizer, path) as recorder:
        assert recorder.latest() is None
        step(model, optimizer)
        latest = recorder.latest()
    run = nanscope.open_run(path)
    assert latest is not None
    assert latest.worst is not None
    largest = max((float(run.series(s)[0]), str(s)) for s in run.sites if s.kind is not Kind.WEIGHT)
    assert (latest.step, latest.loss) == (0, run.scalar("loss")[0])
    assert (latest.worst_l2, str(latest.worst)) == largest


def test_the_weights_are_looked_at_in_a_cadence_and_near_trouble(model: nn.Module, path: Path) -> None:
    """Parameters: at the start, every hundredth step, and every step after something unusual."""
    optimizer = sgd(model, lr=1e-5)
    with nanscope.record(model, optimizer, path):
        for number in range(330):
            step(model, optimizer, X * 1e3 if number == 250 else X)
    run = nanscope.open_run(path)
    weight = next(site for site in run.sites if str(site) == "0.weight")
    looked = set(run.steps[~is_missing(run.series(weight))].tolist())
    assert looked == {*range(10), 100, 200, *range(251, 330)}


def test_a_taken_name_gets_a_number(model: nn.Module, path: Path) -> None:
    """Nothing is overwritten; the recorder says where it writes."""
    path.write_bytes(b"precious")
    optimizer = sgd(model)
    with (
        pytest.warns(RuntimeWarning, match=r"run-2\.h5"),
        nanscope.record(model, optimizer, path) as recorder,
    ):
        step(model, optimizer)
    assert path.read_bytes() == b"precious"
    assert recorder.path == path.with_stem("run-2")
    assert len(nanscope.open_run(path.with_stem("run-2"))) == 1


def test_an_unwritable_place_costs_a_warning_only(model: nn.Module, tmp_path: Path) -> None:
    """The training goes on without a run file, and `trouble` still works."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    optimizer = sgd(model)
    recorder = nanscope.record(model, optimizer, blocked / "run.h5")
    with pytest.warns(RuntimeWarning, match="nothing is recorded"), recorder:
        _train(model, optimizer, poison())
    assert recorder.path is None
    assert recorder.trouble is not None


def _fail_after_a_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    step(model, optimizer)
    monkeypatch.setattr(Gauge, "collect", lambda *_a, **_k: 1 / 0)
    _train(model, optimizer, [X, X, X])


def test_the_recorder_steps_aside_when_it_fails(
    model: nn.Module, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug in a probe: one warning, the traceback in the run file, no hook left, the training untouched."""
    optimizer = sgd(model)
    warned = pytest.warns(RuntimeWarning, match="stepped aside")
    with warned as told, nanscope.record(model, optimizer, path):
        _fail_after_a_step(model, optimizer, monkeypatch)
    assert len(told) == 1
    assert not hooks(model)
    run = nanscope.open_run(path)
    (event,) = run.events_of("recorder-failed")
    assert "ZeroDivisionError" in event["traceback"]
    assert len(run) == 1


def test_the_header_tells_the_job(model: nn.Module, path: Path) -> None:
    """Settings, versions, seed and the model's structure are in the file."""
    torch.manual_seed(41)
    optimizer = sgd(model)
    with nanscope.record(model, optimizer, path, config={"dataset": "none", "lr": 0.5}):
        step(model, optimizer)
    header = nanscope.open_run(path).header
    assert header.config["dataset"] == "none"
    assert header.environment["torch"] == torch.__version__
    assert header.environment["seed"] == 41
    assert [m["type"] for m in header.model] == ["Sequential", "Linear", "ReLU", "Linear"]
    weight = next(c.site for c in header.columns if str(c.site) == "2.weight")
    assert weight is not None
    assert (weight.module_type, weight.dtype, weight.numel, weight.order) == ("Linear", "float32", 64, 2)
