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
from models.lure.config import Stage1Config, Stage2Config
from pipelines.datasets.plan import DatasetConfig, ShardConfig
from pipelines.training.config import CosineSchedule, OptimConfig, TrainingConfig

MODEL_NAME = "lure"


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
    """Stage I of the small model on one core. Not yet run to its end.

    `python -m jobs.train lure_stage1_small --set dataset=roadscene-small`
    """
    # The unified loss comes in over a tenth of the steps (spec 4.1). A teacher of the spec's 0.999 would
    # lag behind by a third of them.
    objective = Stage1Config(model=networks.small(), ramp_steps=320, teacher_decay=0.99)
    return _training(objective, _small_optim(3200))


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
