"""Datasets: measure distances between data sets in the states of one model."""

from typing import Any

from tasks.artifacts.states import read_states
from tasks.artifacts.study.dataset_distances import DatasetDistancesSummary, write_dataset_distances
from tasks.core.errors import InputError
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("torch", "safetensors"))
def dataset_distances(
    work: Work, states: list[Ref], *, names: tuple[str, ...], distance: str = "energy", seed: int = 0
) -> DatasetDistancesSummary:
    """Compute distances between data sets, from the states behind the last block; rows need no pairing.

    states: captures of one model, one for each data set; names: of the data sets; distance: that of the map, one of
    energy, mmd and frechet. Writes `tasks.artifacts.study.dataset_distances.DatasetDistances`; distances between two
    halves of one data set are the effect of sampling.

    Raises:
        InputError: when the distance is unknown, names and states differ in number, or the states cannot be compared.
    """
    import torch

    from tasks.core.study import dataset_distance
    from tasks.core.study.dataset_distance import DISTANCES, classical_map, principal_map

    if distance not in DISTANCES:
        raise InputError(f"distance = {distance!r}; choose from {', '.join(DISTANCES)}")
    if len(names) != len(states):
        raise InputError(f"{len(states)} captures with {len(names)} names: give each data set's name, in order")
    clouds = [read_states(work.open(ref))["states"][-1] for ref in states]
    found = dataset_distance.dataset_distances(clouds, names, seed)
    places, map_share = classical_map(found.distances[distance])
    rows, rows_share = principal_map(clouds, names)
    tensors: dict[str, Any] = found.distances | {f"{name}_halves": found.halves[name] for name in DISTANCES}
    tensors |= {"map": places, "rows": rows}
    stored = {name: tensor.float() for name, tensor in tensors.items()}
    stored["row_dataset"] = torch.cat([torch.full((len(cloud),), number) for number, cloud in enumerate(clouds)])
    write_dataset_distances(work.out, stored)
    return {
        "distance": distance,
        "names": list(names),
        "num_rows": [len(cloud) for cloud in clouds],
        "width": clouds[0].shape[1],
        "bandwidth": found.bandwidth,
        "map_share": map_share,
        "rows_share": rows_share,
    }
