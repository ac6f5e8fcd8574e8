"""python -m jobs.serve MODEL: fuse pictures that come by HTTP, with a page for people.

MODEL is small (weights that come with this repository), models:/NAME@ALIAS, models:/NAME/VERSION or a
bundle's folder. An alias is followed: a promotion or a rollback is served within half a minute, and no
request is dropped. Ctrl-C or SIGTERM answers what is under way, then ends.

POST /fuse   two files of a form, vi and ir, to a PNG     GET /         the page
GET /docs    all that can be sent                         GET /readyz   whether a replica is up
"""

from __future__ import annotations

import argparse

from jobs.command_line import Command, Verb, add_address, add_work, settings_of, whole_number
from jobs.placement import add_computing, add_placement, placement_of


def _serve(arguments: argparse.Namespace) -> None:
    from jobs.serve.run import ServiceConfig, serve
    from models.system import FuseOptions

    least, most = arguments.replicas
    placement = placement_of(arguments)
    config = ServiceConfig(
        model=arguments.model,
        replicas=least,
        max_replicas=most,
        batch=arguments.batch,
        queue=arguments.queue,
        most_pixels=arguments.max_pixels,
        device=placement.device,
        gpu_share=placement.gpu_share,
        options=FuseOptions(precision=arguments.precision, tile_px=arguments.tile),
        keep_far=arguments.keep_far,
    )
    settings = settings_of(arguments)
    serve(config, settings, host=arguments.host, port=arguments.port)


def _replicas(text: str) -> tuple[int, int | None]:
    """Read "2" or "1:4"."""
    least, colon, most = text.partition(":")
    read = whole_number(1, 4096)
    return read(least), read(most) if colon else None


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="small, models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="where to listen; one that others reach needs a token in FUSION_SERVE_TOKEN "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--port", type=whole_number(1, 65535), default=8000, help="(default: %(default)s)"
    )
    parser.add_argument(
        "--replicas",
        type=_replicas,
        default=(1, None),
        metavar="N|MIN:MAX",
        help="copies of the model, a CPU each; MIN:MAX come and go by what waits (default: 1)",
    )
    parser.add_argument(
        "--queue",
        type=whole_number(1, 100_000),
        default=64,
        metavar="N",
        help="pairs that may wait; the next is refused with 429 (default: %(default)s)",
    )
    parser.add_argument(
        "--max-pixels",
        type=whole_number(1, 2**26),
        default=2**24,
        metavar="N",
        help="of a picture; a larger one is refused with 413 (default: %(default)s)",
    )
    parser.add_argument(
        "--keep-far",
        metavar="DIR",
        help="folder or s3:// prefix, readable by jobs.scan, for the pairs that are farthest from the "
        "training's: at most 100 and 256 MiB (default: none is kept)",
    )
    add_placement(parser)
    add_computing(parser)
    add_address(parser)
    add_work(parser)


COMMAND = Command(
    "serve",
    __doc__,
    [
        "python -m jobs.serve models:/dspfusion@champion",
        "python -m jobs.serve models:/dspfusion@champion --replicas 1:4 --port 8080",
    ],
    Verb(_add_arguments, _serve),
)


if __name__ == "__main__":
    COMMAND.run()
