"""Fixtures: what `jobs.demo --smoke` made, for all that look at it."""

from __future__ import annotations

import contextlib
import io
from dataclasses import dataclass

import pytest

from infra.registry import model_versions as registry
from infra.registry import tracking
from infra.settings import Settings
from jobs.demo.run import demo
from tests.settings import tracked_settings


@dataclass(frozen=True)
class FirstDemo:
    """The work folder and the tracking store of a demo, what it said, and whom it made champion."""

    settings: Settings
    said: str
    champion: str | None


@pytest.fixture(scope="session")
def first_demo(ray_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> FirstDemo:
    """The whole way in small, once: a dataset, both stages, a registered version, its evaluation."""
    settings = tracked_settings(tmp_path_factory.mktemp("demo"))  # on the cluster of `ray_settings`
    with contextlib.redirect_stdout(io.StringIO()) as said:
        demo(settings, smoke=True)
    champion = registry.find_alias(tracking.connect(settings), "dspfusion-demo", registry.CHAMPION)
    return FirstDemo(settings, said.getvalue(), str(champion.version) if champion else None)
