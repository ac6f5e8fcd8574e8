"""infra/slurm, with stubs of the scheduler and of Ray: what reaches every node, and that it is taken."""

import subprocess
from pathlib import Path

import pytest
from ray.scripts.symmetric_run import curate_and_validate_ray_start_args, symmetric_run

from infra.settings import REPOSITORY
from tests.infra.command_lines import parse_command

SBATCH = REPOSITORY / "infra" / "slurm" / "fusion.sbatch"
_STUBS = {
    # `srun` has a command run on every node, here on one; `scontrol` writes the nodes of a list apart.
    "srun": 'exec "$@"',
    "scontrol": 'test "$*" = "show hostnames node[7-8]" && printf "node7\\nnode8\\n"',
    "ray": """
[ "$RAY_AUTH_MODE ${#RAY_AUTH_TOKEN}" = "token 64" ] || exit 4
printf "%s\\n" "$@" > "$FUSION_WORK/said"
exit 3""",
}


def run(folder: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name, line in _STUBS.items():
        (programs / name).write_text(f"#!/bin/bash\n{line}\n")
        (programs / name).chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin",
        "FUSION_WORK": str(folder),
        "SLURM_SUBMIT_DIR": str(folder),
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
    }
    return subprocess.run(
        ["bash", str(SBATCH), *words], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "small", "--scenes", "x", "--set", 'shard.vi=["blur"]'],
        ["train", "dspfusion_stage1_small", "--set", "num_workers=2"],
        ["chain", "generate", "small", "--scenes", "x", "then", "promote", "dspfusion"],
    ],
    ids=lambda words: words[0],
)
def test_every_node_starts_ray_and_the_first_the_command(words: list[str], tmp_path: Path) -> None:
    assert run(tmp_path, words).returncode == 3, "Ray's status is the job's"
    command, *said = (tmp_path / "said").read_text().splitlines()
    assert command == "symmetric-run"
    options, entrypoint = said[: said.index("--")], said[said.index("--") + 1 :]
    context = symmetric_run.make_context("_", list(options), resilient_parsing=True)
    assert context.params["address"] == "node7:6379"
    assert context.params["min_nodes"] == 2
    assert curate_and_validate_ray_start_args(options) == ["--num-cpus", "16"]
    assert entrypoint[:2] == ["env", "RAY_ADDRESS=node7:6379"]
    assert entrypoint[2:5] == ["python", "-m", f"jobs.{words[0]}"]
    assert entrypoint[5:] == words[1:]


def test_a_job_without_a_command_is_refused(tmp_path: Path) -> None:
    refused = run(tmp_path, [])
    assert refused.returncode == 2
    assert "no command; for example" in refused.stderr
    assert not (tmp_path / "said").exists()


def test_the_examples_are_commands_of_ours() -> None:
    text = SBATCH.read_text().replace(" \\\n#    ", "")
    found = [
        line.partition("fusion.sbatch ")[2] for line in text.splitlines() if line[:4] == "#   "
    ]
    assert len(found) == 2
    for line in found:
        parse_command(f"python -m jobs.{line}")
