"""A vector on its way to the host, without waiting for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from nanscope.recording import measure
from nanscope.recording.measure import Batch, Doubles, Measurement


class Reading:
    """A queued measurement. On the CPU it is read at once, elsewhere when the copy has arrived."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch
        self._measurement: Measurement | None = None
        self._arrived: torch.cuda.Event | None = None
        if batch.vector.is_cuda:
            self._host = torch.empty_like(batch.vector, device="cpu", pin_memory=True)
            self._host.copy_(batch.vector, non_blocking=True)
            self._arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrived.record()
            batch.release()
        else:
            self._host = batch.vector.cpu()
            self.measurement()

    @property
    def ready(self) -> bool:
        """Whether `measurement` answers without waiting."""
        return self._arrived is None or bool(self._arrived.query())  # type: ignore[no-untyped-call]

    def measurement(self) -> Measurement:
        """The numbers; waits for the device if they are not there yet."""
        if self._measurement is None:
            if self._arrived is not None:
                self._arrived.synchronize()
            self._measurement = measure.read(self._batch, _numbers(self._host))
            self._batch.release()
        return self._measurement


def _numbers(host: Tensor) -> Doubles:
    return host.double().numpy()
