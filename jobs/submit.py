"""python -m jobs.submit [--address URL] -- COMMAND …: run a command of ours on a Ray cluster.

COMMAND is what would follow `python -m jobs.`: `generate small --scenes roadscene`. The cluster gets a
copy of this working tree; FUSION_WORK has to be a folder that all its nodes see.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

from infra.settings import REPOSITORY, declared_environment, job_server, read_settings
from jobs.console import run_command, say


def entrypoint_of(command: list[str]) -> str:
    """The shell line that runs one of our commands. Raises ValueError when it is none."""
    words = command[1:] if command[:1] == ["--"] else command
    known = sorted(path.stem for path in (REPOSITORY / "jobs").glob("*.py") if _is_command(path))
    if not words or words[0] not in known:
        given = words[0] if words else ""
        raise ValueError(f"no command {given!r}; there are: {', '.join(known)}")
    return shlex.join(["python", "-m", f"jobs.{words[0]}", *words[1:]])


def _is_command(path: Path) -> bool:
    return path.stem != "submit" and 'if __name__ == "__main__"' in path.read_text()


def _main(arguments: argparse.Namespace) -> None:
    from infra.submit import follow_job, submit_job

    entrypoint = entrypoint_of(arguments.command)
    address = arguments.address or job_server()
    job_id = submit_job(address, entrypoint, declared_environment(), work=read_settings().work)
    say(f"job {job_id}: {entrypoint}")
    if arguments.detach:
        say(f"follow it: .venv/bin/ray job logs --follow --address {address} {job_id}")
        return
    if not follow_job(address, job_id, lambda text: print(text, end="", flush=True)):
        print(f"error: job {job_id} failed", file=sys.stderr)
        sys.exit(1)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.submit", description=__doc__)
    parser.add_argument(
        "--address", help="job server (default: RAY_API_SERVER_ADDRESS, else local)"
    )
    parser.add_argument("--detach", action="store_true", help="do not wait for the job")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND and its arguments")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
