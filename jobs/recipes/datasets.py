"""Dataset recipes. The version's name is the scene index's and the recipe's, joined."""

from degradations.blur import BlurRanges
from degradations.catalogue import IrRanges, ViRanges
from degradations.noise import IrRandomNoiseRanges, StripeNoiseRanges, ViRandomNoiseRanges
from pipelines.datasets.plan import DatasetConfig, ShardConfig


def small() -> DatasetConfig:
    """Six degradations, for laptops: `python -m jobs.generate small --scenes INDEX`.

    Just enough for 6 negatives within a scene; 87 RoadScene pairs make about 100 MB.
    """
    return DatasetConfig(
        name="small",
        scenes_per_shard=16,
        shard=ShardConfig(
            vi=("blur", "random_noise", "low_light"),
            ir=("low_contrast", "random_noise", "stripe_noise"),
        ),
    )


def paper() -> DatasetConfig:
    """The paper's degradations and strengths, appendix B.1: `python -m jobs.generate paper --scenes INDEX`.

    Spec 3.5, column "paper": without haze. Of low light, over-exposure and low contrast the paper has
    captured pictures only. Those of the source are stored; where it has none, the catalogue's kernels.
    """
    shard = ShardConfig(
        vi=("blur", "rain", "random_noise", "low_light", "over_exposure"),
        ir=("low_contrast", "random_noise", "stripe_noise"),
        vi_ranges=ViRanges(
            blur=BlurRanges(size_px=21, sigma_range_px=(2.6, 2.6)),
            random_noise=ViRandomNoiseRanges(sigma_range_level=(10, 10), peak_range=(70, 90)),
        ),
        ir_ranges=IrRanges(
            random_noise=IrRandomNoiseRanges(
                sigma_range_level=(10, 10),
                peak_range=(70, 90),
                salt_fraction=0,
                pepper_fraction=0,
            ),
            stripe_noise=StripeNoiseRanges(
                sigma_range_level=(10, 15), column_sigma_range_level=(20, 30)
            ),
        ),
    )
    return DatasetConfig(name="paper", scenes_per_shard=64, shard=shard)


def shipped() -> DatasetConfig:
    """All nine kernels, as strong as in the authors' shipped samples: the catalogue's defaults.

    `python -m jobs.generate shipped --scenes INDEX`; spec 3.5, last column. `small` is as strong.
    """
    return DatasetConfig(name="shipped", scenes_per_shard=64)
