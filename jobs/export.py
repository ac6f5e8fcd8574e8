"""python -m jobs.export MODEL --onnx PATH: write a model as ONNX, checked on the CPU.

MODEL is `models:/NAME@ALIAS`, `models:/NAME/VERSION` or a bundle's folder. Batch, height and width
stay free; height and width are multiples of 8, as in the bundle's program. Needs the extra `onnx`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from infra.settings import read_settings
from jobs.console import print_facts, run_command
from jobs.fuse.run import bundle_of, resolve_model
from pipelines.bundles.export import write_onnx


def _main(arguments: argparse.Namespace) -> None:
    settings = read_settings(work=arguments.work)
    model = resolve_model(arguments.model, settings)
    error = write_onnx(arguments.onnx, bundle_of(model, settings))
    print_facts({"model": model, "onnx": str(arguments.onnx), "largest error": f"{error:.1e}"})


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m jobs.export", description=__doc__)
    parser.add_argument(
        "model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    parser.add_argument("--onnx", type=Path, required=True, metavar="PATH", help="file to write")
    parser.add_argument("--work", type=Path, help="work folder (default: FUSION_WORK or ./work)")
    run_command(_main, parser)


if __name__ == "__main__":
    main()
