"""What a report holds of the steps since the last one: means, pace, waiting for data, memory."""

from __future__ import annotations

import time

import torch
from torch import Tensor

from pipelines.training.process_memory import own_peak_mib


class Window:
    """Means of the loss terms, and where the time went, over the steps since the last report."""

    def __init__(self) -> None:
        self._num_steps, self._num_samples, self._wait_s = 0, 0, 0.0
        self._sums: dict[str, Tensor] = {}
        self._new_losses: list[Tensor] = []
        self._opened = time.perf_counter()
        self.await_batch()

    def await_batch(self) -> None:
        """Start to count the time of waiting for the next batch."""
        self._idle_since = time.perf_counter()

    def batch_ready(self) -> None:
        """The batch has arrived: add the time since `await_batch` to the waiting."""
        self._wait_s += time.perf_counter() - self._idle_since

    def add(self, terms: dict[str, Tensor], *, num_samples: int) -> None:
        """Add one step's terms; they stay on the device, so that nothing waits for it."""
        for name, value in terms.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
        self._new_losses.append(terms["loss"])
        self._num_steps += 1
        self._num_samples += num_samples
        self.await_batch()

    def new_losses(self) -> list[float]:
        """The losses of the steps since this was asked last; waits for the device, once for all."""
        losses: list[float] = torch.stack(self._new_losses).tolist()
        self._new_losses = []
        return losses

    def means(self) -> dict[str, float]:
        """Return the mean of every term, samples per second and the share of time without a batch.

        The time that the report at the window's start took counts, but not as waiting for a batch.
        """
        seconds = time.perf_counter() - self._opened
        totals = torch.stack(list(self._sums.values())).tolist()  # waits for the device once
        return {
            name: total / self._num_steps for name, total in zip(self._sums, totals, strict=True)
        } | {
            "samples_per_s": self._num_samples / seconds,
            "data_wait_share": self._wait_s / seconds,
        }


def peak_memory_mib(device: torch.device) -> dict[str, float]:
    """Peak memory of this process so far: resident, and allocated on the CUDA device if it has one."""
    peaks = {"host_peak_mib": own_peak_mib()}
    if device.type == "cuda":
        peaks["cuda_peak_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return peaks
