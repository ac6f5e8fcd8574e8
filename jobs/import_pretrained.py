"""python -m jobs.import_pretrained NAME [--as MODEL]: register weights that come with this repository.

The version can then be evaluated, promoted and served like one that was trained here. `jobs.fuse`,
`jobs.evaluate` and `init_from` take NAME itself, too.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.command_line import Command, Verb, add_work, options_again, settings_of

if TYPE_CHECKING:
    from infra.settings import Settings


def _import(arguments: argparse.Namespace) -> None:
    from jobs.console import print_facts, print_line

    settings = settings_of(arguments)
    model = import_pretrained(arguments.name, settings, register_as=arguments.register_as)
    print_facts({"model": model, "origin": "pretrained"})
    where = options_again(arguments, "work")
    print_line(f"next: python -m jobs.evaluate {model} --scenes INDEX --split val{where}")


def import_pretrained(name: str, settings: Settings, *, register_as: str | None = None) -> str:
    """Register pretrained weights as a version of `register_as` (their system); return its models:/ URI.

    The pictures that they were trained on are logged to its run, which the gate reads.
    Raises ValueError, with the names that there are, for another one.
    """
    from jobs.import_released.run import Imported, origin_tags, register_imported
    from pipelines.bundles.export import read_bundle
    from pipelines.bundles.pretrained import find_pretrained
    from pipelines.promotion.evidence import PRETRAINED
    from pipelines.promotion.lineage import FOLDER, SCENES
    from pipelines.store.files import sha256_of_file

    folder = find_pretrained(name)
    bundle = read_bundle(folder)
    register_as = register_as or bundle.system.name
    digests = {file: sha256_of_file(folder / file) for file in ("model.safetensors", SCENES)}
    tags = origin_tags(PRETRAINED, bundle.system, register_as, digests) | {"recipe": name}
    with tempfile.TemporaryDirectory(prefix="lineage-") as scratch:
        (Path(scratch) / SCENES).write_bytes((folder / SCENES).read_bytes())
        imported = Imported(
            "import_pretrained",
            register_as,
            bundle.model,
            bundle.fuser(),
            tags,
            {FOLDER: Path(scratch)},
            bundle.types,
        )
        return register_imported(imported, settings)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a folder of models/*/pretrained, such as small")
    parser.add_argument(
        "--as", dest="register_as", metavar="MODEL", help="registered model (default: the system)"
    )
    add_work(parser)


COMMAND = Command(
    "import_pretrained",
    __doc__,
    ["python -m jobs.import_pretrained small"],
    Verb(_add_arguments, _import),
)


if __name__ == "__main__":
    COMMAND.run()
