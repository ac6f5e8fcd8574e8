"""python -m jobs.fuse MODEL --vi PATH --ir PATH --out PATH: fuse a pair, or two folders of pairs.

MODEL is `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a bundle's folder. Results are PNG, whatever
the inputs were.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from infra.settings import Settings, read_settings
from jobs.console import progress, run_command, say
from pipelines.export import load_bundle
from pipelines.files import whole_folder, write_whole
from pipelines.images import encode_png, to_tensor, to_uint8
from pipelines.scenes import describe_refused, pair_folders, read_pair


def fuse_files(fuser: nn.Module, vi_path: Path, ir_path: Path, out: Path) -> None:
    """Fuse one pair of files into the PNG `out`. Raises ValueError that names a bad file."""
    vi, ir = read_pair(vi_path, ir_path)
    with torch.inference_mode():
        fused = fuser(to_tensor(vi), to_tensor(ir))  # 1 3 H W
    write_whole(out, encode_png(to_uint8(fused)))


def fuse_paths(fuser: nn.Module, vi: Path, ir: Path, out: Path) -> list[Path]:
    """Fuse two files into `out`, or two folders (paired by stem) into the folder `out`."""
    if vi.is_file():
        target = out / f"{vi.stem}.png" if out.is_dir() else out.with_suffix(".png")
        fuse_files(fuser, vi, ir, target)
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
            fuse_files(fuser, vi_path, ir_path, target)
            written.append(target)
            advance(len(written), vi_path.stem)
    return written


def bundle_of(model: str, settings: Settings) -> Path:
    """The folder of a model's bundle; a registered one is fetched into the work folder's cache."""
    if not model.startswith("models:/"):
        return Path(model)
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
    fuser = load_bundle(bundle_of(arguments.model, settings))
    written = fuse_paths(fuser, arguments.vi, arguments.ir, arguments.out)
    say(f"fused {len(written)} pair{'s' if len(written) > 1 else ''}: {written[0].parent}")


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.fuse", description=__doc__)
    parser.add_argument(
        "model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    parser.add_argument("--vi", type=Path, required=True, help="visible picture, or folder")
    parser.add_argument("--ir", type=Path, required=True, help="infrared picture, or folder")
    parser.add_argument("--out", type=Path, required=True, help="PNG to write, or folder")
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
