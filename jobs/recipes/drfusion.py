"""DRFusion recipes: its datasets, its trainings, its evaluation.

One model per scenario, as the paper has it: each dataset holds one linear degradation of both cameras.
A dataset stores each degradation alone, so there is none for the composite scenario, in which several
follow each other; the evaluation has it. A picture of a group may be clean, one in two.
"""

from jobs.config import EvaluateRecipe, PromoteRecipe
from models.drfusion import config as drfusion
from models.drfusion.config import Correction, DRFusionConfig, Stage1Config
from pipelines.datasets.plan import DatasetConfig, ShardConfig
from pipelines.training.config import MultiStepSchedule, OptimConfig, TrainingConfig

MODEL_NAME = "drfusion"
_SCENARIOS = ("clean", "noise", "blur", "composite")


def drfusion_noise() -> DatasetConfig:
    """White noise of 14 levels in both cameras: `python -m jobs.generate drfusion_noise --scenes INDEX`."""
    return _dataset("drfusion-noise", "gaussian_noise")


def drfusion_blur() -> DatasetConfig:
    """Gaussian blur of 2 px in both cameras: `python -m jobs.generate drfusion_blur --scenes INDEX`."""
    return _dataset("drfusion-blur", "gaussian_blur")


def drfusion_linear() -> DatasetConfig:
    """Noise, blur and low resolution, one at a time: a model for all of them is not the paper's."""
    return _dataset("drfusion-linear", "gaussian_noise", "gaussian_blur", "low_resolution")


def stage1_small() -> TrainingConfig:
    """The small model on one core. Not yet run to its end.

    `python -m jobs.train drfusion_stage1_small --set dataset=INDEX-drfusion-noise`
    """
    optim = OptimConfig(
        num_steps=5000,
        batch_size=4,
        crop_px=96,
        optimizer="adam",
        lr=1e-3,
        schedule=MultiStepSchedule(milestones=(0.5, 0.7, 0.85)),
        weight_decay=0,
        clip_norm=1.0,
        log_every=25,
        checkpoint_every=250,
    )
    # The corrections reckon with each picture's own noise: clean ones are in the dataset, too.
    model = drfusion.small().model_copy(update={"correction": "paper", "sigma_y": None})
    return TrainingConfig(
        objective=Stage1Config(model=model),
        optim=optim,
        preview_every=optim.checkpoint_every,
        register_as=MODEL_NAME,
    )


def stage1_noise_1gpu() -> TrainingConfig:
    """The published model for noise, on one GPU. Not yet run at this scale.

    `python -m jobs.train drfusion_stage1_noise_1gpu --set dataset=INDEX-drfusion-noise`
    """
    return _full(drfusion.full())


def stage1_blur_1gpu() -> TrainingConfig:
    """The published model for blur, on one GPU. Not yet run at this scale.

    `python -m jobs.train drfusion_stage1_blur_1gpu --set dataset=INDEX-drfusion-blur`
    """
    # The authors' code has no form for other operators than noise.
    paper: Correction = "paper"
    return _full(drfusion.full().model_copy(update={"correction": paper, "sigma_y": None}))


def drfusion_scenarios() -> EvaluateRecipe:
    """Clean, and DRFusion's noise, blur and composite: `jobs.evaluate --recipe drfusion_scenarios`."""
    return EvaluateRecipe(scenarios=_SCENARIOS)


def drfusion_gate() -> PromoteRecipe:
    """The gate in those scenarios: `jobs.promote drfusion --recipe drfusion_gate`."""
    return PromoteRecipe(scenarios=_SCENARIOS)


def _dataset(name: str, *degradations: str) -> DatasetConfig:
    # Pairs need no groups: these are as small as they can be.
    shard = ShardConfig(vi=degradations, ir=degradations, num_positives=1, num_negatives=2)
    return DatasetConfig(name=name, scenes_per_shard=16, shard=shard)


def _full(model: DRFusionConfig) -> TrainingConfig:
    """The release's optimiser, with the clipping and the average that spec 6 and 12 recommend."""
    optim = OptimConfig(
        num_steps=50_000,
        batch_size=8,
        crop_px=256,
        optimizer="adam",
        lr=1e-4,
        # Epochs 10, 20, 30 and 40 of 100 (spec 6).
        schedule=MultiStepSchedule(milestones=(0.1, 0.2, 0.3, 0.4)),
        weight_decay=0,
        clip_norm=1.0,
        precision="bf16",
        ema_decay=0.999,
    )
    return TrainingConfig(
        objective=Stage1Config(model=model, recompute_steps=True),
        optim=optim,
        use_gpu=True,
        preview_every=optim.checkpoint_every,
        register_as=MODEL_NAME,
    )
