"""Dataset recipes. The version's name is the scene index's and the recipe's, joined."""

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
    """Every degradation of the paper (spec 3.5): `python -m jobs.generate paper --scenes INDEX`."""
    return DatasetConfig(name="paper", scenes_per_shard=64)
