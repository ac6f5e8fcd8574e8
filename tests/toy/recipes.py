"""The toy's recipes: its dataset, its training, its evaluation. They become `jobs/recipes/toy.py`."""

from models.toy import ToyStage

from jobs.recipes.kinds import EvaluateRecipe
from pipelines.datasets.plan import DatasetConfig, ShardConfig
from pipelines.training.config import MultiStepSchedule, OptimConfig, TrainingConfig

_LINEAR = ("gaussian_blur", "gaussian_noise", "low_resolution")


def linear() -> DatasetConfig:
    """Both cameras under linear operators."""
    return DatasetConfig(name="linear", shard=ShardConfig(vi=_LINEAR, ir=_LINEAR))


def only() -> TrainingConfig:
    """The toy's one stage: Adam, two milestones, dropout."""
    optim = OptimConfig(
        num_steps=12,
        batch_size=2,
        crop_px=32,
        optimizer="adam",
        lr=1e-3,
        schedule=MultiStepSchedule(milestones=(0.5, 0.8)),
        clip_norm=1.0,
        log_every=1,
        checkpoint_every=4,
    )
    return TrainingConfig(objective=ToyStage(), optim=optim, preview_every=6, register_as="toy")


def linear_scenarios() -> EvaluateRecipe:
    """What the toy can be told of."""
    return EvaluateRecipe(scenarios=("clean", "vi_blur"))
