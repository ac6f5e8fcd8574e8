import pytest
import torch
from torch import Tensor

from models.lure.router import Router
from models.lure.text import CAMERAS
from tests.models.lure.samples import STAGE1, objective_of, singles


def maps(task: int, size: int = 8, *, seed: int) -> Tensor:
    """Slopes: 0 as they are, 1 with noise, 2 darker, 3 with stripes."""
    generator = torch.Generator().manual_seed(seed)
    slope = torch.linspace(0, 1, 24).expand(size, 3, 24, 24)
    slope = slope * (0.5 + torch.rand(size, 1, 1, 1, generator=generator))
    match task:
        case 1:
            return slope + 0.1 * torch.randn(slope.shape, generator=generator)
        case 2:
            return 0.1 * slope
        case 3:
            return slope + 0.1 * torch.randn(size, 3, 1, 24, generator=generator)
    return slope


def learned() -> Router:
    router = Router(channels=3, num_tasks=6)
    for seed in range(20):
        for task in range(4):
            router.observe(maps(task, seed=seed), torch.full((8,), task))
    return router


def test_unseen_pictures_go_to_their_task_however_they_are_turned():
    router = learned()
    for task in range(4):
        for turn in range(4):
            found = router.nearest(maps(task, seed=99).rot90(turn, dims=(2, 3)))
            assert found.tolist() == [task] * 8
    assert router.num_seen.tolist() == [160] * 4 + [0] * 2


def test_statistics_are_the_mean_of_each_task_at_first():
    router = Router(channels=3, num_tasks=3)
    first, second = maps(0, seed=0), maps(1, seed=1)
    router.observe(torch.cat([first, second]), torch.tensor([0] * 8 + [1] * 8))
    whole = router.mean.clone()
    router = Router(channels=3, num_tasks=3)
    for part in range(2):
        chosen = slice(4 * part, 4 * part + 4)
        router.observe(first[chosen], torch.zeros(4, dtype=torch.long))
        router.observe(second[chosen], torch.ones(4, dtype=torch.long))
    torch.testing.assert_close(router.mean, whole)


def test_what_has_seen_no_two_tasks_refuses():
    router = Router(channels=3, num_tasks=3)
    router.observe(maps(0, seed=0), torch.zeros(8, dtype=torch.long))
    with pytest.raises(ValueError, match="no statistics of tasks"):
        router.check()


def test_stage_one_observes_each_picture_under_its_task():
    objective = objective_of(STAGE1)
    objective(singles(size=8), 0)
    seen = {camera: objective.routers.of(camera).num_seen.tolist() for camera in CAMERAS}
    # In turn infrared and visible, tasks 1, 2, 0, 1, 2, 0, 1, 2.
    assert seen["ir"][:3] == [1, 2, 1]
    assert seen["vi"][:3] == [1, 1, 2]
