"""Model systems: objectives to train and fusers to use, chosen by the type of their config."""

from models.dspfusion.config import DSPFusionConfig, Stage1Config, Stage2Config
from models.dspfusion.fuser import DSPFusionFuser
from models.dspfusion.stage1 import Stage1
from models.dspfusion.stage2 import Stage2


def build_objective(config: Stage1Config | Stage2Config) -> Stage1 | Stage2:
    """Return the training objective of a stage, freshly initialised."""
    match config:
        case Stage1Config():
            return Stage1(config)
        case Stage2Config():
            return Stage2(config)


def build_fuser(config: DSPFusionConfig) -> DSPFusionFuser:
    """Return the fuser of a model system, freshly initialised."""
    match config:
        case DSPFusionConfig():
            return DSPFusionFuser(config)
