"""Compare the scores of two parties with those of one process that has the full model and the data of both.

usage: python -m flows.demo.parties.compare ACME CLINIC TOGETHER, the three homes. The exit code is 1 where a score
differs in any digit.
"""

import csv
import sys
from pathlib import Path

from tasks.artifacts.party_report import PARTY_FILE
from tasks.artifacts.tables import LONG_TABLE

# The settings of a run by those of the parties' reports.
SETTINGS = {
    "full_zero_shot": "full_zero_shot",
    "emulator_zero_shot": "emulator_zero_shot",
    "emulator_tuned": "emulator_fine_tuned",
    "plug_in": "plug_in",
}


def party_scores(home: Path) -> dict[str, float]:
    """Return the scores of all reports of a party by setting."""
    folders = (home / "store/artifacts/party_report").iterdir()
    return {row["setting"]: row["value"] for folder in folders for row in PARTY_FILE.read(folder)["scores"]}


def run_scores(home: Path) -> dict[str, float]:
    """Return the scores of the only run of a home by setting."""
    (table,) = (home / "store/artifacts/report").glob(f"*/{LONG_TABLE}")
    with table.open() as file:
        return {row["setting"]: float(row["value"]) for row in csv.DictReader(file)}


def main(acme: Path, clinic: Path, together: Path) -> int:
    """Print each score of both, and return 1 where one differs."""
    parties, one = party_scores(acme) | party_scores(clinic), run_scores(together)
    print(f"\n{'':20}{'two parties':>20}{'one process':>20}")
    for ours, theirs in SETTINGS.items():
        print(f"{ours:20}{parties[ours]:20.15f}{one[theirs]:20.15f}")
    if different := [ours for ours, theirs in SETTINGS.items() if parties[ours] != one[theirs]]:
        print(f"These scores differ: {', '.join(different)}", file=sys.stderr)
        return 1
    print("The scores are the same to the last digit.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
