"""Measurements in a separate process, whose memory nothing else has touched."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.places import ROOT


def measured(module: str, *arguments: object, **variables: str) -> dict[str, Any]:
    """Run a module of the benchmark with these environment variables; return the JSON of the last line it prints."""
    command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=os.environ | variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
