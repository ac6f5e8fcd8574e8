"""python -m jobs.export MODEL --onnx PATH: write a model as ONNX, and check what was written.

MODEL is models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder. Batch, height and width stay free;
height and width are multiples of 8, as in the bundle's program. onnxruntime computes on the CPU, the model
that it is compared with where --device says. Needs the extra `onnx`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jobs.command_line import Command, Verb, add_work, settings_of
from jobs.placement import add_device


def _export(arguments: argparse.Namespace) -> None:
    from jobs.console import print_facts
    from jobs.fuse.run import bundle_of, resolve_model
    from pipelines.bundles.export import write_onnx

    settings = settings_of(arguments)
    model = resolve_model(arguments.model, settings)
    error = write_onnx(arguments.onnx, bundle_of(model, settings), arguments.device)
    print_facts({"model": model, "onnx": str(arguments.onnx), "largest error": f"{error:.1e}"})


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", help="models:/NAME@ALIAS, models:/NAME/VERSION or a bundle's folder"
    )
    parser.add_argument("--onnx", type=Path, required=True, metavar="PATH", help="file to write")
    add_device(parser)
    add_work(parser)


COMMAND = Command(
    "export",
    __doc__,
    ["python -m jobs.export models:/dspfusion@champion --onnx dspfusion.onnx"],
    Verb(_add_arguments, _export),
)


if __name__ == "__main__":
    COMMAND.run()
