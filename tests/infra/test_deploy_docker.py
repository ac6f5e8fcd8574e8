"""infra/docker and infra/compose: linted, valid by the compose specification, closed by default."""

import json
import re
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import check_jsonschema
import pytest
import torch
import yaml
from jsonschema import ValidationError
from jsonschema.validators import validator_for

from infra.settings import REPOSITORY
from pipelines.bundles.pretrained import pretrained_folders
from tests.infra.command_lines import parse_command
from tests.infra.environment import check_variable, read_by_settings

DOCKERFILE = REPOSITORY / "infra" / "docker" / "Dockerfile"
COMPOSE = REPOSITORY / "infra" / "compose" / "compose.yaml"


def lint(path: Path) -> subprocess.CompletedProcess[str]:
    hadolint = Path(sys.executable).parent / "hadolint"
    return subprocess.run(
        [str(hadolint), "--no-color", str(path)], capture_output=True, text=True, check=False
    )


def instructions() -> list[tuple[str, str]]:
    """Name and rest of each instruction, continued lines joined, without comments."""
    kept = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(kept).replace("\\\n", " ")
    return [
        (name, rest)
        for name, _, rest in (line.partition(" ") for line in joined.splitlines() if line)
    ]


def compose() -> dict[str, Any]:
    return yaml.safe_load(COMPOSE.read_text())


def test_the_dockerfile_is_clean(tmp_path: Path) -> None:
    done = lint(DOCKERFILE)
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "Dockerfile"
    wrong.write_text(DOCKERFILE.read_text().replace("USER 10001:10001", "USER root"))
    assert "DL3002" in lint(wrong).stdout


def test_the_image_is_not_root_and_stands_in_app() -> None:
    last = len(instructions()) - 1 - [name for name, _ in instructions()][::-1].index("FROM")
    final = instructions()[last:]
    users = [rest for name, rest in final if name == "USER"]
    assert users == ["10001:10001"]
    assert [rest for name, rest in final if name == "WORKDIR"] == ["/app"]
    copied = [rest.split()[-2:] for name, rest in final if name == "COPY"]
    assert [target for _, target in copied[1:]] == [f"/app/{source}" for source, _ in copied[1:]]
    assert {source for source, _ in copied[1:]} == {
        "degradations", "models", "pipelines", "infra", "jobs",
    }  # fmt: skip


def test_the_image_installs_what_is_locked_and_holds_no_secret() -> None:
    runs = " ".join(rest for name, rest in instructions() if name == "RUN")
    installs = [words.split()[2:] for words in re.findall(r"pip install[^&;]*", runs)]
    locked = {words[-1].strip('"') for words in installs if "--require-hashes" in words}
    assert locked == {"requirements/run.txt", "requirements/torch-$TORCH.txt"}
    # The CPU build has no hash: PyPI, where the lock comes from, has only the CUDA build.
    (cpu,) = [words for words in installs if "--require-hashes" not in words]
    assert cpu[-2:] == ["-r", "requirements/torch-cpu.txt"]
    assert all("--no-deps" in words for words in installs)
    declared = {rest.partition("=")[0] for name, rest in instructions() if name == "ARG"} | set(
        re.findall(r"([A-Z_]+)=", " ".join(rest for name, rest in instructions() if name == "ENV"))
    )
    assert not {name for name in declared if re.search("KEY|SECRET|PASSWORD|TOKEN", name)}
    assert "FUSION_COMMIT" in declared & read_by_settings()


def test_the_image_gets_only_what_it_copies() -> None:
    ignored = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignored if line and not line.startswith("#")]
    assert rules[0] == "*"
    let_in = {rule[1:] for rule in rules if rule.startswith("!")}
    copied = {
        word
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for word in rest.split()[:-1]
    }
    assert let_in == copied
    assert all((REPOSITORY / name).exists() for name in let_in)
    assert "**/.env" in rules


def test_the_image_tells_one_torch_from_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check in the Dockerfile, run here: it passes for this torch and fails for the other."""
    (run,) = [rest for name, rest in instructions() if "import sys, torch" in rest]
    code = re.search(r"python -c '([^']*)'", run)
    assert code
    here = "cuda" if torch.version.cuda else "cpu"
    other = {"cpu": "cuda", "cuda": "cpu"}[here]
    for asked in (here, other):
        monkeypatch.setattr(sys, "argv", ["-c", asked])
        with pytest.raises(SystemExit) as ended:
            exec(code[1], {})
        said = "" if asked == here else f"TORCH={other}, but this torch is for {here}"
        assert str(ended.value.code or "").startswith(said)
        assert bool(ended.value.code) == bool(said)


def test_python_is_the_one_that_we_test() -> None:
    (python,) = re.findall(r"^ARG PYTHON=(\d+\.\d+)", DOCKERFILE.read_text(), re.MULTILINE)
    assert python == "3.11"
    torch_cpu = (REPOSITORY / "requirements" / "torch-cpu.txt").read_text()
    assert torch_cpu == f"torch=={version('torch').partition('+')[0]}\n"


def _check_compose(document: dict[str, Any]) -> None:
    vendored = Path(check_jsonschema.__file__).parent / "builtin_schemas" / "vendor"
    schema = json.loads((vendored / "compose-spec.json").read_text())
    validator_for(schema)(schema).validate(document)


def test_the_compose_file_is_valid() -> None:
    _check_compose(compose())
    wrong = compose()
    wrong["services"]["mlflow"]["port"] = wrong["services"]["mlflow"].pop("ports")
    with pytest.raises(ValidationError, match="port"):
        _check_compose(wrong)


def test_the_compose_file_is_closed_to_the_network() -> None:
    document = compose()
    for name, service in document["services"].items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["image"].partition(":")[2] not in {"", "latest"}, name
        assert set(service["networks"]) <= document["networks"].keys()
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in document["volumes"]
        for other in service.get("depends_on", {}):
            assert other in document["services"]
    assert document["services"]["postgres"]["networks"] == ["database"]
    assert document["networks"]["database"] == {"internal": True}


def test_the_compose_file_takes_every_secret_from_outside() -> None:
    text = COMPOSE.read_text()
    asked = set(re.findall(r"\$\{([A-Z0-9_]+)", text)) - {"SERVED"}  # which model, with a default
    readme = (REPOSITORY / "infra" / "README.md").read_text()
    for name in asked:
        assert f"{name}=" in readme, f"infra/README.md does not say how to set {name}"
        assert f"${{{name}:?" in text, f"{name} may be empty"
    for name, service in compose()["services"].items():
        for variable, value in service["environment"].items():
            check_variable(variable, image=service["image"])
            if re.search("PASSWORD|SECRET|KEY|_TOKEN", variable):
                assert re.fullmatch(r"\$\{[A-Z0-9_]+(:\?.*)?\}", value), (name, variable)
    assert ".env" in shlex.split((REPOSITORY / ".gitignore").read_text())


def test_the_composed_server_takes_its_options() -> None:
    import mlflow.cli  # Takes 3 s, which every process of the tests would spend at its start.

    service = compose()["services"]["mlflow"]
    assert service["command"][:4] == ["python", "-m", "mlflow", "server"]
    options = mlflow.cli.server.make_context("server", service["command"][4:]).params
    assert service["ports"] == [f"127.0.0.1:{options['port']}:{options['port']}"]
    assert f"localhost:{options['port']}" in options["allowed_hosts"].split(",")


def test_the_composed_head_takes_jobs_from_this_machine() -> None:
    import ray.scripts.scripts

    service = compose()["services"]["ray"]
    assert service["command"][:2] == ["ray", "start"]
    options = ray.scripts.scripts.start.make_context("start", service["command"][2:]).params
    assert options["head"]
    assert options["block"]
    assert service["ports"] == [f"127.0.0.1:{options['dashboard_port']}:8265"]
    # Ray's head and the page are where MLflow and the store are by their services' names.
    for name in ("ray", "page"):
        user = compose()["services"][name]
        for variable in ("MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"):
            place = urlsplit(user["environment"][variable])
            found = compose()["services"][place.hostname]
            assert found["ports"] == [f"127.0.0.1:{place.port}:{place.port}"]
            assert set(found["networks"]) & set(user["networks"])
        assert user["environment"]["FUSION_WORK"] == user["volumes"][0].partition(":")[2]
    allowed = compose()["services"]["mlflow"]["command"][-1]
    assert allowed.startswith("--allowed-hosts=")
    assert "mlflow:5000" in allowed.partition("=")[2].split(",")


def test_the_composed_page_is_the_command_as_it_stands() -> None:
    service = compose()["services"]["page"]
    words = [re.sub(r"^\$\{SERVED:-(.+)\}$", r"\1", word) for word in service["command"]]
    arguments = parse_command(shlex.join(words))
    assert arguments.model in pretrained_folders()
    assert arguments.host == "0.0.0.0"
    assert "FUSION_SERVE_TOKEN" in service["environment"]
    assert service["ports"] == [f"127.0.0.1:{arguments.port}:{arguments.port}"]


def test_the_volume_of_the_work_folder_can_be_written() -> None:
    (made,) = [rest for name, rest in instructions() if "useradd" in rest]
    assert "install --directory --owner=fusion --group=fusion /work" in made
