"""Choose the number format at which the hardware is fast, without loading torch."""

import re
import shutil
import subprocess
from pathlib import Path

from tasks.engine.resources import visible_gpus

# Lowest compute capability of NVIDIA GPUs that multiply bfloat16 matrices natively (Ampere).
BFLOAT16_CAPABILITY = 8.0


def resolve_precision(wanted: str) -> str:
    """Return `float32` or `bfloat16`; `auto` is bfloat16 on GPUs and CPUs with matrix units for it."""
    if wanted != "auto":
        return wanted
    return "bfloat16" if has_bfloat16_units() else "float32"


def has_bfloat16_units() -> bool:
    """Return whether the visible GPUs, or else the CPU (AMX), have bfloat16 matrix units."""
    if visible_gpus():
        capability = _gpu_capability()
        return capability is not None and capability >= BFLOAT16_CAPABILITY
    try:
        return "amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _gpu_capability() -> float | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, f"--id={','.join(visible_gpus())}", "--query-gpu=compute_cap", "--format=csv,noheader"]
    lines = subprocess.run(query, capture_output=True, text=True).stdout.split()
    found = [float(line) for line in lines if re.fullmatch(r"\d+(\.\d+)?", line)]
    return min(found, default=None)
