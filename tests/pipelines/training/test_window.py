"""A GPU is asked once a report for the losses since the last one; a bad one is found with its step."""

import pytest
import torch

from pipelines.training.config import OptimConfig
from pipelines.training.loop import _check_losses
from pipelines.training.window import Window


class _Scenes:
    """What the check asks of the stream: the scenes of a batch, by its place."""

    def scenes_at(self, part: int) -> list[str]:
        return [f"scene-{part}"]


def test_the_first_bad_loss_since_the_last_report_is_named() -> None:
    window, optim = Window(), OptimConfig(num_steps=9, num_accumulated=2)
    for loss in (1.0, float("nan"), 2.0, float("inf")):
        window.add({"loss": torch.tensor(loss), "ssim": torch.tensor(1)}, num_samples=1)
    losses = window.new_losses()
    # The steps 3 to 6, counted from 1, were taken: the second of them is bad.
    with pytest.raises(
        ValueError, match="the loss is nan at step 4; the batch held scene-6, scene-7"
    ):
        _check_losses(losses, optim, 5, _Scenes())
    window.add({"loss": torch.tensor(3.0), "ssim": torch.tensor(2)}, num_samples=1)
    assert window.new_losses() == [3.0]
    assert window.means()["ssim"] == pytest.approx(6 / 5)
