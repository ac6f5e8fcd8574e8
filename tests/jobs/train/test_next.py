"""The next command that jobs.train prints is whole; a recipe for an absent GPU names one for CPUs."""

import shlex
from pathlib import Path

import pytest
import torch

from infra.settings import Settings
from jobs.command_line import parse_words
from jobs.config import has_setting
from jobs.recipes import TRAINING
from jobs.train.__main__ import COMMAND, _print_next
from jobs.train.inputs import check_gpus
from jobs.train.run import Trained
from tests.settings import embedded_settings


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("name", [name for name in TRAINING if TRAINING[name]().use_gpu])
def test_a_recipe_for_a_gpu_names_one_for_cpus(name: str) -> None:
    config = TRAINING[name]()
    with pytest.raises(ValueError, match=rf"recipe {name} needs a GPU .*; take \w+, ") as caught:
        check_gpus(config, name, here=True)
    other = TRAINING[str(caught.value).partition("; take ")[2].partition(",")[0]]()
    assert not other.use_gpu
    assert type(other.objective) is type(config.objective)
    check_gpus(config, name, here=False)


def printed(words: str, settings: Settings, model: str | None, capsys: object) -> str:
    trained = Trained(run_id="0123", model=model, dataset="roads-small-0123456789ab")
    _print_next(parse_words(COMMAND, shlex.split(words)), settings, trained)
    lines = capsys.readouterr().out.splitlines()  # type: ignore[attr-defined]
    return next(line for line in lines if line.startswith("next: "))


def test_the_next_training_has_what_was_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = embedded_settings(tmp_path)
    given = "--set dataset=roads-small --set objective.model.width=16 --set objective.degradation_rate=1"
    given += (
        " --set freeze='[\"fusion.*\"]' --workers 2 --work 'my work' --address head:6379 --smoke"
    )
    line = printed(f"dspfusion_stage1_small {given}", settings, None, capsys)
    words = shlex.split(line.removeprefix("next: python -m jobs.train "))
    following = parse_words(COMMAND, words)
    assert following.recipe == "dspfusion_stage2_small_prior"
    assert following.overrides == [
        "dataset=roads-small-0123456789ab",
        "init_from=runs:/0123",
        "objective.model.width=16",  # but not what only Stage I has
        'freeze=["fusion.*"]',
    ]
    assert (following.workers, following.work, following.address, following.smoke) == (
        2, Path("my work"), "head:6379", True
    )  # fmt: skip


def test_a_setting_of_another_recipe() -> None:
    recipe = TRAINING["dspfusion_stage2_small"]()
    assert has_setting(recipe, "optim.num_steps=3")
    assert not has_setting(recipe, "objective.degradation_rate=1")
