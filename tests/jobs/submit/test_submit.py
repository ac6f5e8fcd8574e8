"""Jobs on a real Ray head with its dashboard, which asks for a token."""

import json
import os
import pty
import secrets
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient

from infra.registry import tracking
from infra.settings import (
    REPOSITORY,
    job_server,
    job_tags,
    read_settings,
    without_job_variables,
)
from infra.submit import JobServer, find_job, open_server, submit_job
from jobs.commands import words_of
from jobs.scan.run import scan_folder
from jobs.submit.__main__ import COMMAND
from jobs.submit.needs import missing, needs_of
from jobs.submit.run import entrypoint_of
from pipelines.datasets.versions import find_version
from pipelines.store.folders import LocalFolder
from tests.one_process import run_commands
from tests.ray_head import NODE_SECRETS, TOKEN, RayHead, ray_head
from tests.settings import tracked_settings

Submit = Callable[..., int]


def test_entrypoint_quotes_and_knows_the_commands() -> None:
    words = words_of(["--", "generate", "small", "--set", 'shard.vi=["blur"]'])
    assert entrypoint_of(words) == "python -m jobs.generate small --set 'shard.vi=[\"blur\"]'"
    for wrong in ([], ["--", "rm"], ["--", "config"], ["--", "submit"]):
        with pytest.raises(ValueError, match="there are: bench, chain, demo, evaluate"):
            words_of(wrong)
    with pytest.raises(ValueError, match="did you mean 'generate'"):
        words_of(["generat"])


@pytest.mark.parametrize(
    ("line", "resources"),
    [
        ("train dspfusion_stage1_small --set num_workers=3", {"CPU": 3}),
        ("train dspfusion_stage1_full_1gpu", {"CPU": 1, "GPU": 1}),
        ("train dspfusion_stage1_full_1gpu --device cpu", {"CPU": 1}),
        ("train dspfusion_stage1_small --workers 4", {"CPU": 4}),
        ("train --workers 2 dspfusion_stage1_small", {"CPU": 2}),
        ("train dspfusion_stage1_small --set num_workers=4 --workers 1", {"CPU": 1}),
        ("train dspfusion_stage1_small --show", {}),
        ("generate small --scenes x --dry-run --cluster 4x4", {}),
        ("train dspfusion_stage1_full_1gpu --smoke", {"CPU": 1}),
        ("train dspfusion_stage1_small --device cuda", {"CPU": 1, "GPU": 1}),
        ("train jobs.recipes.dspfusion:stage1_full_1gpu", {"CPU": 1, "GPU": 1}),
        ("train dspfusion_stage1_small --local", {}),
        ("generate --scenes roadscene small", {"CPU": 1}),
        ("generate jobs.recipes.datasets:small --scenes roadscene", {"CPU": 1}),
        ("generate gc", {}),
        ("evaluate models:/m@challenger --scenes x", {"CPU": 1}),
        ("promote dspfusion", {}),
        (
            "chain generate small --scenes x then train dspfusion_stage1_full_1gpu",
            {"CPU": 1, "GPU": 1},
        ),
    ],
)
def test_what_a_command_needs(line: str, resources: dict[str, float]) -> None:
    assert needs_of(line.split()).resources == resources


def test_mistakes_are_found_before_the_cluster_is_asked() -> None:
    with pytest.raises(ValueError, match="did you mean 'small'"):
        needs_of(["generate", "smal", "--scenes", "x"])
    with pytest.raises(ValueError, match=r"did you mean 'optim\.seed'"):
        needs_of(["train", "dspfusion_stage1_small", "--set", "optim.sed=1"])
    for line, message in (
        ("train dspfusion_stage1_small --workers 7", "7 workers cannot share a step"),
        ("train dspfusion_stage1_small --local --workers 2", "--local is one process"),
        ("generate small --scenes x --price 1", "with --dry-run only"),
        ("evaluate m --scenes x --method other", "write NAME=DIR"),
        ("fuse m --vi a --ir b --out c --degradation vi:sleepy", "no degradation 'sleepy'"),
        ("promote dspfusion --set gate.tolerance=nan", r"gate\.tolerance"),
        ("chain generate small --scenes x then trian a", "did you mean 'train'"),
        ("chain promote dspfusion then submit -- promote dspfusion", "no command 'submit'"),
    ):
        with pytest.raises(ValueError, match=message):
            needs_of(line.split())
    needs = needs_of(["train", "dspfusion_stage1_small", "--set", "num_workers=3"])
    assert missing(needs, {"CPU": 2.0}) == ["3 CPU (it has 2)"]
    assert missing(needs, {"CPU": 3.0}) == []


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `jobs.submit` sets for Ray's client is taken back."""
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("variable", "value", "words", "message"),
    [
        ("X", "y", ["--env", "AWS_SECRET_ACCESS_KEY=abc"], "AWS_SECRET_ACCESS_KEY looks like"),
        ("HF_TOKEN", "abc", ["--env", "HF_TOKEN"], "HF_TOKEN looks like a secret"),
        ("MLFLOW_TRACKING_URI", "http://me:hunter2@h", [], r"credentials \(http://\*\*\*@h\)"),
        ("AWS_SECRET_ACCESS_KEY", "canary-0123", ["--env", "X=canary-0123"], "the value of AWS_S"),
        ("FUSION_WORK", "work", [], "absolute"),
        ("X", "y", ["--metadata", "owner_token=abc"], "owner_token looks like a secret"),
        ("X", "y", ["--metadata", "commit=abc"], "write KEY=VALUE, .* none of command, commit"),
        ("X", "y", ["--env", "ABSENT_HERE"], "not set here; write ABSENT_HERE=VALUE"),
    ],
)
@pytest.mark.usefixtures("no_server")
def test_secrets_do_not_travel(
    variable: str,
    value: str,
    words: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "argv", ["submit", *words, "--", "generate", "small", "--scenes", "x"])
    with pytest.raises(SystemExit) as ended:
        COMMAND.run()
    assert ended.value.code == 2
    error = capsys.readouterr().err
    with pytest.raises(ValueError, match=message):
        raise ValueError(error)
    assert "hunter2" not in error
    assert "canary-0123" not in error


def test_an_address_that_is_given_wins(no_server: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_server("http://127.0.0.1:1") == "http://127.0.0.1:1"
    with pytest.raises(ValueError, match=r"no Ray job server at http://127.0.0.1:1 "):
        open_server("http://127.0.0.1:1")
    assert job_server() == "http://127.0.0.1:1"


def test_a_job_tags_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert job_tags() == {}
    metadata = {
        "job_submission_id": "train-1",
        "job_name": "x",
        "command": "train a",
        "commit": "c",
    }
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": metadata}))
    client = tracking.connect(tracked_settings(tmp_path))
    first = tracking.open_run(client, name="a", config={}, tags={"config_digest": "d"})
    expected = {"job.id": "train-1", "job.command": "train a", "job.commit": "c"}
    assert expected.items() <= client.get_run(first.info.run_id).data.tags.items()
    metadata["job_submission_id"] = "train-2"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps({"metadata": metadata}))
    again = tracking.open_run(client, name="a", config={}, tags={"config_digest": "d"})
    assert again.info.run_id == first.info.run_id
    assert client.get_run(first.info.run_id).data.tags["job.id"] == "train-2"


def test_workers_are_not_given_twice_what_a_job_has(monkeypatch: pytest.MonkeyPatch) -> None:
    assert without_job_variables({"A": "1", "B": "2"}) == {"A": "1", "B": "2"}
    config = {"runtime_env": {"env_vars": {"B": "3"}}, "metadata": {}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(config))
    assert without_job_variables({"A": "1", "B": "2"}) == {"A": "1"}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayHead]:
    """A cluster of this module's own."""
    with ray_head(tmp_path_factory.mktemp("head") / "log") as started:
        yield started


@pytest.fixture
def submit(head: RayHead, monkeypatch: pytest.MonkeyPatch) -> Submit:
    """Run `jobs.submit` with the cluster's address and token; return its exit status.

    In a process of its own: this one may have found the token of another cluster, and Ray keeps it.
    """
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.address)

    def run(*words: str) -> int:
        command = [sys.executable, "-m", "jobs.submit", *words]
        done = subprocess.run(
            command, cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=False
        )
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        return done.returncode

    return run


def environment() -> dict[str, str]:
    """This process' one, with the token, and without a mode that an embedded cluster has set."""
    told = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    return {**told, "RAY_AUTH_TOKEN": TOKEN}


def server_of(head: RayHead) -> JobServer:
    return JobServer(head.address, {"Authorization": f"Bearer {TOKEN}"})


@pytest.mark.ray
@pytest.mark.slow
def test_submitted_generate_and_train(
    head: RayHead,
    submit: Submit,
    scene_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """They make the dataset and the run, tell where they come from, and know no secret of ours."""
    # Drawn, because the code that is sent holds this file.
    canary = f"canary-{secrets.token_hex(8)}"
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", canary)
    monkeypatch.setenv("FUSION_WORK", str(tracked_settings(tmp_path).work))
    settings = read_settings()
    scan_folder(scene_folder, settings, name="rendered")

    logged = ["--env", "FUSION_LOG=json", "--follow"]
    assert submit(*logged, "--", "generate", "small", "--scenes", "rendered") == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line[:1] == "{"]
    assert any("16 scenes" in line.get("facts", {}).get("holds", "") for line in told)
    assert all(line["job"].startswith("generate-") for line in told)
    version = find_version(LocalFolder(Path(settings.datasets)), "rendered-small")
    assert version.num_scenes == 16
    assert version.commit.removesuffix("+dirty") == head_commit()

    # The code that is on every node already, as in an image.
    code = ["--code", f"local://{REPOSITORY}", "--follow"]
    training = ["train", "dspfusion_stage1_small", "--smoke", "--set", "dataset=rendered-small"]
    assert submit(*code, "--", *training) == 0
    client = MlflowClient(settings.tracking_uri)
    [run] = client.search_runs([tracking.experiment_id(client)])
    job_id = run.data.tags["job.id"]
    assert run.data.tags["job.command"] == " ".join(training)
    assert run.data.tags["job.config"].startswith("dspfusion_stage1_small@")

    words = [["list"], ["status", job_id], ["logs", job_id]]
    asked = run_commands([["jobs.submit", *each] for each in words], REPOSITORY, environment())
    assert [each.status for each in asked] == [0, 0, 0]
    assert asked[0].out.strip().splitlines()[-1].split()[0] == job_id
    shown = "".join(each.out + each.err for each in asked)
    seen = shown + capsys.readouterr().out + str(find_job(server_of(head), job_id))
    # Neither ours, nor what the nodes were given and every process of the job had.
    for secret in (canary, TOKEN, *NODE_SECRETS.values()):
        assert secret not in seen
        # Dataset, checkpoints, MLflow's file and artifacts; the cluster's logs, code and sockets.
        assert [*files_with(secret, tmp_path), *files_with(secret, head.folder)] == []


def head_commit() -> str:
    command = ["git", "-C", str(REPOSITORY), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def files_with(text: str, folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(files) > 10
    return [path for path in files if text.encode() in path.read_bytes()]


@pytest.mark.ray
@pytest.mark.slow
def test_what_the_cluster_does_not_have_or_know(
    head: RayHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", head.address)
    training = ["train", "dspfusion_stage1_small", "--set", "dataset=x", "--set", "num_workers=9"]
    absent = ["--follow", "--code", "local:///absent", "--", "parity", "x"]
    words = [["--", *training], ["stop", "nope"], absent]
    asked = run_commands([["jobs.submit", *each] for each in words], REPOSITORY, environment())
    assert [each.status for each in asked] == [2, 2, 1]
    assert "needs 9 CPU (it has 2): it would wait for ever" in asked[0].err
    assert "no job 'nope'" in asked[1].err
    assert "failed before it started" in asked[2].err


@pytest.mark.ray
@pytest.mark.slow
def test_a_token_that_is_absent_or_wrong(head: RayHead, no_server: None, tmp_path: Path) -> None:
    """In processes of their own: Ray keeps the token that it found."""
    command = [sys.executable, "-m", "jobs.submit", "list", "--address", head.address]
    environment = {name: os.environ[name] for name in os.environ if "RAY" not in name}
    for token, message in ((None, "asks for a token and there is none"), ("no", "is not that of")):
        told = {"RAY_AUTH_TOKEN": token} if token else {}
        done = subprocess.run(
            command,
            cwd=REPOSITORY,
            env={**environment, **told, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert message in done.stderr
        assert "ray get-auth-token" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(("answer", "status"), [("n", "RUNNING"), ("y", "STOPPED")])
def test_ctrl_c_asks(head: RayHead, submit: Submit, answer: str, status: str) -> None:
    server = server_of(head)
    job_id = f"sleeper-{answer}"
    submit_job(
        server,
        job_id,
        "echo it runs; sleep 300",
        code=f"local://{REPOSITORY}",
        environment={},
        metadata={},
    )
    with terminal("logs", job_id, "--follow", "--address", head.address) as (shown, type_in, ended):
        shown("it runs\r\n")
        type_in("\x03")
        shown("stop the job? [y/N] ")
        type_in(f"{answer}\n")
        assert ended() == (1 if answer == "y" else 130)
    assert find_job(server, job_id).status == status
    assert submit("stop", job_id) == 0
    assert find_job(server, job_id).status == "STOPPED"


@contextmanager
def terminal(*words: str) -> Iterator[tuple[Callable[[str], None], ...]]:
    """`jobs.submit` on a terminal of its own: wait for a text, type, wait for its end."""
    pid, terminal_fd = pty.fork()
    if pid == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # the tests' own shell may have it ignored
        os.chdir(REPOSITORY)
        command = [sys.executable, "-m", "jobs.submit", *words]
        os.execve(sys.executable, command, environment())
    seen = ""

    def shown(text: str, timeout_s: float = 300) -> None:
        nonlocal seen
        deadline = time.monotonic() + timeout_s
        while text not in seen:
            assert time.monotonic() < deadline, f"{text!r} did not come; so far: {seen}"
            if select.select([terminal_fd], [], [], 1.0)[0]:
                seen += os.read(terminal_fd, 4096).decode()

    def type_in(text: str) -> None:
        os.write(terminal_fd, text.encode())

    def ended() -> int:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    try:
        yield shown, type_in, ended
    finally:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        os.close(terminal_fd)
