"""Choose the number format in which this machine multiplies matrices fast: by measuring, once for each machine."""

import hashlib
import json
import logging
import platform
import shutil
import subprocess
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from tasks.core.errors import CrashError, EnvironmentFault
from tasks.engine.calls import call_in_child
from tasks.engine.resources import require_device, visible_gpus
from tasks.store.files import replace_file

logger = logging.getLogger(__name__)

RATES_FILE = "rates.json"
# bfloat16 is less exact, so it must be clearly faster; near one, noise would decide.
MIN_SPEEDUP = 1.2
CPU_FACTS = Path("/proc/cpuinfo")
_measured: dict[str, dict[str, float]] = {}


def resolve_precision(wanted: str, home: Path) -> str:
    """Return `float32` or `bfloat16`; `auto` is the format in which this machine multiplies matrices faster.

    home: the folder that keeps what was measured.

    Raises:
        EnvironmentFault: when a GPU is to be measured that torch cannot use.
    """
    if wanted != "auto":
        return wanted
    try:
        rates = machine_rates(home)
    except EnvironmentFault:
        raise
    except CrashError as error:
        # A GPU that other work fills: the next run measures.
        chosen = "bfloat16" if visible_gpus() else "float32"
        logger.warning("model.precision = auto: %s, as the rates cannot be measured now (%s)", chosen, error)
        return chosen
    chosen = faster_format(rates)
    logger.info("model.precision = auto: %s (%s)", chosen, describe_rates(rates))
    return chosen


def faster_format(rates: dict[str, float]) -> str:
    """Return bfloat16 where it is clearly faster than float32."""
    return "bfloat16" if rates["bfloat16"] >= MIN_SPEEDUP * rates["float32"] else "float32"


def describe_rates(rates: dict[str, float]) -> str:
    """Return both rates as text, in units of 10^9 floating-point operations per second."""
    return ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in rates.items())


def machine_rates(home: Path) -> dict[str, float]:
    """Return the rates of `tasks.core.rates` for the GPU that stages use or, without one, for one core of the CPU.

    They are measured once for each kind of device and version of torch, and kept in a file in `home`.

    Raises:
        EnvironmentFault: when torch cannot use the GPU.
    """
    path, name = home.absolute() / RATES_FILE, f"{_device_name()}, torch {metadata.version('torch')}"
    known = _read(path) | _measured
    if name not in known:
        known[name] = call_in_child(__name__, "measure_alone", "cuda:0" if visible_gpus() else "cpu")
        # Kept in this process too, so that all cells of a study decide alike where the folder cannot be written.
        _measured[name] = known[name]
        with suppress(OSError):
            replace_file(path, json.dumps(known, indent=1).encode())
    return known[name]


def measure_alone(device: str) -> dict[str, float]:
    """Measure with one thread; to be called in a separate process."""
    import torch

    from tasks.core.rates import measure_rates

    require_device(device)
    torch.set_num_threads(1)
    return measure_rates(device)


def _read(path: Path) -> dict[str, dict[str, float]]:
    """Read the file of rates; whatever cannot be read is measured again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {name: {key: float(rates[key]) for key in ("float32", "bfloat16")} for name, rates in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _device_name() -> str:
    """Return the model of the first visible GPU or of the CPU, which names its instructions too.

    Virtual machines of one model may differ in the instructions that they are given.
    """
    if gpus := visible_gpus():
        return _gpu_name(gpus[0])
    try:
        facts = dict(line.split(":", 1) for line in CPU_FACTS.read_text().splitlines() if ":" in line)
    except OSError:
        return platform.processor() or platform.machine()
    named = {key.strip(): value.strip() for key, value in facts.items()}
    flags = " ".join(sorted(named.get("flags", named.get("Features", "")).split()))
    return f"{named.get('model name', platform.machine())} {hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def _gpu_name(number: str) -> str:
    program = shutil.which("nvidia-smi")
    if program is None:
        return f"GPU {number}"
    query = [program, f"--id={number}", "--query-gpu=name", "--format=csv,noheader"]
    return subprocess.run(query, capture_output=True, text=True).stdout.strip() or f"GPU {number}"
