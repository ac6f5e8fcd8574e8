"""python -m jobs.fuse MODEL --vi URI --ir URI --out URI: fuse a pair, two folders of pairs, or two videos.

MODEL is small (weights that come with this repository), models:/NAME@ALIAS, models:/NAME/VERSION or a
bundle's folder; URIs are paths or s3://bucket/prefix. Results are PNG, of 16 bits a channel if an input
was; a single one is a JPEG where --out says so. Folders are fused on Ray, by actors that hold the model;
the same command again skips the pictures that exist. What cannot be fused is listed in OUT/failures.json,
and the exit status is 1. Two videos, or folders of frames with --out NAME.mp4, are fused in this process,
in order, and their flicker is measured; videos need `pip install '.[video]'`.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from jobs.command_line import (
    Command,
    Verb,
    add_address,
    add_windows,
    add_work,
    settings_of,
    whole_number,
    window_rules,
)
from jobs.placement import add_computing, add_placement, placement_of

if TYPE_CHECKING:
    from infra.settings import Settings
    from pipelines.bundles.fusing import Fusing


def _fuse(arguments: argparse.Namespace) -> None:
    from jobs.console import print_facts, print_line
    from jobs.fuse.run import FuseTask, fuse_folders, fuse_one, is_picture, resolve_model
    from jobs.fuse.sequence import fuse_sequence, is_sequence
    from jobs.locations import open_folder
    from pipelines.bundles.fusing import FAILURES

    settings = settings_of(arguments)
    model = resolve_model(arguments.model, settings)
    fusing = _fusing(arguments, model, settings)
    task = FuseTask(
        vi=arguments.vi,
        ir=arguments.ir,
        out=arguments.out,
        windows=window_rules(arguments),
        placement=placement_of(arguments, local=arguments.local),
        batch_size=arguments.batch,
        overwrite=arguments.overwrite,
    )
    if is_sequence(task):
        print_facts({"model": model, **fuse_sequence(fusing, settings, task)})
        return
    kinds = [is_picture(uri) for uri in (task.vi, task.ir)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{task.vi} and {task.ir}: give two files or two folders")
    if kinds[0]:
        print_facts({"model": model, "fused": fuse_one(fusing, settings, task)})
        return
    fused = fuse_folders(fusing, settings, task)
    counts = f"{fused.made} pictures in {task.out}, {fused.skipped} existed already"
    print_facts({"model": model, "fused": counts})
    if fused.failures:
        out = open_folder(task.out, settings).uri
        print_line(f"{len(fused.failures)} could not be fused; they are listed in {out}/{FAILURES}")
        sys.exit(0 if arguments.partial else 1)


def _fusing(arguments: argparse.Namespace, model: str, settings: Settings) -> Fusing:
    """The model and options; what it will assume of the pictures is said."""
    from jobs.console import print_line
    from jobs.fuse.run import bundle_of
    from jobs.fuse.told import read_chains
    from models.system import FuseOptions
    from pipelines.bundles.export import read_bundle
    from pipelines.bundles.fusing import Fusing

    options = FuseOptions(
        precision=arguments.precision,
        compiled=arguments.compile,
        tile_px=arguments.tile,
        tile_passes=arguments.tile_passes,
        stretch=arguments.stretch,
    )
    fusing = Fusing(
        bundle=read_bundle(bundle_of(model, settings)),
        options=options,
        side_by_side=arguments.side_by_side,
        **read_chains(arguments.degradation),
    )
    fusing.hints()  # refuses a degradation that the model takes no hint for, before any picture
    if fusing.estimates:
        cameras = " and ".join(fusing.estimates)
        print_line(
            f"  no --degradation given for {cameras}: the noise of each picture is estimated, and taken "
            "for all that it suffers"
        )
    elif fusing.bundle.system.hint_names and not arguments.degradation:
        print_line("  no --degradation given: the model takes both pictures to be clean")
    return fusing


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="small, models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    what = "picture, video, folder or s3://bucket/prefix"
    parser.add_argument("--vi", required=True, help=f"visible {what}")
    parser.add_argument("--ir", required=True, help=f"infrared {what}")
    parser.add_argument(
        "--out", required=True, help="PNG or JPEG to write (for two files), MP4, or folder"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace pictures that exist already"
    )
    parser.add_argument("--local", action="store_true", help="in this process, without Ray")
    add_address(parser)
    add_placement(parser)
    add_computing(parser)
    parser.add_argument(
        "--partial", action="store_true", help="exit status 0 also when some cannot be fused"
    )
    parser.add_argument(
        "--side-by-side",
        action="store_true",
        help="also write NAME_side_by_side.jpg: visible, infrared and fused picture",
    )
    add_windows(parser)
    parser.add_argument(
        "--tile-passes",
        type=whole_number(1, 1000),
        metavar="N",
        help="runs over the tiles: more are nearer to the whole picture (default: the model's)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the fusion network: minutes at the first size, for GPUs",
    )
    parser.add_argument(
        "--stretch",
        action="store_true",
        help="stretch each result by its own extremes, as DSPFusion's authors do",
    )
    parser.add_argument(
        "--degradation",
        "--prompt",
        action="append",
        default=[],
        metavar="[CAMERA:]NAME:PARAM=VALUE",
        help="what a camera suffers, or both, for models that take hints (repeatable, in order), such as "
        'noise:sigma=14, ir:blur:sigma=2, ir:low_resolution:factor=4, vi:clean, "hazy night" or auto',
    )
    add_work(parser)


COMMAND = Command(
    "fuse",
    __doc__,
    [
        "python -m jobs.fuse small --vi a_vi.png --ir a_ir.png --out a.png --side-by-side",
        "python -m jobs.fuse models:/dspfusion@champion --vi msrs/vi --ir msrs/ir --out fused",
        "python -m jobs.fuse small --vi a_vi.mp4 --ir a_ir.mp4 --out a.mp4",
    ],
    Verb(_add_arguments, _fuse),
)


if __name__ == "__main__":
    COMMAND.run()
