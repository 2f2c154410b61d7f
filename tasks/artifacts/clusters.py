"""The clusters that a plan is made from, beside the plan of a strategy that clusters: files of `cluster`.

`clusters.json` holds runs of adjacent blocks, `single_clusters.json` groups of any blocks (strategy `single`).
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TypedDict, cast

from tasks.artifacts.files import read_object

# File by the evidence that a strategy needs.
CLUSTER_FILES = {"clusters": "clusters.json", "single_clusters": "single_clusters.json"}


class Clusters(TypedDict):
    """clusters: indices of the blocks of each; linkage: rule by which they were merged."""

    clusters: list[list[int]]
    linkage: str


def write_clusters(folder: Path, evidence: str, clusters: Sequence[Sequence[int]], linkage: str) -> None:
    """Write the clusters. evidence: a key of CLUSTER_FILES."""
    (folder / CLUSTER_FILES[evidence]).write_text(json.dumps({"clusters": clusters, "linkage": linkage}))


def read_clusters(folder: Path, evidence: str = "clusters") -> Clusters | None:
    """Read the clusters beside a plan; None for a plan that is made without them.

    Raises:
        InputError: when the file is not valid.
    """
    name = CLUSTER_FILES[evidence]
    if not (folder / name).is_file():
        return None
    return cast(Clusters, read_object(folder, name, "clusters", Clusters.__required_keys__))
