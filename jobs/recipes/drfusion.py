"""DRFusion recipes: its datasets, its trainings, its evaluation.

One model per scenario, as the paper has it: noise, blur, and composite. A dataset holds one of them, in
both cameras of every pair, at the strengths that were measured on the authors' files (spec 7). The small
model is told the operators of each pair and learns all three at once (`drfusion_mixed`).
"""

from degradations.catalogue import IrRanges, ViRanges
from degradations.noise import GaussianNoiseRanges
from degradations.own import parts_of
from degradations.resolution import LowResolutionRanges
from jobs.recipes.kinds import EvaluateRecipe, PromoteRecipe
from models.drfusion import config as drfusion
from models.drfusion.config import Correction, DRFusionConfig, Stage1Config
from pipelines.datasets.plan import DatasetConfig, ShardConfig
from pipelines.scenarios.table import Scenario
from pipelines.training.config import (
    MultiStepSchedule,
    OptimConfig,
    TrainingConfig,
    ValidationConfig,
)

MODEL_NAME = "drfusion"
_SCENARIOS = ("clean", "noise", "blur", "composite")
NOISE, BLUR = "gaussian_noise", "gaussian_blur"


def drfusion_noise() -> DatasetConfig:
    """White noise of 14 levels in both cameras: `python -m jobs.generate drfusion_noise --scenes INDEX`."""
    return _dataset("drfusion-noise", vi=(NOISE,), ir=(NOISE,))


def drfusion_blur() -> DatasetConfig:
    """Gaussian blur of 2 px in both cameras: `python -m jobs.generate drfusion_blur --scenes INDEX`."""
    return _dataset("drfusion-blur", vi=(BLUR,), ir=(BLUR,))


def drfusion_composite() -> DatasetConfig:
    """Blur and noise of 8 levels, the infrared coarser by 4, too.

    `python -m jobs.generate drfusion_composite --scenes INDEX`
    """
    both = f"{BLUR}+{NOISE}"
    return _dataset(
        "drfusion-composite", vi=(both,), ir=(f"{both}+low_resolution",), noise_range=(8.0, 8.0)
    )


def drfusion_mixed() -> DatasetConfig:
    """The three scenarios in one set, noise of 6 to 16 levels: for one small model of all three.

    `python -m jobs.generate drfusion_mixed --scenes INDEX`
    """
    both = f"{BLUR}+{NOISE}"
    return _dataset(
        "drfusion-mixed",
        vi=(NOISE, BLUR, both),
        ir=(NOISE, BLUR, f"{both}+low_resolution"),
        noise_range=(6.0, 16.0),
    )


def drfusion_composite_medical() -> DatasetConfig:
    """PET and MRI: blur and noise of 8 levels, the PET picture (the visible one) coarser by 2, too.

    `python -m jobs.generate drfusion_composite_medical --scenes INDEX`; noise and blur are as for cameras.
    """
    both = f"{BLUR}+{NOISE}"
    dataset = _dataset(
        "drfusion-composite-medical",
        vi=(f"{both}+low_resolution",),
        ir=(both,),
        noise_range=(8.0, 8.0),
    )
    ranges = dataset.shard.vi_ranges.model_copy(
        update={"low_resolution": LowResolutionRanges(factor_range=(2, 2))}
    )
    return dataset.model_copy(
        update={"shard": dataset.shard.model_copy(update={"vi_ranges": ranges})}
    )


def stage1_small() -> TrainingConfig:
    """The small model on one core, about an hour; what it reaches is in the model's README.

    `python -m jobs.train drfusion_stage1_small --set dataset=INDEX-drfusion-mixed`
    """
    optim = OptimConfig(
        num_steps=3600,
        batch_size=4,
        crop_px=96,
        optimizer="adam",
        lr=1e-3,
        schedule=MultiStepSchedule(milestones=(0.5, 0.7, 0.85)),
        weight_decay=0,
        clip_norm=1.0,
        log_every=25,
        checkpoint_every=300,
    )
    # The corrections reckon with each picture's own noise, which differs between the scenarios.
    model = drfusion.small().model_copy(update={"correction": "paper", "sigma_y": None})
    return TrainingConfig(
        objective=Stage1Config(model=model),
        optim=optim,
        preview_every=optim.checkpoint_every,
        validation=ValidationConfig(every=optim.checkpoint_every),
        register_as=MODEL_NAME,
    )


def stage1_noise_1gpu() -> TrainingConfig:
    """The published model for noise, on one GPU. Not yet run at this scale.

    `python -m jobs.train drfusion_stage1_noise_1gpu --set dataset=INDEX-drfusion-noise`
    """
    return _full(drfusion.full())


def stage1_blur_1gpu() -> TrainingConfig:
    """The published model for blur, or for the composite scenario, on one GPU. Not yet run at this scale.

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


def drfusion_scenarios_medical() -> EvaluateRecipe:
    """The same for PET and MRI, where the PET picture is the coarse one, by 2."""
    shard = drfusion_composite_medical().shard
    composite = Scenario(
        name="composite_medical",
        vi=parts_of(shard.vi[0]),
        ir=parts_of(shard.ir[0]),
        vi_ranges=shard.vi_ranges,
        ir_ranges=shard.ir_ranges,
    )
    return EvaluateRecipe(scenarios=("clean", "noise", "blur", composite))


def _dataset(
    name: str,
    *,
    vi: tuple[str, ...],
    ir: tuple[str, ...],
    noise_range: tuple[float, float] = (14.0, 14.0),
) -> DatasetConfig:
    noise = GaussianNoiseRanges(sigma_range_level=noise_range)
    shard = ShardConfig(
        vi=vi,
        ir=ir,
        vi_ranges=ViRanges(gaussian_noise=noise),
        ir_ranges=IrRanges(gaussian_noise=noise),
        pairing="matched",
        # Pairs need no contrastive company: this is the least.
        num_positives=1,
        num_negatives=2,
    )
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
        validation=ValidationConfig(every=optim.checkpoint_every),
        register_as=MODEL_NAME,
    )
