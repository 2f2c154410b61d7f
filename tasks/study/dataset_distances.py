"""Datasets: measure distances between data sets in the states of one model."""

from typing import Any

from tasks.core.errors import InputError
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.store.artifacts import Ref


@stage(packages=("torch", "safetensors"))
def datasets(work: Work, states: list[Ref], *, names: tuple[str, ...], distance: str = "energy", seed: int = 0) -> dict:
    """Compute distances between data sets, from the states behind the last block; rows need no pairing.

    states: captures of one model, one for each data set; names: of the data sets; distance: that of the map, one of
    energy, mmd and frechet. Writes `datasets.safetensors`, with distances in units of the pooled states' root mean
    square distance from their mean: `energy`, `mmd` (without unit), `frechet` [D, D]; for each of them `<name>_halves`
    [D], between two halves of one data set, which is the effect of sampling; `map` [D, 2] (classical scaling of
    `distance`), `rows` [n, 2] (all rows on their two principal components) and `row_dataset` [n].

    Raises:
        InputError: when the distance is unknown, names and states differ in number, or as `dataset_distances`.
    """
    import torch
    from safetensors.torch import load_file, save_file

    from tasks.core.study.dataset_distance import DISTANCES, classical_map, dataset_distances, principal_map

    if distance not in DISTANCES:
        raise InputError(f"distance = {distance!r}; choose from {', '.join(DISTANCES)}")
    if len(names) != len(states):
        raise InputError(f"{len(states)} captures with {len(names)} names: give each data set's name, in order")
    clouds = [load_file(work.open(ref) / "states.safetensors")["states"][-1] for ref in states]
    found = dataset_distances(clouds, names, seed)
    places, map_share = classical_map(found.distances[distance])
    rows, rows_share = principal_map(clouds, names)
    tensors: dict[str, Any] = found.distances | {f"{name}_halves": found.halves[name] for name in DISTANCES}
    tensors |= {"map": places, "rows": rows}
    stored = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    stored["row_dataset"] = torch.cat([torch.full((len(cloud),), number) for number, cloud in enumerate(clouds)])
    save_file(stored, work.out / "datasets.safetensors")
    return {
        "distance": distance,
        "names": list(names),
        "num_rows": [len(cloud) for cloud in clouds],
        "width": clouds[0].shape[1],
        "bandwidth": found.bandwidth,
        "map_share": map_share,
        "rows_share": rows_share,
    }
