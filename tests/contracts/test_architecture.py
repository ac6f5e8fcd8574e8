"""The house rules, checked: import rule, layout, names (architecture 3, 4 and 6)."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("degradations", "models", "pipelines", "infra", "jobs")
# Named, because Ray puts a folder of vendored packages on sys.path when it is imported.
INSTALLED = [*importlib.metadata.distributions(path=[sysconfig.get_path("purelib")])]
SOURCES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
SYSTEMS = {
    init.parent.name
    for init in (ROOT / "models").glob("*/__init__.py")
    if "\nSYSTEM = " in init.read_text()
}


def test_import_rule() -> None:
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_the_rest_imports_no_system() -> None:
    """Import-linter cannot hold this: its contracts name modules, and a system may be deleted."""
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in SOURCES
        if not path.is_relative_to(ROOT / "models")
        and not path.is_relative_to(ROOT / "jobs" / "recipes")
        for name, line in imports_of(path)
        if name.split(".")[0] == "models" and SYSTEMS & {*name.split(".")[1:2]}
    ]
    assert offenders == []


def test_no_system_imports_another() -> None:
    """One can be deleted, and the others' own tests need not be run again."""
    offenders = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for system in SYSTEMS
        for path in (ROOT / "models" / system).rglob("*.py")
        for name, line in imports_of(path)
        if any(name.startswith(f"models.{other}.") for other in SYSTEMS - {system})
    ]
    assert len(SYSTEMS) > 1
    assert offenders == []


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports anywhere, and names imported from one as if they were."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def test_no_installed_distribution_has_our_names() -> None:
    for distribution in INSTALLED:
        provided = {Path(str(file)).parts[0] for file in distribution.files or ()}
        assert provided.isdisjoint(FOLDERS), distribution.metadata["Name"]


def test_no_python_file_at_the_root() -> None:
    assert list(ROOT.glob("*.py")) == []


def test_no_names_that_say_nothing() -> None:
    nothing = {"utils.py", "common.py", "helpers.py", "misc.py", "base.py"}
    assert [path for path in SOURCES if path.name in nothing] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_source(path: Path) -> None:
    tree = ast.parse(path.read_text())
    top = path.relative_to(ROOT).parts[0]
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="sys"), attr="path"):
                pytest.fail(f"line {node.lineno}: sys.path edits are not allowed")
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv"):
                allowed = path.name == "settings.py" or path.is_relative_to(
                    ROOT / "infra" / "cluster"
                )
                assert allowed, f"line {node.lineno}: only infra/settings.py reads the environment"
            case ast.Call(func=ast.Name(id="print")):
                assert top == "jobs", f"line {node.lineno}: library code does not print"
            case ast.ExceptHandler(
                type=ast.Name(id="Exception"), body=[ast.Pass() | ast.Continue()]
            ):
                pytest.fail(f"line {node.lineno}: nothing is skipped in silence")


def locked(*files: str) -> dict[str, str]:
    """Version of each package in these files of requirements/, by its normalised name."""
    text = "".join((ROOT / "requirements" / f"{file}.txt").read_text() for file in files)
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.MULTILINE))


def test_every_package_is_locked_with_its_hashes() -> None:
    for file in ("run", "dev", "torch-cuda"):
        text = (ROOT / "requirements" / f"{file}.txt").read_text().replace("\\\n", " ")
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        assert len(lines) == len(locked(file))
        # Of exact versions, from any index that has these files.
        assert all("==" in line and "--hash=sha256:" in line for line in lines)
        assert "://" not in text
    assert locked("torch-cpu") == {"torch": locked("torch-cuda")["torch"]}


def test_the_lock_is_what_is_installed() -> None:
    """So that an audit of the lock is one of what runs."""
    lock = locked("run", "dev", "torch-cuda")
    for distribution in INSTALLED:
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"].lower())
        # What brings the others, and our own, which carries dependencies only.
        if name not in {"pip", "ivif-platform"}:
            # A local suffix, such as torch's +cpu, is another build of the same version.
            assert lock.get(name) == distribution.version.partition("+")[0], name
