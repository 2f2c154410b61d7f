"""What is disclosed and what it costs, as cells of a table."""

from collections.abc import Mapping, Sequence

COLUMNS = {
    "disclosed_parameters": "disclosed",
    "disclosed_share": "of the model",
    "disclosed_bytes": "given away",
    "trained_parameters": "trained",
    "returned_bytes": "returned",
    "tuning_seconds": "tuning time",
    "peak_memory_gib": "peak memory",
    "peak_gpu_memory_gib": "peak GPU memory",
}
NOTE = (
    "disclosed: distinct parameters of the emulator; given away, returned: bytes of its tensors, and of the tuned ones;"
    " tuning time: of one seed, over all its learning rates; peak memory: of the process that tuned, and of one GPU."
)
PARAMETERS = ((1e9, " B"), (1e6, " M"), (1e3, " k"), (1, ""))
BYTES = ((1e9, " GB"), (1e6, " MB"), (1e3, " kB"), (1, " B"))
SECONDS = ((3600, " h"), (60, " min"), (1, " s"), (1e-3, " ms"))


def cost_cells(figures: Sequence[Mapping[str, float]]) -> tuple[list[str], list[list[str]]]:
    """Header and rows; columns that nobody has are left out. figures: by name, of each row."""
    names = [name for name in COLUMNS if any(name in row for row in figures)]
    return [COLUMNS[name] for name in names], [[shown(name, row.get(name)) for name in names] for row in figures]


def shown(name: str, value: float | None) -> str:
    """`1.32 M`, `53%`, `4.94 MB`, `12.3 s`, `0.84 GiB`."""
    if value is None:
        return ""
    if name.endswith("share"):
        return f"{value:.0%}"
    if name.endswith("_gib"):
        return f"{value:.2f} GiB"
    return _scaled(value, PARAMETERS if name.endswith("parameters") else BYTES if name.endswith("bytes") else SECONDS)


def _scaled(value: float, units: Sequence[tuple[float, str]]) -> str:
    size, unit = next(((size, unit) for size, unit in units if abs(value) >= size), units[-1])
    number = value / size
    return f"{number:.0f}{unit}" if number >= 99.95 or (size == 1 and not unit) else f"{number:.3g}{unit}"
