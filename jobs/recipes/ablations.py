"""DSPFusion without one of its two priors, as the paper's ablation has it; the rest is `dspfusion`'s.

Without the semantic prior nothing is left for Stage II to restore: Stage I is the whole training, and
registers. Every ablation registers under a name of its own, so that none becomes the product's
challenger. How the paper cuts a prior off is not said; here neither its encoder nor what it guides is
built (README of the model, "Ablations"). To be compared with `small` and with `paper` of the same
dataset; none has been run to the end yet.
"""

from jobs.config import TrainRecipe
from jobs.recipes.dspfusion import (
    MODEL_NAME,
    on_cpus,
    on_gpus,
    paper_optim,
    paper_stage1,
    paper_stage2,
    small_optim,
    small_stage1,
)
from models.dspfusion.config import DSPFusionConfig, Stage1Config, Stage2Config, small

NO_DEGRADATION_NAME = f"{MODEL_NAME}-no-degradation-prior"
NO_SEMANTIC_NAME = f"{MODEL_NAME}-no-semantic-prior"


def stage1_small_no_degradation() -> TrainRecipe:
    """Stage I of the small model without degradation prior, on one core.

    `python -m jobs.train dspfusion_stage1_small_no_degradation --set dataset=roadscene-small`
    """
    return on_cpus(Stage1Config(model=_small(degradation_prior=False)), small_optim(5000))


def stage2_small_no_degradation() -> TrainRecipe:
    """Stage II of the small model without degradation prior, on one core.

    `python -m jobs.train dspfusion_stage2_small_no_degradation --set dataset=roadscene-small
    --set stage1=runs:/ID`
    """
    objective = Stage2Config(model=_small(degradation_prior=False))
    return on_cpus(objective, small_optim(2000), register_as=NO_DEGRADATION_NAME)


def stage1_small_no_semantic() -> TrainRecipe:
    """The small model without semantic prior, on one core. There is no Stage II.

    `python -m jobs.train dspfusion_stage1_small_no_semantic --set dataset=roadscene-small`
    """
    objective = small_stage1(_small(semantic_prior=False))
    return on_cpus(objective, small_optim(5000), register_as=NO_SEMANTIC_NAME)


def stage1_paper_no_degradation_1gpu() -> TrainRecipe:
    """Stage I of the paper without degradation prior, on one GPU. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage1_paper_no_degradation_1gpu --set dataset=NAME`
    """
    return on_gpus(paper_stage1(degradation_prior=False), paper_optim(), num_gpus=1)


def stage2_paper_no_degradation_1gpu() -> TrainRecipe:
    """Stage II of the paper without degradation prior, on one GPU. Not yet run at this scale.

    `python -m jobs.train dspfusion_stage2_paper_no_degradation_1gpu --set dataset=NAME
    --set stage1=runs:/ID`
    """
    objective = paper_stage2(degradation_prior=False)
    return on_gpus(objective, paper_optim(), num_gpus=1, register_as=NO_DEGRADATION_NAME)


def stage1_paper_no_semantic_1gpu() -> TrainRecipe:
    """The paper's model without semantic prior, on one GPU. There is no Stage II. Not yet run.

    `python -m jobs.train dspfusion_stage1_paper_no_semantic_1gpu --set dataset=NAME`
    """
    # Nor a denoiser that could predict the noise.
    objective = paper_stage1(semantic_prior=False, denoiser_predicts="x0")
    return on_gpus(objective, paper_optim(), num_gpus=1, register_as=NO_SEMANTIC_NAME)


def _small(**changes: bool) -> DSPFusionConfig:
    return small().model_copy(update=changes)
