"""Croissant 1.0 metadata of a dataset version (https://docs.mlcommons.org/croissant/docs/croissant-spec.html).

JSON-LD that catalogues of data sets read: what it is, its files with their digests, its terms.
"""

from __future__ import annotations

from typing import Any

from pipelines.datasets.shards.markers import ShardInfo, tar_of
from pipelines.datasets.versions import DatasetVersion, manifest_of

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "containedIn": "cr:containedIn",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "fileProperty": "cr:fileProperty",
    "fileSet": "cr:fileSet",
    "includes": "cr:includes",
    "recordSet": "cr:recordSet",
    "sc": "https://schema.org/",
    "source": "cr:source",
}
_FILES = {"strips": ("*.npy.zst", "application/zstd"), "png": ("*.png", "image/png")}


def croissant(
    version: DatasetVersion, root_uri: str, *, licence: str | None = None
) -> dict[str, Any]:
    """The metadata of a version whose shards lie below `root_uri`.

    `licence` is the address of the terms of its sources; a version does not know them.
    """
    shard = version.config.shard
    files = {"@type": "cr:FileSet", "containedIn": [{"@id": one.name} for one in version.shards]}
    pattern, kind = _FILES[shard.image_codec]
    sets = [
        files | {"@id": "pictures", "includes": pattern, "encodingFormat": kind},
        files | {"@id": "scenes", "includes": "*.json", "encodingFormat": "application/json"},
    ]
    described: dict[str, Any] = {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": version.name,
        "description": (
            f"{version.num_scenes} scenes as registered visible and infrared pictures, clean and degraded, "
            f"in {version.num_groups} contrastive groups, as WebDataset shards. Degradations: "
            f"visible {', '.join(shard.vi)}; infrared {', '.join(shard.ir)}."
        ),
        "url": f"{root_uri}/{manifest_of(version.name)}",
        "version": f"1.0.0+{version.digest[:12]}",
        "datePublished": version.created,
        "distribution": [*(_shard(one, root_uri) for one in version.shards), *sets],
        "recordSet": [_pictures()],
    }
    return described | ({"license": licence} if licence else {})


def _shard(shard: ShardInfo, root_uri: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": shard.name,
        "name": shard.name,
        "contentUrl": f"{root_uri}/{tar_of(shard.name)}",
        "contentSize": f"{shard.num_bytes} B",
        "encodingFormat": "application/x-tar",
        "sha256": shard.sha256,
    }


def _pictures() -> dict[str, Any]:
    """A record a picture: its name holds scene, camera and degradation; its content the pixels."""
    fields = {"filename": "sc:Text", "content": "sc:ImageObject"}
    return {
        "@type": "cr:RecordSet",
        "@id": "picture",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"picture/{name}",
                "dataType": kind,
                "source": {"fileSet": {"@id": "pictures"}, "extract": {"fileProperty": name}},
            }
            for name, kind in fields.items()
        ],
    }
