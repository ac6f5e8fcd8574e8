"""python -m jobs.submit [--address URL] [--follow] -- COMMAND …: run a command of ours on a Ray cluster.

COMMAND is what would follow `python -m jobs.`: `generate small --scenes roadscene`. Its words, recipe and
settings are checked here, before it is submitted.

python -m jobs.submit list                the jobs of the cluster
python -m jobs.submit status JOB          what one is, and how it stands
python -m jobs.submit logs JOB [--follow] what it printed
python -m jobs.submit stop JOB            end it
python -m jobs.submit pack s3://BUCKET/PREFIX   put the commit on S3, for --code

The job runs in a copy of this working tree's tracked files (--code tree), of a commit on S3
(--code s3://…zip), or in the image's own code (--code image). A recipe of yours, MODULE:FUNCTION, is
imported there again: its module is a tracked file, or is installed in the image. Of the environment only
what is declared travels with the job, because Ray shows that in clear: where things are (FUSION_WORK,
FUSION_DATASETS, AWS_ENDPOINT_URL, MLFLOW_TRACKING_URI), and what --env names. Secrets belong to the
nodes' environment.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from jobs.command_line import Command, Verb

if TYPE_CHECKING:
    from infra.submit import JobServer


def _submit(arguments: argparse.Namespace) -> None:
    from infra.settings import declared_environment, refuse_secrets
    from jobs.commands import words_of
    from jobs.submit.needs import needs_of
    from jobs.submit.run import (
        Job,
        check_resources,
        follow,
        name_job,
        print_next,
        read_metadata,
        submit,
    )

    words = words_of(arguments.command)
    needs = needs_of(words)
    environment = declared_environment(arguments.env)
    metadata = read_metadata(arguments.metadata)
    refuse_secrets(environment | metadata, words)
    server = _server(arguments)
    if not arguments.unchecked:
        check_resources(server, needs)
    job = Job(name_job(words, arguments.id), words, environment, metadata, needs.config)
    submit(job, server, code=arguments.code, excludes=arguments.exclude)
    if arguments.follow:
        follow(server, job.id)
    else:
        print_next(server, job.id)


def _list(arguments: argparse.Namespace) -> None:
    from jobs.submit.run import show_jobs

    show_jobs(_server(arguments))


def _status(arguments: argparse.Namespace) -> None:
    from jobs.submit.run import show_status

    show_status(_server(arguments), arguments.job)


def _logs(arguments: argparse.Namespace) -> None:
    from infra.submit import job_log
    from jobs.submit.run import follow

    server = _server(arguments)
    if arguments.follow:
        follow(server, arguments.job)
    else:
        print(job_log(server, arguments.job), end="")


def _stop(arguments: argparse.Namespace) -> None:
    from jobs.submit.run import stop

    stop(_server(arguments), arguments.job)


def _pack(arguments: argparse.Namespace) -> None:
    from infra.settings import read_settings
    from jobs.console import print_line
    from jobs.submit.run import pack

    uri = pack(arguments.to, read_settings())
    print_line(f"next: python -m jobs.submit --code {uri} -- COMMAND")


def _server(arguments: argparse.Namespace) -> JobServer:
    from infra.settings import job_server
    from infra.submit import open_server

    return open_server(job_server(arguments.address))


def _add_address(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--address", help="job server (default: RAY_API_SERVER_ADDRESS, else local)"
    )


def _add_job(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("job", help="a job's id, as jobs.submit list shows it")
    _add_address(parser)


def _add_logs(parser: argparse.ArgumentParser) -> None:
    _add_job(parser)
    parser.add_argument("--follow", action="store_true", help="print it until the job ends")


def _add_pack(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("to", help="s3://BUCKET/PREFIX")


def _add_submit(parser: argparse.ArgumentParser) -> None:
    _add_address(parser)
    parser.add_argument("--follow", action="store_true", help="show its log until it ends")
    parser.add_argument(
        "--code",
        default="tree",
        metavar="WHAT",
        help="tree, image, or s3://…zip (default: %(default)s)",
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave these files of the tree out (repeatable)",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="one more variable for the job (repeatable)",
    )
    parser.add_argument("--id", metavar="NAME", help="the job's id (default: COMMAND-TIME-…)")
    parser.add_argument(
        "--metadata",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what the job's status shows of it besides (repeatable)",
    )
    parser.add_argument(
        "--unchecked",
        action="store_true",
        help="submit without checking that the cluster is large enough",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="-- COMMAND and its arguments")


COMMAND = Command(
    "submit",
    __doc__,
    [
        "python -m jobs.submit --follow -- generate small --scenes roadscene",
        "python -m jobs.submit -- train team.recipes:night --set dataset=roadscene-small",
        "python -m jobs.submit logs JOB --follow",
    ],
    Verb(_add_submit, _submit),
    verbs={
        "list": Verb(_add_address, _list),
        "status": Verb(_add_job, _status),
        "logs": Verb(_add_logs, _logs),
        "stop": Verb(_add_job, _stop),
        "pack": Verb(_add_pack, _pack),
    },
)


if __name__ == "__main__":
    COMMAND.run()
