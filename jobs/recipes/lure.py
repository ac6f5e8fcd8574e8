"""Training recipes of the LURE-style reconstruction: two stages, small on a core and full on a GPU.

Nothing of the authors' training is known; budgets and rates are the reconstruction's (spec 4). Stage I
learns from single pictures and takes any dataset, also one whose scenes have one camera; Stage II needs
registered pairs. `--set objective.text.source=table` with `path` and `digest` gives the prompts a
meaning, in Stage I; Stage II has them from there (README of the model, "Prompts").
"""

from degradations import catalogue
from degradations.blur import BlurRanges, GaussianBlurRanges
from degradations.catalogue import IrRanges
from models.lure import config as networks
from models.lure.config import LUREConfig, Stage1Config, Stage2Config
from pipelines.datasets.plan import DatasetConfig, ShardConfig
from pipelines.training.config import CosineSchedule, OptimConfig, TrainingConfig

MODEL_NAME = "lure"
_STAGE1_STEPS = 3200


def lure() -> DatasetConfig:
    """Seven visible tasks, five infrared ones: `python -m jobs.generate lure --scenes INDEX`.

    Those of spec 5, at the catalogue's strengths; where the source has captured or standard pictures of a
    task, those are stored. Infrared blur is as wide as visible blur.
    """
    blur = GaussianBlurRanges(sigma_range_px=BlurRanges().sigma_range_px)
    shard = ShardConfig(
        vi=(*catalogue.names("vi"), "low_resolution"),
        ir=(*catalogue.names("ir"), "gaussian_blur", "low_resolution"),
        ir_ranges=IrRanges(gaussian_blur=blur),
    )
    return DatasetConfig(name="lure", scenes_per_shard=32, shard=shard)


def stage1_small() -> TrainingConfig:
    """Stage I of the small model on one core: about an hour (README of the model, "Results").

    `python -m jobs.train lure_stage1_small --set dataset=INDEX-lure`
    """
    return _small(_stage1(networks.small()))


def stage1_small_no_unified() -> TrainingConfig:
    """The ablation without L_unified: only restoration shapes the latents. Not yet run to its end.

    `python -m jobs.train lure_stage1_small_no_unified --set dataset=INDEX-lure`
    """
    return _small(_stage1(networks.small(), unified_weight=0))


def stage1_small_no_pseudo() -> TrainingConfig:
    """The ablation without the pseudo-degradation task. Not yet run to its end.

    `python -m jobs.train lure_stage1_small_no_pseudo --set dataset=INDEX-lure`
    """
    return _small(_stage1(networks.small(), pseudo_weight=0))


def stage1_small_no_inner() -> TrainingConfig:
    """The ablation without the inner residual. Not yet run to its end.

    `python -m jobs.train lure_stage1_small_no_inner --set dataset=INDEX-lure`; Stage II of it takes
    `--set objective.model.inner_residual=false`.
    """
    return _small(_stage1(networks.small().model_copy(update={"inner_residual": False})))


def stage1_small_film() -> TrainingConfig:
    """The ablation with FiLM in the place of text-guided attention. Not yet run to its end.

    `python -m jobs.train lure_stage1_small_film --set dataset=INDEX-lure`; Stage II of it takes
    `--set objective.model.guidance=film`.
    """
    return _small(_stage1(networks.small().model_copy(update={"guidance": "film"})))


def stage1_small_post_norm() -> TrainingConfig:
    """The ablation that normalises after adding, not before. Not yet run to its end.

    `python -m jobs.train lure_stage1_small_post_norm --set dataset=INDEX-lure`; Stage II of it takes
    `--set objective.model.norm=post`.
    """
    return _small(_stage1(networks.small().model_copy(update={"norm": "post"})))


def stage2_small() -> TrainingConfig:
    """Stage II of the small model on one core. Not yet run to its end.

    `python -m jobs.train lure_stage2_small --set dataset=roadscene-small --set init_from=runs:/ID`
    """
    return _training(
        Stage2Config(model=networks.small()), _small_optim(3000), register_as=MODEL_NAME
    )


def stage1_full() -> TrainingConfig:
    """Stage I in the reconstruction's size on one GPU. Not yet run at this scale.

    `python -m jobs.train lure_stage1_full --set dataset=NAME`
    """
    return _training(Stage1Config(), _full_optim(200_000), use_gpu=True)


def stage2_full() -> TrainingConfig:
    """Stage II in the reconstruction's size on one GPU. Not yet run at this scale.

    `python -m jobs.train lure_stage2_full --set dataset=NAME --set init_from=runs:/ID`
    """
    return _training(Stage2Config(), _full_optim(50_000), use_gpu=True, register_as=MODEL_NAME)


def _stage1(model: LUREConfig, **weights: float) -> Stage1Config:
    # The unified loss comes in over a tenth of the steps (spec 4.1). A teacher of the spec's 0.999 would
    # lag behind by a third of them.
    return Stage1Config(model=model, ramp_steps=_STAGE1_STEPS // 10, teacher_decay=0.99, **weights)


def _small(objective: Stage1Config) -> TrainingConfig:
    return _training(objective, _small_optim(_STAGE1_STEPS))


def _training(
    objective: Stage1Config | Stage2Config,
    optim: OptimConfig,
    *,
    use_gpu: bool = False,
    register_as: str | None = None,
) -> TrainingConfig:
    return TrainingConfig(
        objective=objective,
        optim=optim,
        use_gpu=use_gpu,
        preview_every=optim.checkpoint_every,
        register_as=register_as,
    )


def _full_optim(num_steps: int) -> OptimConfig:
    # AdamW, betas and weight decay are the defaults.
    return OptimConfig(
        num_steps=num_steps,
        batch_size=16,
        crop_px=128,
        schedule=CosineSchedule(constant_share=0),
        clip_norm=1.0,
        precision="bf16",
    )


def _small_optim(num_steps: int) -> OptimConfig:
    # The channels' attention sees a crop: larger ones at the end bring it nearer to whole pictures.
    return OptimConfig(
        num_steps=num_steps,
        batch_size=4,
        crop_px=64,
        late_crop_px=96,
        lr=1e-3,
        schedule=CosineSchedule(constant_share=0.6, lr_min=1e-5),
        clip_norm=1.0,
        log_every=25,
        checkpoint_every=250,
    )
