"""python -m jobs.fuse MODEL --vi PATH --ir PATH --out PATH: fuse a pair, or two folders of pairs.

MODEL is `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a bundle's folder. Results are PNG, whatever
the inputs were; of 16 bits a channel if an input was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from infra.settings import Settings, read_settings
from jobs.console import facts, progress, run_command
from models.dspfusion.fuser import DSPFusionFuser, Precision
from pipelines.export import load_bundle
from pipelines.files import whole_folder, write_whole
from pipelines.images import encode_png, to_levels, to_tensor
from pipelines.scenes import describe_refused, pair_folders, read_pair


def fuse_files(
    fuser: DSPFusionFuser, vi_path: Path, ir_path: Path, out: Path, *, tile_px: int | None = None
) -> None:
    """Fuse one pair of files into the PNG `out`. Raises ValueError that names a bad file.

    With `tile_px` a pair is fused in tiles of that side, which bounds the memory.
    """
    pictures = read_pair(vi_path, ir_path)
    vi, ir = map(to_tensor, pictures)
    try:
        with torch.inference_mode():
            if tile_px is None:
                fused = fuser(vi, ir)  # 1 3 H W
            else:
                fused = fuser.fuse_tiled(vi, ir, tile_px=tile_px)
    except ValueError as error:
        raise ValueError(f"{vi_path}: {error}") from error
    write_whole(out, encode_png(to_levels(fused, np.result_type(*pictures))))


def fuse_paths(
    fuser: DSPFusionFuser, vi: Path, ir: Path, out: Path, *, tile_px: int | None = None
) -> list[Path]:
    """Fuse two files, or two folders paired by stem; return the pictures written.

    `out` is a file for two files if it ends in .png, else a folder.
    """
    for path in (vi, ir):
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder")
    if vi.is_file() != ir.is_file():
        raise ValueError(f"{vi} and {ir}: give two files or two folders")
    if vi.is_file():
        target = out if out.suffix.lower() == ".png" else out / f"{vi.stem}.png"
        fuse_files(fuser, vi, ir, target, tile_px=tile_px)
        return [target]
    pairs, refused = pair_folders(vi, ir)
    if refused:
        raise ValueError(f"not every picture has its partner: {describe_refused(refused)}")
    if not pairs:
        raise ValueError(f"{vi}: no pictures in it")
    written = []
    with progress("pairs", len(pairs)) as advance:
        for vi_path, ir_path in pairs:
            target = out / f"{vi_path.stem}.png"
            fuse_files(fuser, vi_path, ir_path, target, tile_px=tile_px)
            written.append(target)
            advance(len(written), vi_path.stem)
    return written


def resolve_model(model: str, settings: Settings) -> str:
    """Pin an alias to the version it points at now (`models:/NAME/VERSION`); folders stay folders."""
    if not model.startswith("models:/"):
        if not Path(model).is_dir():
            raise ValueError(
                f"{model}: no such bundle folder; a registered model is models:/NAME@ALIAS "
                "or models:/NAME/VERSION"
            )
        return model
    from infra import registry, tracking

    version = registry.find_model(tracking.connect(settings), model)
    return f"models:/{version.name}/{version.version}"


def bundle_of(model: str, settings: Settings) -> Path:
    """The folder of a model's bundle; a registered one is fetched into the work folder's cache."""
    if not model.startswith("models:/"):
        return Path(resolve_model(model, settings))
    from infra import registry, tracking

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
    settings = read_settings(work=arguments.work)
    model = resolve_model(arguments.model, settings)
    fuser = load_bundle(bundle_of(model, settings))
    fuser.speed_up(precision=arguments.precision, compiled=arguments.compile)
    paths = arguments.vi, arguments.ir, arguments.out
    written = fuse_paths(fuser, *paths, tile_px=arguments.tile)
    where = written[0] if len(written) == 1 else f"{len(written)} pictures in {written[0].parent}"
    facts({"model": model, "fused": str(where)})


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.fuse", description=__doc__)
    parser.add_argument(
        "model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    parser.add_argument("--vi", type=Path, required=True, help="visible picture, or folder")
    parser.add_argument("--ir", type=Path, required=True, help="infrared picture, or folder")
    parser.add_argument(
        "--out", type=Path, required=True, help="PNG to write (for two files), or folder"
    )
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PX",
        help="fuse in overlapping tiles of PX a side: bounded memory for large pictures (4K: 512)",
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
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
