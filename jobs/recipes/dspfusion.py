"""DSPFusion training recipes: stage, settings, hardware.

`demo` and `small` models have 0.5 M parameters and train on a laptop's cores. The others are of the
published size, with

- `code`: the settings of the authors' code (spec 2.3): 500,000 steps, the rate constant for 60 % of
  them, then a cosine, over which 3 of the 4 samples are taken, at 256 px;
- `paper`: those of the paper where it gives them, in networks and losses, too: 50,000 steps, a cosine
  from the start, beta2 0.99. It gives neither batch nor clipping; these are the code's;
- `full`: what the specification recommends to begin with: `code` in a tenth of the steps, 4 × 224 px
  throughout.

The published batch is 4, and one GPU takes it whole. Eight cannot share 4 samples, so each takes one: 8
a step in as many steps, and the code's late batches keep them all. `--set num_workers=2 --set
optim.batch_size=2` keeps the published batch on two GPUs, 4 and 1 on four, and where memory is short
`--set optim.batch_size=1 --set optim.num_accumulated=4` on one: each step sees the same samples.
(`late_batch_size` is a worker's, too: unset it there.)

`no_degradation` and `no_semantic` are ablations, as the paper's: one of the two priors is cut off. Without
the semantic prior nothing is left for Stage II to restore: Stage I is the whole training, and registers.
Every ablation registers under a name of its own, so that none becomes the product's challenger. How the
paper cuts a prior off is not said; here neither its encoder nor what it guides is built (README of the
model, "Ablations").
"""

from typing import Any

from jobs.recipes.kinds import PretrainRecipe
from models.dspfusion import config as dspfusion
from models.dspfusion.config import (
    AnyStageConfig,
    DistilledConfig,
    DSPFusionConfig,
    FusionWeights,
    Stage1Config,
    Stage2Config,
)
from pipelines.training.config import CosineSchedule, OptimConfig, TrainingConfig, ValidationConfig

MODEL_NAME = "dspfusion"
NO_DEGRADATION_NAME = f"{MODEL_NAME}-no-degradation-prior"
NO_SEMANTIC_NAME = f"{MODEL_NAME}-no-semantic-prior"

# Where the paper differs from the code and says enough to be built (README of the model).
PAPER_NETWORKS: dict[str, Any] = {
    "dpmm_convolution": False,
    "fusion_convolution": False,
    "level1_reduction": True,
    "denoiser_predicts": "noise",
}
_PAPER_LOSSES: dict[str, Any] = {
    "fusion_weights": FusionWeights(gradient=11.25, intensity_consistency=0),
    "content_target": "element_maximum",
}


def stage1_demo() -> TrainingConfig:
    """Stage I of `jobs.demo --smoke`; `make demo` takes the weights `small` instead."""
    return on_cpus(Stage1Config(model=dspfusion.small()), _demo_optim(200), num_workers=2)


def stage2_demo() -> TrainingConfig:
    """Stage II of `make demo`, from the weights `small`: about a minute on 2 idle cores."""
    # A name of its own: real pairs must not have to be measured against rendered ones.
    name = f"{MODEL_NAME}-demo"
    optim = _demo_optim(80).model_copy(update={"lr": 3e-4})
    config = on_cpus(small_stage2(), optim, num_workers=2, register_as=name)
    return config.model_copy(update={"init_from": "small"})


def stage1_small() -> TrainingConfig:
    """Stage I of the small model on one core, about an hour: the model's README, "Results".

    `python -m jobs.train dspfusion_stage1_small --set dataset=roadscene-small`
    """
    return on_cpus(small_stage1(dspfusion.small()), small_optim(5000))


def stage2_small_prior() -> TrainingConfig:
    """The first part of the small model's Stage II, less than half an hour on one core: the prior alone.

    `python -m jobs.train dspfusion_stage2_small_prior --set dataset=roadscene-small
    --set init_from=runs:/ID`; `stage2_small` starts from its weights.
    """
    objective = small_stage2(fusion_weights=None)
    # Nothing is fused, so large batches are cheap, and so are large crops: the prior of a whole picture
    # is another one than that of a small crop (the model's README, "The prior first").
    cheap = {"batch_size": 16, "late_crop_px": 224, "lr": 3e-3}
    seldom = {"log_every": 100, "checkpoint_every": 1000}
    return on_cpus(objective, small_optim(6000).model_copy(update=cheap | seldom))


def stage2_small() -> TrainingConfig:
    """Stage II of the small model on one core, less than half an hour: the README, "Results".

    `python -m jobs.train dspfusion_stage2_small --set dataset=roadscene-small --set init_from=runs:/ID`,
    where the run is of Stage I or, better, of `stage2_small_prior`.
    """
    return on_cpus(small_stage2(), small_optim(2000), register_as=MODEL_NAME)


def distilled_mini() -> TrainingConfig:
    """The network `mini`, taught by the weights `small`, within an hour on one core.

    `python -m jobs.train dspfusion_distilled_mini --set dataset=NAME`
    """
    teacher = small_stage2().model
    student = dspfusion.mini().model_copy(update={"prior_blend": teacher.prior_blend})
    objective = DistilledConfig(
        model=student, teacher=teacher, restoration_weight=5, lightened_share=0.3
    )
    optim = small_optim(4000).model_copy(update={"crop_px": 128})
    config = on_cpus(objective, optim, register_as=f"{MODEL_NAME}-mini")
    return config.model_copy(update={"init_from": "small"})


def refitted_small() -> TrainingConfig:
    """The small model's fusion network alone, under restored priors, in less than an hour on one core.

    `python -m jobs.train dspfusion_refitted_small --set dataset=NAME --set init_from=runs:/ID`, of a
    Stage II or of weights that come with the repository
    """
    model = small_stage2().model
    objective = DistilledConfig(
        model=model, teacher=model, taught_share=0, restoration_weight=5, lightened_share=0.3
    )
    # Large crops: the prior of a small one is another than a whole picture's, and so is its light.
    large = {"crop_px": 128, "late_batch_size": 2, "late_crop_px": 192}
    slower = {"lr": 6e-4, "schedule": CosineSchedule(constant_share=0.3, lr_min=2e-5)}
    longer = {"ema_decay": 0.999, "log_every": 100, "checkpoint_every": 250}
    optim = small_optim(5000).model_copy(update=large | slower | longer)
    return on_cpus(objective, optim, register_as=MODEL_NAME)


def small() -> PretrainRecipe:
    """The weights `small`, of the train splits of ../shared/data/ivif: some hours on one core.

    `python -m jobs.pretrain small FOLDER`
    """
    return PretrainRecipe(dataset="shipped", trainings=_trainings())


def mini() -> PretrainRecipe:
    """The weights `mini`, of the same pictures: of the trainings of `small`, the last is another.

    `python -m jobs.pretrain mini FOLDER`
    """
    lighter = ("objective.model.ffn_expansion=1.0", "objective.model.num_refinement_blocks=0")
    registered = (f"register_as={MODEL_NAME}-mini",)
    return PretrainRecipe(dataset="shipped", trainings=_trainings(*lighter, *registered))


def _trainings(*of_the_last: str) -> dict[str, tuple[str, ...]]:
    """Priors with a network that draws its pictures, as the paper's does; one on maps of half the side.

    Then the one that joins its sources, too, which starts from that.
    """
    whole = ("fold=1", "ffn_expansion=2.66", "joins_sources=false")
    of_model = tuple(f"objective.model.{setting}" for setting in whole)
    return {
        "dspfusion_stage1_small": (
            *of_model,
            "optim.num_steps=4000",
            "optim.schedule.constant_share=0.4",
        ),
        "dspfusion_stage2_small_prior": (*of_model, "optim.num_steps=3000"),
        # Large crops: the prior of a small one is another than a whole picture's.
        "dspfusion_stage2_small": (
            *of_model,
            "optim.num_steps=350",
            "optim.batch_size=2",
            "optim.crop_px=200",
            "optim.lr=3e-4",
            "optim.schedule.constant_share=0.2",
            "register_as=null",
        ),
        "dspfusion_distilled_mini": (
            *(f"objective.teacher.{setting}" for setting in whole),
            "objective.model.joins_sources=false",
            "objective.model.ffn_expansion=1.5",
            "objective.model.num_refinement_blocks=1",
            "objective.restoration_weight=0",
            "register_as=null",
        ),
        "dspfusion_refitted_small": ("objective.teacher.joins_sources=false", *of_the_last),
    }


def stage1_full_1gpu() -> TrainingConfig:
    """Stage I of the published model in 50,000 steps. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage1_full_1gpu --set dataset=NAME`
    """
    return on_gpus(Stage1Config(), OptimConfig(num_steps=50_000), num_gpus=1)


def stage2_full_1gpu() -> TrainingConfig:
    """Stage II of the published model in 50,000 steps. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage2_full_1gpu --set dataset=NAME --set init_from=runs:/ID`
    """
    return on_gpus(
        Stage2Config(), OptimConfig(num_steps=50_000), num_gpus=1, register_as=MODEL_NAME
    )


def stage1_code_1gpu() -> TrainingConfig:
    """Stage I with the settings of the authors' code on one GPU. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage1_code_1gpu --set dataset=NAME`
    """
    return on_gpus(Stage1Config(), _code_optim(), num_gpus=1)


def stage2_code_1gpu() -> TrainingConfig:
    """Stage II with the settings of the authors' code on one GPU. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage2_code_1gpu --set dataset=NAME --set init_from=runs:/ID`
    """
    return on_gpus(Stage2Config(), _code_optim(), num_gpus=1, register_as=MODEL_NAME)


def stage1_code_8gpu() -> TrainingConfig:
    """Stage I with the settings of the authors' code on 8 GPUs. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage1_code_8gpu --set dataset=NAME`
    """
    return on_gpus(Stage1Config(), _code_optim(), num_gpus=8)


def stage2_code_8gpu() -> TrainingConfig:
    """Stage II with the settings of the authors' code on 8 GPUs. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage2_code_8gpu --set dataset=NAME --set init_from=runs:/ID`
    """
    return on_gpus(Stage2Config(), _code_optim(), num_gpus=8, register_as=MODEL_NAME)


def stage1_paper_1gpu() -> TrainingConfig:
    """Stage I with the settings of the paper on one GPU. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage1_paper_1gpu --set dataset=NAME`
    """
    return on_gpus(paper_stage1(), paper_optim(), num_gpus=1)


def stage2_paper_1gpu() -> TrainingConfig:
    """Stage II with the settings of the paper on one GPU. Not yet run at this scale.

    The first losses are near 2,000: a denoiser that predicts noise starts with noise divided by 0.005.

    `python -m jobs.train dspfusion_stage2_paper_1gpu --set dataset=NAME --set init_from=runs:/ID`
    """
    return on_gpus(paper_stage2(), paper_optim(), num_gpus=1, register_as=MODEL_NAME)


def stage1_paper_8gpu() -> TrainingConfig:
    """Stage I with the settings of the paper on 8 GPUs. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage1_paper_8gpu --set dataset=NAME`
    """
    return on_gpus(paper_stage1(), paper_optim(), num_gpus=8)


def stage2_paper_8gpu() -> TrainingConfig:
    """Stage II with the settings of the paper on 8 GPUs. Not yet run at this scale.

    The first losses are near 2,000: a denoiser that predicts noise starts with noise divided by 0.005.

    `python -m jobs.train dspfusion_stage2_paper_8gpu --set dataset=NAME --set init_from=runs:/ID`
    """
    return on_gpus(paper_stage2(), paper_optim(), num_gpus=8, register_as=MODEL_NAME)


def stage1_small_no_degradation() -> TrainingConfig:
    """Stage I of the small model without degradation prior, on one core.

    `python -m jobs.train dspfusion_stage1_small_no_degradation --set dataset=roadscene-small`
    """
    return on_cpus(Stage1Config(model=_small_without(degradation_prior=False)), small_optim(5000))


def stage2_small_no_degradation() -> TrainingConfig:
    """Stage II of the small model without degradation prior, on one core.

    `python -m jobs.train dspfusion_stage2_small_no_degradation --set dataset=roadscene-small
    --set init_from=runs:/ID`
    """
    objective = Stage2Config(model=_small_without(degradation_prior=False))
    return on_cpus(objective, small_optim(2000), register_as=NO_DEGRADATION_NAME)


def stage1_small_no_semantic() -> TrainingConfig:
    """The small model without semantic prior, on one core. There is no Stage II.

    `python -m jobs.train dspfusion_stage1_small_no_semantic --set dataset=roadscene-small`
    """
    objective = small_stage1(_small_without(semantic_prior=False))
    return on_cpus(objective, small_optim(5000), register_as=NO_SEMANTIC_NAME)


def stage1_paper_no_degradation_1gpu() -> TrainingConfig:
    """Stage I of the paper without degradation prior, on one GPU. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage1_paper_no_degradation_1gpu --set dataset=NAME`
    """
    return on_gpus(paper_stage1(degradation_prior=False), paper_optim(), num_gpus=1)


def stage2_paper_no_degradation_1gpu() -> TrainingConfig:
    """Stage II of the paper without degradation prior, on one GPU. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage2_paper_no_degradation_1gpu --set dataset=NAME
    --set init_from=runs:/ID`
    """
    objective = paper_stage2(degradation_prior=False)
    return on_gpus(objective, paper_optim(), num_gpus=1, register_as=NO_DEGRADATION_NAME)


def stage1_paper_no_semantic_1gpu() -> TrainingConfig:
    """The paper's model without semantic prior, on one GPU. There is no Stage II. Not yet run.

    `python -m jobs.train dspfusion_stage1_paper_no_semantic_1gpu --set dataset=NAME`
    """
    # Nor a denoiser that could predict the noise.
    objective = paper_stage1(semantic_prior=False, denoiser_predicts="x0")
    return on_gpus(objective, paper_optim(), num_gpus=1, register_as=NO_SEMANTIC_NAME)


def on_cpus(
    objective: AnyStageConfig,
    optim: OptimConfig,
    *,
    num_workers: int = 1,
    register_as: str | None = None,
) -> TrainingConfig:
    """A recipe for CPU workers (`--workers` shares its steps among more).

    Previews and validation come with the checkpoints.
    """
    return TrainingConfig(
        objective=objective,
        optim=optim,
        num_workers=num_workers,
        preview_every=optim.checkpoint_every,
        validation=ValidationConfig(every=optim.checkpoint_every),
        register_as=register_as,
    )


def on_gpus(
    objective: AnyStageConfig,
    optim: OptimConfig,
    *,
    num_gpus: int,
    register_as: str | None = None,
) -> TrainingConfig:
    """A recipe for GPUs, which share the batch; previews and validation with the checkpoints."""
    batch_size = max(1, optim.batch_size // num_gpus)
    # bf16 is ours: the authors train in float32, at twice the memory and a fraction of the speed.
    share: dict[str, Any] = {"batch_size": batch_size, "precision": "bf16"}
    if batch_size == 1:
        share["late_batch_size"] = None  # a GPU cannot take three quarters of a sample
    return TrainingConfig(
        objective=objective,
        optim=optim.model_copy(update=share),
        num_workers=num_gpus,
        use_gpu=True,
        preview_every=optim.checkpoint_every,
        validation=ValidationConfig(every=optim.checkpoint_every),
        register_as=register_as,
    )


def paper_stage1(**model: Any) -> Stage1Config:
    """Stage I as the paper has it; `model` changes its networks."""
    networks = DSPFusionConfig(**{**PAPER_NETWORKS, **model})
    # Without a degradation prior there is no contrastive loss to have a denominator.
    contrast = {"positive_in_denominator": False} if networks.degradation_prior else {}
    return Stage1Config(model=networks, **_PAPER_LOSSES, **contrast)


def paper_stage2(**model: Any) -> Stage2Config:
    """Stage II as the paper has it; `model` changes its networks."""
    return Stage2Config(model=DSPFusionConfig(**{**PAPER_NETWORKS, **model}), **_PAPER_LOSSES)


def paper_optim() -> OptimConfig:
    """AdamW and schedule of the paper (spec 2.3)."""
    cosine = CosineSchedule(constant_share=0)
    return OptimConfig(num_steps=50_000, schedule=cosine, betas=(0.9, 0.99))


def _code_optim() -> OptimConfig:
    # OptimConfig's other defaults are the code's settings.
    return OptimConfig(num_steps=500_000, late_batch_size=3, late_crop_px=256)


def small_stage1(model: DSPFusionConfig) -> Stage1Config:
    """Stage I of a small model, whose degradation encoder starts and learns for a short run."""
    # At the rate of the others, and from torch's first weights, all its embeddings become one.
    return Stage1Config(model=model, degradation_start="contrast", degradation_rate=0.2)


def small_stage2(**changes: Any) -> Stage2Config:
    """Stage II of a small model, which learns to leave a prior alone where little is to be restored."""
    model = dspfusion.small().model_copy(update={"prior_blend": "learned"})
    return Stage2Config(model=model, lightened_share=0.3, **changes)


def small_optim(num_steps: int) -> OptimConfig:
    """AdamW and schedule of the small models.

    A short run cannot afford the published clipping at 0.01 (spec 7.2) nor its low rate.
    """
    return OptimConfig(
        num_steps=num_steps,
        batch_size=4,
        crop_px=96,
        lr=1e-3,
        schedule=CosineSchedule(constant_share=0.5, lr_min=2e-5),
        clip_norm=1.0,
        log_every=25,
        checkpoint_every=250,
    )


def _demo_optim(num_steps: int) -> OptimConfig:
    cosine = CosineSchedule(constant_share=0.3, lr_min=2e-5)
    hasty = {"crop_px": 64, "lr": 2e-3, "schedule": cosine, "log_every": 5}
    return small_optim(num_steps).model_copy(update={**hasty, "checkpoint_every": 40})


def _small_without(**changes: bool) -> DSPFusionConfig:
    return dspfusion.small().model_copy(update=changes)
