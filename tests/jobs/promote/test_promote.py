"""The gate on a real registry, with evaluations whose numbers are made for the case."""

import multiprocessing
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from infra.registry import model_versions as registry
from infra.registry import tracking
from infra.settings import Settings
from jobs.promote import __main__ as command
from jobs.promote.aliases import move_champion, rollback
from jobs.promote.decision import promote
from jobs.recipes.kinds import PromoteRecipe
from models.metrics import METRIC_VERSION, METRICS
from pipelines.promotion.gate import GateConfig
from pipelines.promotion.history import Event
from pipelines.promotion.lineage import SCENES
from pipelines.results.rows import BASELINE, MODEL, write_rows
from pipelines.sources.index import write_index
from pipelines.sources.scan import ScanResult
from pipelines.sources.scenes import Scene, SceneTable
from tests.settings import tracked_settings

NAME = "gated"
RECIPE = PromoteRecipe(scenarios=("clean", "vi_blur"), gate=GateConfig(min_scenes=6))


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    settings = tracked_settings(tmp_path_factory.mktemp("promote"))
    tracking.connect(settings).create_registered_model(NAME)
    return settings


def rows_of(method: str, level: float) -> list[dict[str, Any]]:
    """Six scenes under two scenarios; every metric lies about `level`."""
    return [
        {
            "scene": f"s{scene}",
            "dataset": "d",
            "scenario": scenario,
            "method": method,
            "reference": "hq",
            "width": 8,
            "height": 8,
            "seconds": 0.1,
            "metric_version": METRIC_VERSION,
            "protocol": "p",
            **{metric: level * (1 + 0.001 * scene) for metric in METRICS},
        }
        for scene in range(6)
        for scenario in ("clean", "vi_blur")
    ]


def write_scenes_of(folder: Path, split: str) -> None:
    """An index of one scene, which is another in every split."""
    scene = Scene(
        id=split,
        dataset="d",
        split=split,
        vi_uri=f"{split}.png",
        ir_uri=f"{split}-ir.png",
        width=8,
        height=8,
        vi_sha256=f"{split:x>64}",
        ir_sha256=f"{split:y>64}",
    )
    write_index(ScanResult(scenes=SceneTable.of([scene]), refused=()), folder / SCENES)


def add_version(
    settings: Settings,
    folder: Path,
    *,
    level: float,
    evaluated: bool = True,
    name: str = NAME,
    trained_on: str = "train",
) -> str:
    """Register a version whose evaluation says `level`, while the average is at 1."""
    client = tracking.connect(settings)
    weights = f"weights at {level}"
    run = tracking.open_run(
        client, name="evaluate", config={}, tags={"model_sha256": weights, "split": "val"}
    )
    run_id = run.info.run_id
    write_rows(rows_of(MODEL, level) + rows_of(BASELINE, 1.0), folder / run_id / "rows.parquet")
    write_scenes_of(folder / run_id, "val")
    tracking.log_folder(client, run_id, folder / run_id, "evaluation")
    tracking.log_metrics(client, run_id, {"model.VIF": level, "average.VIF": 1.0})
    trained = tracking.open_run(client, name="train", config={"lr": level, "seed": 1}, tags={})
    write_scenes_of(folder / trained.info.run_id, trained_on)
    tracking.log_folder(client, trained.info.run_id, folder / trained.info.run_id, "lineage")
    tags = {
        "system": "dspfusion",
        "stage": "stage1",
        "dataset_version": "d-1",
        "dataset_digest": "d",
        "git_commit": "c",
        "model_sha256": weights,
        "program_sha256": "p",
        "parity_max_abs": "1e-07",
        "run_id": trained.info.run_id,
    }
    if evaluated:
        tags["evaluation_run_id"] = run_id
    version = client.create_model_version(
        name, source=f"runs:/{run_id}/evaluation", run_id=run_id, tags=tags
    )
    client.set_registered_model_alias(name, registry.CHALLENGER, version.version)
    return str(version.version)


def challenger(name: str = NAME) -> str:
    return f"models:/{name}@challenger"


def champion(settings: Settings, name: str = NAME) -> str | None:
    held = registry.find_alias(tracking.connect(settings), name, registry.CHAMPION)
    return str(held.version) if held else None


def test_the_gate_moves_the_alias_or_says_why_not(settings: Settings, tmp_path: Path) -> None:
    recipe = RECIPE
    equal = add_version(settings, tmp_path, level=1.0)
    refused = promote(recipe, settings, model=challenger())
    assert (refused.passed, refused.version, refused.champion) == (False, equal, None)
    assert any("first version" in reason for reason in refused.reasons)

    good = add_version(settings, tmp_path, level=1.2)
    assert promote(recipe, settings, model=challenger()).passed
    assert champion(settings) == good

    worse = add_version(settings, tmp_path, level=1.1)
    refused = promote(recipe, settings, model=challenger())
    assert (refused.passed, refused.version, refused.champion) == (False, worse, good)
    assert any("VIF over all scenarios fell" in reason for reason in refused.reasons)
    assert champion(settings) == good

    better = add_version(settings, tmp_path, level=1.3)
    assert promote(recipe, settings, model=f"models:/{NAME}/{better}").champion == better
    client = tracking.connect(settings)
    previous = registry.find_alias(client, NAME, registry.PREVIOUS)
    assert previous is not None
    assert str(previous.version) == good
    tags = registry.find_model(client, f"models:/{NAME}@champion").tags
    assert tags["promoted_over"] == f"version {good}"
    assert tags["promotion_evidence"] == tags["evaluation_run_id"]
    again = promote(recipe, settings, model=challenger())
    assert (again.passed, again.champion) == (True, better)


def test_without_evidence_nothing_is_promoted(settings: Settings, tmp_path: Path) -> None:
    before = champion(settings)
    add_version(settings, tmp_path, level=9.0, evaluated=False)
    refused = promote(RECIPE, settings, model=challenger())
    assert not refused.passed
    assert refused.reasons == ("It was not evaluated: run python -m jobs.evaluate on it.",)
    assert champion(settings) == before
    strict = RECIPE.model_copy(update={"parity_tolerance": 1e-8})
    number = add_version(settings, tmp_path, level=9.0)
    (reason,) = promote(strict, settings, model=challenger()).reasons
    assert "1e-07; 1e-08 is tolerated" in reason
    tracking.connect(settings).delete_model_version_tag(NAME, number, "dataset_digest")
    (reason,) = promote(RECIPE, settings, model=challenger()).reasons
    assert "lineage lacks dataset_digest" in reason


def test_what_it_was_trained_on_is_no_evidence_nor_another_split(
    settings: Settings, fresh: str, tmp_path: Path
) -> None:
    add_version(settings, tmp_path, level=9.0, name=fresh, trained_on="val")
    (reason,) = promote(RECIPE, settings, model=challenger(fresh)).reasons
    assert "trained on 1 of the scenes that it was measured on, val first" in reason
    (reason, *_) = promote(
        RECIPE.model_copy(update={"split": "test"}), settings, model=challenger(fresh)
    ).reasons
    assert "evaluated on split val, not on test" in reason


def test_small_losses_do_not_add_up(settings: Settings, fresh: str, tmp_path: Path) -> None:
    for level in (1.50, 1.47, 1.445):  # 2 % below the champion each time
        number = add_version(settings, tmp_path, level=level, name=fresh)
        promoted = promote(RECIPE, settings, model=challenger(fresh))
    assert (promoted.version, promoted.champion) == (number, "2")
    assert any("best former champion, version 1" in reason for reason in promoted.reasons)


def test_a_dry_run_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    client = tracking.connect(settings)
    before, events = champion(settings), registry.read_events(client, NAME)
    number = add_version(settings, tmp_path, level=5.0)
    dry = promote(RECIPE, settings, model=challenger(), dry_run=True)
    assert (dry.passed, dry.version, dry.champion) == (True, number, before)
    assert promote(RECIPE, settings, model=challenger(), dry_run=True, force="x") == dry
    assert champion(settings) == before
    assert registry.read_events(client, NAME) == events
    assert "promoted_at" not in registry.find_model(client, f"models:/{NAME}/{number}").tags


@pytest.fixture
def fresh(settings: Settings, request: pytest.FixtureRequest) -> str:
    """A registered model of the test's own."""
    name = str(request.node.name)
    tracking.connect(settings).create_registered_model(name)
    return name


def test_rollbacks_go_back_one_by_one_and_history_keeps_it_all(
    settings: Settings, fresh: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="has no champion to roll back from"):
        rollback(settings, name=fresh, reason="x")
    for level in (1.2, 1.3, 1.0):
        number = add_version(settings, tmp_path, level=level, name=fresh)
        forced = "the customer asked" if level == 1.0 else None
        promoted = promote(RECIPE, settings, model=challenger(fresh), force=forced)
        assert promoted.champion == number
        assert promoted.passed == (level > 1)
    client = tracking.connect(settings)
    tags = registry.find_model(client, f"models:/{fresh}/3").tags
    assert tags["promotion_forced"] == "the customer asked"
    assert "VIF" in tags["promotion_reasons"]
    assert rollback(settings, name=fresh, reason="it flickers").version == "2"
    assert rollback(settings, name=fresh, reason="still").version == "1"
    with pytest.raises(ValueError, match=r"no champion of .* came before version 1"):
        rollback(settings, name=fresh, reason="more")
    # The same version again: what was written of its first time stays.
    assert promote(RECIPE, settings, model=f"models:/{fresh}/2").champion == "2"
    assert champion(settings, fresh) == "2"
    # A process that died before it had moved the aliases; nothing is built on what it announced.
    died = registry.read_events(client, fresh)[6] | {"version": "3", "finished": False}
    registry.write_event(client, fresh, 7, died)
    capsys.readouterr()
    run(command, ["history", fresh], settings)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[2:5] for line in lines] == [
        ["promote", "1", "-"],
        ["promote", "2", "1"],
        ["force", "3", "2"],
        ["rollback", "2", "3"],
        ["rollback", "1", "2"],
        ["promote", "2", "1"],
        ["promote", "(did", "not"],
    ]
    assert "the customer asked; " in lines[2]
    assert "it flickers" in lines[3]
    assert rollback(settings, name=fresh, reason="x").version == "1"
    assert sorted(registry.read_events(client, fresh))[-1] == 8


def test_a_command_learns_of_every_new_champion(
    settings: Settings, fresh: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = tmp_path / "told"
    script = f"import sys; open({str(told)!r}, 'a').write(sys.argv[1] + '\\n')"
    hook = ["--on-promotion", f'{sys.executable} -c "{script}"']
    for level in (1.2, 1.3):
        add_version(settings, tmp_path, level=level, name=fresh)
        forced = ["--force", "--reason", "x"]  # the recipe's own evidence is not this test's
        assert run(command, [fresh, *forced, *hook], settings) == 0
    # Which is the champion already: nobody is told again.
    assert run(command, [fresh, *hook], settings) == 0
    assert run(command, ["rollback", fresh, "--reason", "x", *hook], settings) == 0
    versions = [f"models:/{fresh}/{number}" for number in (1, 2, 1)]
    assert told.read_text().split() == versions
    capsys.readouterr()
    absent = ["--version", "2", "--force", "--reason", "x", "--on-promotion", "no-such-command"]
    assert run(command, [fresh, *absent], settings) == 2
    assert f"run it by hand when it is mended: no-such-command {versions[1]}" in (
        capsys.readouterr().err
    )
    assert champion(settings, fresh) == "2"


def run(module: Any, words: list[str], settings: Settings) -> int:
    """Run a command as a person does; return its exit status."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setattr(sys, "argv", ["job", *words, "--work", str(settings.work)])
        with pytest.raises(SystemExit) as ended:
            module.COMMAND.run()
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_what_the_command_answers(
    settings: Settings, fresh: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judged = ["--set", 'scenarios=["clean", "vi_blur"]', "--set", "gate.min_scenes=6"]
    add_version(settings, tmp_path, level=1.0, name=fresh)
    assert run(command, [fresh, *judged], settings) == 1
    assert "the gate refused version 1" in capsys.readouterr().out
    assert run(command, [fresh, "--force"], settings) == 2
    assert "--force needs --reason" in capsys.readouterr().err
    assert run(command, [fresh, "--force", "--reason", "a trial"], settings) == 0
    add_version(settings, tmp_path, level=1.5, name=fresh)
    assert run(command, [fresh, "--dry-run", *judged], settings) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert champion(settings, fresh) == "1"
    assert run(command, ["diff", fresh, "champion", "2"], settings) == 0
    out = capsys.readouterr().out
    assert "settings: 1 equal, 1 differ" in out
    assert [line.split() for line in out.splitlines() if line.split()[:1] in (["lr"], ["VIF"])] == [
        ["lr", "1.0", "1.5"],
        ["VIF", "1.0000", "1.5000"],
    ]
    assert run(command, ["rollback", fresh, "--reason", "x"], settings) == 2


def _promote_when_all_are_there(
    settings: Settings, name: str, number: str, barrier: Any, results: Any
) -> None:
    # So many resamples that both are at it for seconds.
    gate = GateConfig(min_scenes=6, num_resamples=20_000)
    recipe = RECIPE.model_copy(update={"gate": gate})
    barrier.wait()
    try:
        champion = promote(recipe, settings, model=f"models:/{name}/{number}").champion
        results.put((number, str(champion)))
    except ValueError as error:
        results.put((number, str(error)))


def promote_at_once(settings: Settings, name: str, numbers: list[str]) -> dict[str, str]:
    """Promote versions in processes of their own; what each says, by number."""
    # Forked from one process that has imported MLflow, not from this one with its threads.
    multiprocessing.set_forkserver_preload(["jobs.promote.decision"])
    forked = multiprocessing.get_context("forkserver")
    barrier, results = forked.Barrier(len(numbers)), forked.Queue()
    processes = [
        forked.Process(
            target=_promote_when_all_are_there, args=(settings, name, number, barrier, results)
        )
        for number in numbers
    ]
    for process in processes:
        process.start()
    answers = dict(results.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    return answers


class _BrokenAfter:
    """A lock that a rival breaks just after it said for the n-th time that it holds."""

    def __init__(self, lock: registry.Lock, count: int, rival: Callable[[], None]) -> None:
        self.lock, self.token, self.left, self.rival = lock, lock.token, count, rival

    def check(self) -> None:
        self.lock.check()
        self.left -= 1
        if self.left == 0:
            self.rival()


@pytest.mark.parametrize("after", [1, 2, 3])
def test_who_loses_the_lock_between_two_writes_gives_way(
    after: int, settings: Settings, tmp_path: Path
) -> None:
    client, name = tracking.connect(settings), f"raced-{after}"
    client.create_registered_model(name)
    for level in (1.0, 1.1, 1.2):
        add_version(settings, tmp_path / str(level), level=level, evaluated=False, name=name)

    def event(version: str, over: str | None) -> Event:
        return Event(action="promote", version=version, over=over, by="me", at="now", commit="c")

    def hold(**options: bool) -> AbstractContextManager[registry.Lock]:
        return registry.promotion_lock(client, name, holder="me", **options)

    def rival() -> None:
        with hold(break_lock=True) as lock:
            move_champion(client, lock, name, event("3", "1"), previous="1")

    with hold() as lock:
        move_champion(client, lock, name, event("1", None), previous=None)
    with hold() as lock, pytest.raises(ValueError, match=r"lost its lock.*taken back"):
        move_champion(client, _BrokenAfter(lock, after, rival), name, event("2", "1"), previous="1")
    aliases = client.get_registered_model(name).aliases
    assert (str(aliases["champion"]), str(aliases["previous"])) == ("3", "1")
    finished = [
        each["version"] for each in registry.read_events(client, name).values() if each["finished"]
    ]
    assert finished == ["1", "3"]


@pytest.mark.slow
def test_of_two_processes_one_promotes_and_the_other_says_so(
    settings: Settings, fresh: str, tmp_path: Path
) -> None:
    numbers = [add_version(settings, tmp_path, level=level, name=fresh) for level in (1.2, 1.3)]
    answers = promote_at_once(settings, fresh, numbers)
    held = champion(settings, fresh)
    (loser,) = [number for number in numbers if number != held]
    assert held is not None
    assert answers[held] == held
    assert "under way, by " in answers[loser]
    assert len(registry.read_events(tracking.connect(settings), fresh)) == 1
