"""infra/ray-clusters: Ray's own schema, EC2's of a machine, and what is said twice said alike."""

import shlex
from pathlib import Path
from typing import Any

import botocore.session
import click
import pytest
import yaml
from botocore.validate import ParamValidator
from jsonschema import ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from infra.settings import REPOSITORY

FOLDER = REPOSITORY / "infra" / "ray-clusters"
CLOUDS = ("aws", "gcp")


def load(cloud: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{cloud}.yaml").read_text())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_accepts_it(cloud: str) -> None:
    validate_config(prepare_config(load(cloud)))
    # Ray fills what is left out with its defaults, which install another Ray.
    for key in ("setup_commands", "head_setup_commands", "worker_setup_commands"):
        assert key in load(cloud)


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(
    "change",
    [
        {"max_worker": 3},
        {"head_node_type": "haed"},
        {"max_workers": 0},
        {"provider": {"type": "ec2"}},
    ],
    ids=str,
)
def test_ray_refuses_a_mistake(cloud: str, change: dict[str, Any]) -> None:
    with pytest.raises((ValidationError, ValueError, NotImplementedError)):
        validate_config(prepare_config(load(cloud) | change))


def _ec2_problems(node: dict[str, Any]) -> str:
    """What botocore's own description of EC2 says of a node_config; empty when it is sound."""
    shape = (
        botocore.session.get_session()
        .get_service_model("ec2")
        .operation_model("RunInstances")
        .input_shape
    )
    counts = {"MinCount": 1, "MaxCount": 1}
    return ParamValidator().validate(node | counts, shape).generate_report()


def test_ec2_knows_every_field_of_a_node() -> None:
    types = load("aws")["available_node_types"]
    for node in types.values():
        assert _ec2_problems(node["node_config"]) == ""
        assert node["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in node["node_config"]["BlockDeviceMappings"])
    assert "InstanceTyp" in _ec2_problems({"InstanceTyp": "m7i.large"})


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_start_takes_its_options_with_tokens_and_on_loopback(cloud: str) -> None:
    import ray.scripts.scripts  # Seconds, which every process of the tests would spend at its start.

    config = load(cloud)
    for role in ("head", "worker"):
        start = config[f"{role}_start_ray_commands"][-1]
        assert "RAY_AUTH_MODE=token" in start
        words = shlex.split(start.partition("ray start")[2])
        options = ray.scripts.scripts.start.make_context("start", words).params
        assert options["head"] == (role == "head")
        if role == "head":
            assert options["dashboard_host"] == "127.0.0.1"
            assert options["num_cpus"] == config["available_node_types"]["head"]["resources"]["CPU"]
    with pytest.raises(click.UsageError):
        ray.scripts.scripts.start.make_context("start", ["--heda"])
    assert "/home/ubuntu/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nodes_install_what_is_pinned(cloud: str) -> None:
    config = load(cloud)
    ours = [path for path in config["file_mounts"].values() if not path.startswith("~")]
    assert all((REPOSITORY / path).is_file() for path in ours)
    assert {Path(path).name for path in ours} == {"run.txt", "torch-cuda.txt"}
    installs = [line for line in config["setup_commands"] if "pip install" in line]
    for line in installs:
        assert line.count("pip install") == line.count(
            "--require-hashes -r run.txt -r torch-cuda.txt"
        )
    assert installs


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_node_has_a_work_folder_of_its_own(cloud: str) -> None:
    config = load(cloud)
    commands = " ".join(config["setup_commands"])
    assert "mkdir -p /work" in commands
    assert "mount" not in commands
    readme = (FOLDER.parent / "README.md").read_text()
    assert "FUSION_WORK=/work" in readme
    assert "FUSION_RUNS=s3://" in readme


def test_both_clouds_start_ray_alike() -> None:
    aws, gcp = map(load, CLOUDS)
    same = ("head_start_ray_commands", "worker_start_ray_commands", "head_node_type", "max_workers")
    assert {key: aws[key] for key in same} == {key: gcp[key] for key in same}
    assert aws["available_node_types"].keys() == gcp["available_node_types"].keys()
