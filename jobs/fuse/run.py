"""python -m jobs.fuse MODEL --vi URI --ir URI --out URI: fuse a pair, or two folders of pairs.

MODEL is `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a bundle's folder; URIs are paths or
`s3://bucket/prefix`. Results are PNG, of 16 bits a channel if an input was. Folders are fused on Ray, by
actors that hold the model; the same command goes on where it was stopped. What cannot be fused is
listed in OUT/failures.json, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import cast, get_args

from pydantic import ValidationError

from degradations.catalogue import Modality, find
from degradations.chain import Applied
from infra.settings import Settings, read_settings
from jobs.console import print_facts, print_line, progress, run_command
from jobs.locations import open_folder, open_sources, source_reader
from models.system import FuseOptions, Precision
from pipelines.bundles.export import read_bundle
from pipelines.bundles.fusing import (
    FAILURES,
    Failure,
    FusablePair,
    Fusing,
    PairFuser,
    find_fusable,
    left_to_fuse,
    write_failures,
)
from pipelines.sources.layouts import IMAGE_SUFFIXES
from pipelines.sources.scenes import Read
from pipelines.store.files import whole_folder
from pipelines.store.folders import Folder


@dataclass(frozen=True)
class FolderOutcome:
    """What became of two folders: pictures made now, made before, and not made."""

    made: int
    skipped: int
    failures: tuple[Failure, ...]


def fuse_folders(
    fusing: Fusing,
    settings: Settings,
    *,
    vi: str,
    ir: str,
    out: str,
    overwrite: bool = False,
    local: bool = False,
) -> FolderOutcome:
    """Fuse two folders or S3 prefixes, paired by stem, into `out`; on Ray, or `local` in this process.

    Pictures that `out` holds already are skipped, unless `overwrite`. What cannot be fused is listed
    in `failures.json` there, and the rest is done. Raises ValueError where nothing can be done at all.
    """
    folder = open_folder(out, settings)
    if folder.uri in (open_folder(vi, settings).uri, open_folder(ir, settings).uri):
        raise ValueError(f"--out {out}: is where sources lie; choose another folder")
    pairs = find_fusable(open_sources(vi, settings), open_sources(ir, settings))
    left = left_to_fuse(pairs, folder, fusing, overwrite=overwrite)
    skipped = len(pairs) - len(left)
    if skipped:
        print_line(f"  {skipped} of {len(pairs)} pictures were there before")
    arguments = (fusing, source_reader(settings), folder)
    failures: list[Failure] = []
    with progress("pairs", len(pairs)) as advance:
        outcomes = _in_process(left, *arguments) if local else _on_ray(left, settings, *arguments)
        for done, (pair, failure) in enumerate(outcomes, start=1):
            failures += [failure] if failure else []
            advance(skipped + done, pair.name)
    write_failures(failures, folder)
    return FolderOutcome(len(left) - len(failures), skipped, tuple(failures))


_Outcome = tuple[FusablePair, Failure | None]


def _in_process(
    pairs: Sequence[FusablePair], fusing: Fusing, read: Read, folder: Folder
) -> Iterator[_Outcome]:
    fuse = PairFuser(fusing, read, folder)
    for pair in pairs:
        yield pair, fuse(pair)


def _on_ray(
    pairs: Sequence[FusablePair], settings: Settings, fusing: Fusing, read: Read, folder: Folder
) -> Iterator[_Outcome]:
    if not pairs:
        return
    # Ray is only needed where there is something to do.
    from infra.cluster.connect import connected
    from infra.cluster.tasks import map_actors

    with connected(settings):
        for pair, outcome in map_actors(PairFuser, pairs, fusing, read, folder):
            if isinstance(outcome, Exception):
                # Most likely the memory: another tile size is what a person can do.
                reason = "its worker died twice, for want of memory? try --tile"
                yield pair, Failure(name=pair.name, reason=reason)
            else:
                yield pair, outcome


def resolve_model(model: str, settings: Settings) -> str:
    """Pin an alias to the version it points at now (`models:/NAME/VERSION`); folders stay folders."""
    if not model.startswith("models:/"):
        if not Path(model).is_dir():
            raise ValueError(
                f"{model}: no such bundle folder; a registered model is models:/NAME@ALIAS "
                "or models:/NAME/VERSION"
            )
        return model
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    version = registry.find_model(tracking.connect(settings), model)
    return f"models:/{version.name}/{version.version}"


def bundle_of(model: str, settings: Settings) -> Path:
    """The folder of a model's bundle; a registered one is fetched into the work folder's cache."""
    if not model.startswith("models:/"):
        return Path(resolve_model(model, settings))
    from infra.registry import model_versions as registry
    from infra.registry import tracking

    client = tracking.connect(settings)
    version = registry.find_model(client, model)
    # The run's id, because another store has a version 1, too.
    name = f"{version.name}-{version.version}-{version.run_id[:12]}"
    target = settings.work / "cache" / name
    if not target.is_dir():
        with whole_folder(target) as folder:
            registry.fetch_bundle(client, version, folder)
    return registry.bundle_in(target)


def _main(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work, ray_address=arguments.address)
    model = resolve_model(arguments.model, settings)
    fusing = Fusing(
        bundle=read_bundle(bundle_of(model, settings)),
        options=FuseOptions(
            precision=arguments.precision,
            compiled=arguments.compile,
            tile_px=arguments.tile,
            tile_passes=arguments.tile_passes,
            stretch=arguments.stretch,
        ),
        **_chains(arguments.degradation),
    )
    fusing.hints()  # what cannot be told to the model shows here, not for every picture
    if fusing.bundle.system.hint_names and not arguments.degradation:
        print_line("  no --degradation given: the model is told that both pictures are clean")
    kinds = [_is_picture(uri) for uri in (arguments.vi, arguments.ir)]
    if kinds[0] != kinds[1]:
        raise ValueError(f"{arguments.vi} and {arguments.ir}: give two files or two folders")
    if kinds[0]:
        uri = _fuse_one(fusing, settings, arguments.vi, arguments.ir, arguments.out)
        print_facts({"model": model, "fused": uri})
        return
    fused = fuse_folders(
        fusing,
        settings,
        vi=arguments.vi,
        ir=arguments.ir,
        out=arguments.out,
        overwrite=arguments.overwrite,
        local=arguments.local,
    )
    counts = f"{fused.made} pictures in {arguments.out}, {fused.skipped} were there before"
    print_facts({"model": model, "fused": counts})
    if fused.failures:
        out = open_folder(arguments.out, settings).uri
        print_line(f"{len(fused.failures)} could not be fused; they are listed in {out}/{FAILURES}")
        sys.exit(1)


def _chains(texts: Sequence[str]) -> dict[str, list[Applied]]:
    """What each camera suffers, from `CAMERA:NAME:PARAM=VALUE,…`, in the order that is given."""
    chains: dict[str, list[Applied]] = {"vi_chain": [], "ir_chain": []}
    for text in texts:
        camera, _, rest = text.partition(":")
        name, _, assignments = rest.partition(":")
        if camera not in ("vi", "ir") or not name:
            raise ValueError(f"--degradation {text}: write vi:NAME:PARAM=VALUE or ir:…")
        degradation = find(cast(Modality, camera), name)
        params = dict(pair.partition("=")[::2] for pair in assignments.split(",") if pair)
        try:
            checked = degradation.params_type.model_validate(params)
        except ValidationError as error:
            known = ", ".join(degradation.params_type.model_fields)
            raise ValueError(f"--degradation {text}: {name} takes {known} ({error})") from error
        chains[f"{camera}_chain"].append(Applied(name=name, params=checked.model_dump()))
    return chains


def _is_picture(uri: str) -> bool:
    """Whether a URI is one picture: a file on disk, or an object that is called like one."""
    if "://" in uri:
        return PurePosixPath(uri).suffix.lower() in IMAGE_SUFFIXES
    if not Path(uri).exists():
        raise ValueError(f"{uri}: no such file or folder")
    return Path(uri).is_file()


def _fuse_one(fusing: Fusing, settings: Settings, vi: str, ir: str, out: str) -> str:
    """Fuse a single pair, in this process; `out` is a PNG's URI or a folder's."""
    if out.lower().endswith(".png"):
        parent, _, name = out.rpartition("/")
        root = open_folder(parent or ("/" if out.startswith("/") else "."), settings)
    else:
        root, name = open_folder(out, settings), f"{PurePosixPath(vi).stem}.png"
    pair = FusablePair(vi_uri=vi, ir_uri=ir, name=name)
    failure = PairFuser(fusing, source_reader(settings), root)(pair)
    if failure:
        raise ValueError(failure.reason)
    return f"{root.uri}/{name}"


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.fuse", description=__doc__)
    parser.add_argument(
        "model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    what = "picture, folder or s3://bucket/prefix"
    parser.add_argument("--vi", required=True, help=f"visible {what}")
    parser.add_argument("--ir", required=True, help=f"infrared {what}")
    parser.add_argument("--out", required=True, help="PNG to write (for two files), or folder")
    parser.add_argument(
        "--overwrite", action="store_true", help="make pictures anew that are there already"
    )
    parser.add_argument("--local", action="store_true", help="in this process, without Ray")
    parser.add_argument("--address", help="Ray cluster (default: RAY_ADDRESS, else embedded)")
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PX",
        help="fuse in overlapping tiles of PX a side: bounded memory for large pictures (4K: 512)",
    )
    parser.add_argument(
        "--tile-passes",
        type=int,
        metavar="N",
        help="runs over the tiles: more are nearer to the whole picture (default: the model's own)",
    )
    parser.add_argument(
        "--precision",
        choices=get_args(Precision),
        default="float32",
        help="bf16 is faster and a little off (models/dspfusion/README.md; default: %(default)s)",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the fusion network: minutes at the first size, for accelerators",
    )
    parser.add_argument(
        "--stretch",
        action="store_true",
        help="stretch each result by its own extremes, as DSPFusion's authors do",
    )
    parser.add_argument(
        "--degradation",
        action="append",
        default=[],
        metavar="CAMERA:NAME:PARAM=VALUE",
        help="what a camera suffers, for models that take hints (repeatable, in order): "
        "vi:gaussian_noise:sigma_level=14",
    )
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
