"""infra/kuberay, offline: Kubernetes' schemas, ours of KubeRay, and what the files say of each other."""

import functools
import importlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.serve.schema import ServeDeploySchema
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from infra.settings import REPOSITORY
from tests.infra.command_lines import commands_in, parse_command
from tests.infra.environment import check_variable

ROOT = REPOSITORY / "infra" / "kuberay"
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
# The newest that the package knows, and one that many clusters still run.
VERSIONS = (kubernetes_validate.latest_version(), "1.31.0")
_SCHEMA = json.loads(Path(__file__).with_name("kuberay_v1.schema.json").read_text())


@functools.cache
def listed() -> list[dict[str, Any]]:
    """What kustomization.yaml lists, as it stands in the files."""
    names = yaml.safe_load((ROOT / "kustomization.yaml").read_text())["resources"]
    others = {"kustomization.yaml", "service.yaml"}
    assert sorted(names) == sorted(
        path.name for path in ROOT.glob("*.yaml") if path.name not in others
    )
    return [found for name in names for found in yaml.safe_load_all((ROOT / name).read_text())]


@functools.cache
def documents() -> list[dict[str, Any]]:
    """All of them: what is applied at once, and the service, which waits for a champion."""
    return [*listed(), *yaml.safe_load_all((ROOT / "service.yaml").read_text())]


def all_of(kind: str) -> list[dict[str, Any]]:
    return [found for found in documents() if found["kind"] == kind]


def one(kind: str, name: str) -> dict[str, Any]:
    return next(found for found in all_of(kind) if found["metadata"]["name"] == name)


def cluster() -> dict[str, Any]:
    (found,) = all_of("RayCluster")
    return found


def service() -> dict[str, Any]:
    (found,) = all_of("RayService")
    return found


# Ray's nodes, by the names that `pods` gives them.
CLUSTER, SERVICE = ("head", "cpu", "gpu"), ("serve-head", "serve-cpu")


def pods() -> dict[str, dict[str, Any]]:
    """Every pod template by a name of ours, Ray's with the labels that KubeRay gives them."""
    found = {
        owner["metadata"]["name"]: owner["spec"]["template"]
        for kind in ("Deployment", "StatefulSet")
        for owner in all_of(kind)
    }
    for owner, spec, prefix in (
        (cluster()["metadata"]["name"], cluster()["spec"], ""),
        # KubeRay names the clusters of a service itself.
        ("fusion-serve-x7k2p", service()["spec"]["rayClusterConfig"], "serve-"),
    ):
        groups = {"head": spec["headGroupSpec"]} | {
            group["groupName"]: group for group in spec["workerGroupSpecs"]
        }
        for name, group in groups.items():
            node = "head" if name == "head" else "worker"
            labels = {"ray.io/cluster": owner, "ray.io/node-type": node}
            labels |= group["template"].get("metadata", {}).get("labels", {})
            found[prefix + name] = group["template"] | {"metadata": {"labels": labels}}
    return found


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    for name, pod in pods().items():
        for container in pod["spec"]["containers"]:
            yield name, container


@functools.cache
def _kuberay(version: str) -> Draft202012Validator:
    folder = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"

    def retrieve(uri: str) -> Resource:
        path = folder / f"v{version}-local-strict" / uri.removeprefix("kubernetes:").split("/")[-1]
        return Resource.from_contents(json.loads(path.read_text()), DRAFT202012)

    return Draft202012Validator(_SCHEMA, registry=Registry(retrieve=retrieve))


def check(document: dict[str, Any], version: str) -> None:
    """Raise jsonschema's ValidationError when the API server would not take the document."""
    if document["apiVersion"] == "ray.io/v1":
        branch = {"$ref": f"#/$defs/{document['kind']}"}
        _kuberay(version).evolve(schema=_SCHEMA | {"oneOf": [branch]}).validate(document)
        _check_rules_of_the_operator(document)
    else:
        kubernetes_validate.validate(document, version, strict=True)


def _check_rules_of_the_operator(document: dict[str, Any]) -> None:
    """What KubeRay's operator refuses, or does silently otherwise, and no schema says."""
    spec = document["spec"]
    if document["kind"] == "RayService":
        spec = spec["rayClusterConfig"]
    if document["kind"] in ("RayCluster", "RayService"):
        assert tuple(map(int, spec["rayVersion"].split("."))) >= (2, 52)  # for authOptions
        names = [group["groupName"] for group in spec["workerGroupSpecs"]]
        assert len(set(names)) == len(names)
        for group in spec["workerGroupSpecs"]:
            assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        return
    assert ("rayClusterSpec" in spec) != ("clusterSelector" in spec)
    # With clusterSelector the cluster is not the job's, to suspend, retry on another or delete.
    assert not spec.keys() & {"suspend", "backoffLimit", "shutdownAfterJobFinishes"}
    assert "ttlSecondsAfterFinished" not in spec


@pytest.mark.parametrize("version", VERSIONS)
def test_every_document_is_valid(version: str) -> None:
    for document in documents():
        check(document, version)
    for path in JOBS:
        check(yaml.safe_load(path.read_text()), version)


def _renamed(group: dict[str, Any], old: str, new: str) -> None:
    group[new] = group.pop(old)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda spec: spec.pop("headGroupSpec"),
        lambda spec: _renamed(spec, "workerGroupSpecs", "workerGroupSpec"),
        lambda spec: _renamed(spec["workerGroupSpecs"][0], "minReplicas", "minWorkers"),
        lambda spec: spec["workerGroupSpecs"][0].update(replicas="2"),
        lambda spec: spec["workerGroupSpecs"][0].update(replicas=99),
        lambda spec: spec["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
        lambda spec: spec["authOptions"].update(mode="on"),
        lambda spec: spec["autoscalerOptions"].update(version=2),
        lambda spec: spec["headGroupSpec"]["template"]["spec"].update(restartpolicy="Never"),
        lambda spec: spec["headGroupSpec"]["template"]["spec"]["containers"][0].update(envs=[]),
        lambda spec: spec.update(rayVersion="2.40.0"),
    ],
)
def test_a_wrong_cluster_is_refused(spoil: Any) -> None:
    document = deepcopy(cluster())
    check(document, VERSIONS[0])
    spoil(document["spec"])
    with pytest.raises((Exception, AssertionError)) as refused:
        check(document, VERSIONS[0])
    assert type(refused.value).__name__ in {"ValidationError", "AssertionError"}


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not on this machine")
def test_kustomize_renders_it() -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(ROOT)], capture_output=True, text=True, check=True
    )
    rendered = list(yaml.safe_load_all(done.stdout))
    assert len(rendered) == len(listed())
    for document in rendered:
        check(document, VERSIONS[0])
        if document["kind"] != "Namespace":
            assert document["metadata"]["namespace"] == "fusion"


def test_pods_are_of_the_restricted_kind() -> None:
    """Kubernetes' Pod Security Standard "restricted", which the namespace asks for, and more."""
    level = one("Namespace", "fusion")["metadata"]["labels"]
    assert level["pod-security.kubernetes.io/enforce"] == "restricted"
    for name, pod in pods().items():
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        allowed = {"emptyDir", "persistentVolumeClaim"}
        assert all(volume.keys() - {"name"} <= allowed for volume in pod["spec"]["volumes"]), name
    specs = cluster()["spec"], service()["spec"]["rayClusterConfig"]
    autoscalers = [("autoscaler", spec["autoscalerOptions"]) for spec in specs]
    for name, container in [*containers(), *autoscalers]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, name
        resources = container["resources"]
        assert resources["requests"].keys() >= {"cpu", "memory"}, name
        assert resources["limits"].keys() >= {"cpu", "memory"}, name


def test_what_is_written_to_is_mounted() -> None:
    for name, pod in pods().items():
        volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
        claims = {claim["metadata"]["name"] for claim in all_of("PersistentVolumeClaim")}
        for volume in volumes.values():
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims
        templates = {"data"} if name == "postgres" else set()
        for container in pod["spec"]["containers"]:
            mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
            assert set(mounts.values()) == volumes.keys() | templates, name
            assert "/tmp" in mounts, name  # HOME in the image; Ray's logs and sockets
            if name in {*CLUSTER, *SERVICE}:
                work = one("ConfigMap", "fusion-settings")["data"]["FUSION_WORK"]
                assert mounts.keys() >= {work, "/dev/shm"}


def test_every_variable_is_one_that_somebody_reads() -> None:
    settings = one("ConfigMap", "fusion-settings")["data"]
    given = dict.fromkeys((*CLUSTER, *SERVICE), settings)
    for name, container in containers():
        variables = {item["name"] for item in container["env"]} | given.get(name, {}).keys()
        for variable in variables:
            check_variable(variable, image=container["image"])
        for source in container.get("envFrom", ()):
            assert source == {"configMapRef": {"name": "fusion-settings"}}
    assert given["head"].keys() >= {"FUSION_WORK", "MLFLOW_TRACKING_URI"}


def test_nodes_share_no_disk() -> None:
    settings = one("ConfigMap", "fusion-settings")["data"]
    assert settings["FUSION_DATASETS"].startswith("s3://")
    assert settings["FUSION_RUNS"].startswith("s3://")
    for claim in all_of("PersistentVolumeClaim"):
        assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    claiming = {
        name
        for name, pod in pods().items()
        if any("persistentVolumeClaim" in volume for volume in pod["spec"]["volumes"])
    }
    assert claiming == {"head"}


def test_secrets_are_by_reference_and_the_readme_makes_them() -> None:
    readme = (ROOT / "README.md").read_text().replace("\\\n", " ")
    made = {
        name: set(re.findall(r"--from-literal=([a-z-]+)=", rest))
        for name, rest in re.findall(r"create secret generic ([a-z0-9-]+)(.*)", readme)
    }
    settings = one("ConfigMap", "fusion-settings")["data"]
    for name, container in containers():
        for item in container["env"]:
            if "value" in item:
                assert not re.search("KEY|SECRET|PASSWORD|TOKEN|URI", item["name"]), name
                continue
            ((kind, source),) = item["valueFrom"].items()
            known = made[source["name"]] if kind == "secretKeyRef" else settings
            assert source["key"] in known, (name, item)
    assert all_of("Secret") == []
    assert not {name for name in settings if re.search("KEY|SECRET|PASSWORD|TOKEN", name)}


def test_the_cluster_runs_our_ray_with_tokens() -> None:
    import ray.scripts.scripts

    options = {option.lstrip("-") for p in ray.scripts.scripts.start.params for option in p.opts}
    for spec in (cluster()["spec"], service()["spec"]["rayClusterConfig"]):
        assert spec["rayVersion"] == ray.__version__
        assert spec["authOptions"] == {"mode": "token"}
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            assert group["rayStartParams"].keys() <= options


def test_images_are_those_of_the_dockerfile() -> None:
    built = set(re.findall(r"-t (\S+) ", (REPOSITORY / "infra/docker/Dockerfile").read_text()))
    used = {container["image"] for name, container in containers() if name != "postgres"}
    assert used == built == {"fusion:cpu", "fusion:cuda"}
    compose = yaml.safe_load((REPOSITORY / "infra/compose/compose.yaml").read_text())["services"]
    (postgres,) = (container["image"] for name, container in containers() if name == "postgres")
    assert compose["postgres"]["image"] == postgres
    for name in ("mlflow", "ray", "page"):
        assert compose[name]["image"] in built
    for name, container in containers():
        gpus = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        assert (gpus > 0) == (container["image"] == "fusion:cuda"), name


def test_mlflow_is_where_the_clients_look_for_it() -> None:
    import mlflow.cli  # Takes 3 s, which every process of the tests would spend at its start.

    address = one("ConfigMap", "fusion-settings")["data"]["MLFLOW_TRACKING_URI"]
    service = one("Service", "mlflow")
    (port,) = service["spec"]["ports"]
    assert address == f"http://mlflow.fusion.svc:{port['port']}"
    container = pods()["mlflow"]["spec"]["containers"][0]
    assert container["command"] == ["python", "-m", "mlflow", "server"]
    options = mlflow.cli.server.make_context("server", list(container["args"])).params
    assert options["port"] == container["ports"][0]["containerPort"] == port["port"]
    assert port["targetPort"] == container["ports"][0]["name"]
    assert address.removeprefix("http://") in options["allowed_hosts"].split(",")
    with pytest.raises(click.UsageError):
        mlflow.cli.server.make_context("server", ["--no-such-option"])
    for service in all_of("Service"):
        assert service["spec"].get("type", "ClusterIP") == "ClusterIP"
        assert service["spec"]["selector"].items() <= (
            pods()[service["metadata"]["name"]]["metadata"]["labels"].items()
        )


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    for expression in selector.get("matchExpressions", ()):
        assert expression["operator"] == "NotIn"
        if labels.get(expression["key"]) in expression["values"]:
            return False
    return selector.get("matchLabels", {}).items() <= labels.items()


def _may_reach(source: str, target: str, port: int) -> bool:
    """Whether the policies let pod `source` open a connection to pod `target`."""
    labels = {name: pod["metadata"]["labels"] for name, pod in pods().items()}

    def allowed(direction: str, own: str, peer: str, key: str) -> bool:
        for policy in all_of("NetworkPolicy"):
            if not _selects(policy["spec"]["podSelector"], labels[own]):
                continue
            for rule in policy["spec"].get(direction, ()):
                peers = rule.get(key)
                ports = [item["port"] for item in rule.get("ports", [{"port": port}])]
                if port in ports and (
                    peers is None
                    or any(
                        "podSelector" in item and _selects(item["podSelector"], labels[peer])
                        for item in peers
                    )
                ):
                    return True
        return False

    return allowed("egress", source, target, "to") and allowed("ingress", target, source, "from")


def test_network_policies_let_through_what_is_needed_and_no_more() -> None:
    nothing = one("NetworkPolicy", "nothing")["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    rays = CLUSTER
    for source in pods():
        for target in pods():
            for port in (5000, 5432, 6379, 8000, 8265, 12345):
                wanted = (
                    any(source in nodes and target in nodes for nodes in (CLUSTER, SERVICE))
                    or (source in (*CLUSTER, *SERVICE) and target == "mlflow" and port == 5000)
                    or (source == "mlflow" and target == "postgres" and port == 5432)
                )
                assert _may_reach(source, target, port) == wanted, (source, target, port)
    operator = one("NetworkPolicy", "operator-to-head")["spec"]
    assert [_selects(operator["podSelector"], pods()[name]["metadata"]["labels"]) for name in rays] == [
        True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_jobs_are_commands_of_ours(path: Path) -> None:
    job = yaml.safe_load(path.read_text())
    labels = pods()["head"]["metadata"]["labels"]
    assert job["spec"]["clusterSelector"].items() <= labels.items()
    parse_command(job["spec"]["entrypoint"])
    assert path.name in (ROOT / "README.md").read_text()


def test_the_service_is_one_that_ray_serve_and_ours_take(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(service()["spec"]["serveConfigV2"]))
    [application] = config.applications
    module, name = application.import_path.split(":")
    found = importlib.import_module(module)
    assert found.ServiceConfig.model_validate(application.args).max_replicas > 1
    # KubeRay's own port for a service, and one that others reach: hence the token.
    assert (config.http_options.host, config.http_options.port) == ("0.0.0.0", 8000)
    for node in SERVICE:
        [container] = pods()[node]["spec"]["containers"]
        assert 8000 in {port["containerPort"] for port in container["ports"]}
        assert "FUSION_SERVE_TOKEN" in {item["name"] for item in container["env"]}
    monkeypatch.delenv("FUSION_SERVE_TOKEN", raising=False)
    with pytest.raises(ValueError, match="FUSION_SERVE_TOKEN is not set"):
        getattr(found, name)(application.args)


def test_there_is_a_job_for_every_command_of_the_way() -> None:
    assert {path.stem for path in JOBS} == {
        "scan", "generate", "train-stage1", "train-stage2", "evaluate", "promote",
    }  # fmt: skip


def test_a_wrong_command_line_is_refused() -> None:
    with pytest.raises(SystemExit):
        parse_command("python -m jobs.generate paper")
    with pytest.raises(ValueError, match="no recipe 'papre', did you mean 'paper'"):
        parse_command("python -m jobs.generate papre --scenes msrs")
    with pytest.raises(ValueError, match="no such key 'num_worker'"):
        parse_command("python -m jobs.train dspfusion_stage1_small --set num_worker=2")
    assert importlib.import_module("jobs.generate")


@pytest.mark.parametrize("folder", [".", "jobs", "models/dspfusion", "infra", "infra/kuberay"])
def test_commands_of_the_readmes_parse(folder: str) -> None:
    commands = commands_in(REPOSITORY / folder / "README.md")
    assert commands
    for command in commands:
        parse_command(command)
