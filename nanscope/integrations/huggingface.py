"""A callback for the Trainer of Hugging Face's transformers: `Trainer(callbacks=[NanscopeCallback()])`."""

from __future__ import annotations

import atexit
from pathlib import Path
from typing import Any

from nanscope.integrations.training import FILE, Training, checked, framework
from nanscope.recording.base import OnNonfinite

_transformers = framework("huggingface", "transformers")
_Callback: Any = _transformers.TrainerCallback
_log = _transformers.utils.logging.get_logger("transformers.nanscope")  # obeys the library's own verbosity

SETTINGS = (
    "weight_decay", "max_grad_norm", "warmup_steps", "num_train_epochs", "max_steps", "seed",
    "gradient_accumulation_steps", "bf16", "fp16", "logging_nan_inf_filter",
)  # fmt: skip


class NanscopeCallback(_Callback):  # type: ignore[misc] # only known at run time
    """Records every step of `trainer.train`, finds the origin of the first NaN, and says so when it is over.

    Args:
        path: the run file; by default `nanscope.h5` in `args.output_dir`. A taken name gets a number.
        on_nonfinite: what to do when a non-finite value reached a loss, a gradient or a parameter: go on,
            raise `NonFiniteError` at the end of that step, or set `control.should_training_stop`.
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

    def on_train_begin(self, args: Any, _state: Any, _control: Any, **others: Any) -> None:
        """The loop begins."""
        self._give_up()
        settings = {name: getattr(args, name, None) for name in SETTINGS}
        settings |= {"lr": args.learning_rate, "batch_size": args.per_device_train_batch_size}
        path = Path(self._wanted or Path(args.output_dir) / FILE)
        self._training = Training(others["model"], path, settings, self._options)
        self.path = self._training.recorder.path
        atexit.register(self._give_up)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Say it once when something broke, and stop if that is wanted."""
        training = self._training
        if training is None:
            return
        if (news := training.news()) is not None and state.is_world_process_zero:
            _log.warning(news)
            if args.logging_nan_inf_filter:
                _log.warning(
                    "nanscope: the losses that the Trainer logs are not what they were: "
                    "logging_nan_inf_filter=True puts the mean in the place of NaN and inf"
                )
        if self._on_nonfinite == "stop" and training.is_in_trouble:
            control.should_training_stop = True
        if self._on_nonfinite == "raise" and (error := training.error()) is not None:
            self._end(error)
            raise error

    def on_train_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """It is over."""
        said, is_bad = self._end()
        if said and state.is_world_process_zero:
            (_log.warning if is_bad else _log.info)(said)

    def _end(self, error: BaseException | None = None) -> tuple[str, bool]:
        training, self._training = self._training, None
        if training is None:
            return "", False
        atexit.unregister(self._give_up)
        said = training.end(error)
        self.path = training.recorder.path
        return said, training.is_in_trouble

    def _give_up(self) -> None:
        """The Trainer tells no callback of a training that raised; the next one, or the end, does."""
        if self._training is not None:
            self._end(RuntimeError("the training ended without a word"))
