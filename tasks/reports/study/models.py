"""The cells of a study by model, and the names of models and data in captions."""

from collections.abc import Mapping, Sequence

from tasks.reports.study.cells import SEPARATOR, Analysis, CellResults


def model_key(cell: CellResults) -> str:
    """Return the digest of the cell's model, as revisions may share a name; without it, each cell has its own key."""
    return str(cell.facts.get("weights", cell.label))


def by_model(cells: Sequence[CellResults]) -> dict[str, list[CellResults]]:
    """Return the cells of each model, by `model_key`, in order."""
    found: dict[str, list[CellResults]] = {}
    for cell in cells:
        found.setdefault(model_key(cell), []).append(cell)
    return found


def model_titles(cells: Sequence[CellResults]) -> dict[str, str]:
    """Return a unique title for each model, by `model_key`.

    The title is the model's name and, if several models share it, the common part of its cells' labels.
    """
    groups = by_model(cells)
    names = {key: own[0].model for key, own in groups.items()}
    titles = {key: name if _once(name, names) else _with_common(name, groups[key]) for key, name in names.items()}
    return {
        key: title if _once(title, titles) else ", ".join(cell.label for cell in groups[key])
        for key, title in titles.items()
    }


def variants(cell: CellResults, stage: str) -> list[tuple[str, Analysis]]:
    """Return the analyses of a stage with what distinguishes them: "" or " · <label>"."""
    return [(f"{SEPARATOR}{label}" if label else "", analysis) for label, analysis in cell.of(stage).items()]


def data_of(cells: Sequence[CellResults]) -> str:
    """Name the cells' data sets and splits: `sciq, piqa (train split)`; by cell if its label does not name its data."""
    tasks = list(dict.fromkeys(cell.task for cell in cells))
    splits = list(dict.fromkeys(cell.facts.get("support_split") for cell in cells))
    if len(splits) == 1 and (len(tasks) == 1 or all(cell.task in cell.label.split(SEPARATOR) for cell in cells)):
        return ", ".join(tasks) + _split(splits[0])
    return "; ".join(f"{cell.label}: {cell.task}{_split(cell.facts.get('support_split'))}" for cell in cells)


def support_rows(cells: Sequence[CellResults], stage: str) -> str:
    """Return number and data of the support rows of the cells' analyses of a stage: `n = 48 support rows of ...`."""
    return f"n = {num_rows(cells, stage)} support rows of {data_of(cells)}"


def num_rows(cells: Sequence[CellResults], stage: str) -> str:
    """Return the number of rows, or its range, over all analyses of a stage in the cells."""
    counts = sorted({analysis.summary["num_rows"] for cell in cells for analysis in cell.of(stage).values()})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _split(split: object) -> str:
    return f" ({split} split)" if split else ""


def _once(name: str, names: Mapping[str, str]) -> bool:
    return list(names.values()).count(name) == 1


def _with_common(name: str, cells: Sequence[CellResults]) -> str:
    first, *others = (cell.label.split(SEPARATOR) for cell in cells)
    common = [part for part in first if part != name and all(part in other for other in others)]
    return SEPARATOR.join([name, *common])
