"""A callback for Lightning: `Trainer(callbacks=[NanscopeCallback()])`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nanscope.integrations.training import FILE, Training, checked, framework
from nanscope.recording.base import OnNonfinite

_lightning = framework("lightning", "lightning.pytorch", "pytorch_lightning")
_Callback: Any = _lightning.Callback
_say = _lightning.utilities.rank_zero_info

SETTINGS = ("max_epochs", "max_steps", "accumulate_grad_batches", "gradient_clip_val", "precision")


class NanscopeCallback(_Callback):  # type: ignore[misc] # a class that is only known at run time
    """Records every step of `trainer.fit`, finds the origin of the first NaN, and says so when it is over.

    Args:
        path: the run file; by default `nanscope.h5` in the logger's folder, or in `default_root_dir` if there
            is no logger. A taken name gets a number.
        on_nonfinite: what to do when a non-finite value reached a loss, a gradient or a parameter: go on,
            raise `NonFiniteError` at the end of that step, or set `trainer.should_stop`.
        options: more of `nanscope.record`, such as `logits=` or `verify_remedies=`.

    Attributes:
        path: of the run file that was written last.

    Raises:
        UsageError: `nanscope.record` takes no such option.
    """

    def __init__(
        self, path: str | Path | None = None, *, on_nonfinite: OnNonfinite = "record", **options: Any
    ) -> None:
        checked(on_nonfinite, options)
        self._wanted, self._on_nonfinite, self._options = path, on_nonfinite, options
        self._training: Training | None = None
        self.path: Path | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """The loop begins; the sanity check is over and the model is on its device."""
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        settings = {name: getattr(trainer, name, None) for name in SETTINGS}
        settings |= dict(getattr(pl_module, "hparams", {}))
        way = "raise" if self._on_nonfinite == "raise" else "record"
        options = {"on_nonfinite": way, **self._options}
        self._training = Training(pl_module, Path(self._wanted or folder / FILE), settings, options)
        self.path = self._training.recorder.path

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        """Say it once when something broke, and stop if that is wanted."""
        if self._training is None:
            return
        if (news := self._training.news()) is not None:
            _say(news)
        if self._on_nonfinite == "stop":
            stop = trainer.strategy.reduce_boolean_decision(self._training.is_in_trouble, all=False)
            trainer.should_stop = trainer.should_stop or stop

    def on_train_end(self, *_: Any) -> None:
        """It is over."""
        self._end()

    def on_exception(self, _trainer: Any, _module: Any, exception: BaseException) -> None:
        """It failed, or was interrupted."""
        self._end(exception)

    def teardown(self, *_: Any, **_others: Any) -> None:
        """However it ended."""
        self._end()

    def _end(self, error: BaseException | None = None) -> None:
        training, self._training = self._training, None
        if training is not None:
            said = training.end(error)
            self.path = training.recorder.path
            _say(said)
