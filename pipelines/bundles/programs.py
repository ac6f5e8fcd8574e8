"""Exported programs (`program.pt2`) from elsewhere, as data.

`torch.export.load` believes an archive: it unpickles some members, loads compiled libraries, calls
whatever attribute of torch a node names, and evaluates expressions over sizes as Python. What it is
given here is another archive, made of what our own exporter writes and nothing else: tensors as bytes,
a graph of torch's tensor functions, arithmetic over sizes. No member that is a pickle is read.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export.passes import move_to_device_pass

if TYPE_CHECKING:
    from torch.export.pt2_archive._package import PT2ArchiveReader

_GRAPH, _EXAMPLE = "models/model.json", "data/sample_inputs/model.pt"
_TENSORS = re.compile(r"data/(weights/weight|constants/tensor)_\d+")
_LISTS = re.compile(r"data/(weights/model_weights|constants/model_constants)_config\.json")
# The writer writes them itself.
_ABOUT_IT = {"archive_format", "archive_version", "byteorder", ".data/version"} | {
    ".data/serialization_id"
}
# `from_file` is the one of torch's tensor functions that opens files.
_FUNCTION = re.compile(
    r"torch\.ops\.aten\.(?!from_file\.)\w+\.\w+"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|eq|ne|lt|le|gt|ge|and_|or_)"
    r"|torch\.sym_(max|min|not|ite|int|float)"
)
_PLAIN = re.compile(r"[\w.+]*")
_WORD = re.compile(r"[^\W\d]\w*")
_MARKS = re.compile(r"[\s\w()\[\]{},.:+\-*/%<>=!'\"]*")
_OF_SIZES = frozenset((
    "L", "vi", "ir", "vi_op", "ir_op", "vi_task", "ir_task", "hints",
    "size", "min", "max", "not", "and", "or", "True", "False", "Symbol", "Integer",
    "positive", "integer", "Min", "Max", "Add", "Mul", "Pow", "Mod", "PythonMod", "FloorDiv", "CeilDiv",
    "Eq", "Ne", "Ge", "Gt", "Le", "Lt", "And", "Or", "Not",
))  # fmt: skip
_OF_TREES = frozenset(
    ("type", "context", "children_spec", "builtins", "tuple", "list", "dict", "null")
)


def load_program(path: Path, device: str = "cpu") -> torch.nn.Module:
    """Load an exported program `(vi, ir, *hints)` onto a device.

    It was traced on a CPU, whose name stands in it wherever a tensor is made: that is replaced, too.
    Raises ValueError for what no export holds.
    """
    # Seconds, which only those who load one should wait.
    from torch.export.pt2_archive._package import PT2ArchiveReader, PT2ArchiveWriter

    clean = io.BytesIO()
    try:
        with PT2ArchiveReader(str(path)) as found, PT2ArchiveWriter(clean) as kept:
            for name in sorted(set(found.get_file_names()) - _ABOUT_IT):
                kept.write_bytes(name, _checked(name, found))
        clean.seek(0)
        program = torch.export.load(clean)
        return (program if device == "cpu" else move_to_device_pass(program, device)).module()
    except (RuntimeError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"{path}: not a program of ours ({error})") from error


def _checked(name: str, archive: PT2ArchiveReader) -> bytes:
    """A member as it may be loaded."""
    if name == _EXAMPLE:
        return b""  # a pickle, which is not needed
    if _TENSORS.fullmatch(name):
        data: bytes = archive.read_bytes(name)
        if not data and not _has_no_elements(name, archive):
            raise ValueError(f"{name} is empty, and would become as many zeros as it claims")
        return data
    if _LISTS.fullmatch(name):
        listed = json.loads(archive.read_bytes(name))
        for tensor, entry in listed["config"].items():
            if entry["use_pickle"] or not re.fullmatch(r"(weight|tensor)_\d+", entry["path_name"]):
                raise ValueError(f"{name}: {tensor} is a pickle")
        return json.dumps(listed).encode()
    if name == _GRAPH:
        graph = _without_metadata(json.loads(archive.read_bytes(name)))
        for key, text in _texts(graph):
            _check_text(key, text)
        return json.dumps(graph).encode()
    raise ValueError(f"it holds {name}")


def _has_no_elements(name: str, archive: PT2ArchiveReader) -> bool:
    """Whether whatever is listed as kept in this member has a side of 0."""
    folder, _, file = name.rpartition("/")
    kind = folder.removeprefix("data/")
    listed = json.loads(archive.read_bytes(f"{folder}/model_{kind}_config.json"))["config"]
    sizes = [
        entry["tensor_meta"]["sizes"] for entry in listed.values() if entry["path_name"] == file
    ]
    return all({"as_int": 0} in each for each in sizes)


def _without_metadata(value: Any) -> Any:
    """A graph without its nodes' source locations: free text that is not needed."""
    if isinstance(value, dict):
        return {key: {} if key == "metadata" else _without_metadata(v) for key, v in value.items()}
    return [_without_metadata(item) for item in value] if isinstance(value, list) else value


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a graph with the key that it is under; keys are texts, too."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, key)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield "range_constraints" if key == "range_constraints" else "", name
            yield from _texts(item, name)


def _check_text(key: str, text: str) -> None:
    match key:
        case "target":
            fine = _FUNCTION.fullmatch(text) is not None
        case "expr_str" | "guards_code" | "range_constraints":
            fine = _speaks(text, _OF_SIZES)
        case "in_spec" | "out_spec":
            fine = _speaks(text, _OF_TREES)
        case _:
            fine = _PLAIN.fullmatch(text) is not None
    if not fine:
        raise ValueError(f"its graph holds {text[:80]!r}")


def _speaks(text: str, words: frozenset[str]) -> bool:
    """Whether a text is made of these words, symbols of sizes, numbers and marks; nothing else is run."""
    known = all(word in words or re.fullmatch(r"[su]\d+", word) for word in _WORD.findall(text))
    return known and "**" not in text and _MARKS.fullmatch(text) is not None
