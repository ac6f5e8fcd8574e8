"""A shard to write."""

import pytest

from pipelines.datasets.plan import DatasetConfig, ShardSpec, plan_shards
from pipelines.sources.scenes import Scene


@pytest.fixture
def spec(config: DatasetConfig, scenes: list[Scene]) -> ShardSpec:
    return plan_shards(config, scenes)[0]
