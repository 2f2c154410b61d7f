"""Folders that tests start from."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "flows" / "demo"
