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


def party_scores(home: Path) -> list[tuple[str, float]]:
    """Return setting and score of all reports of a party; a setting is there once for each report that has it."""
    folders = (home / "store/artifacts/party_report").iterdir()
    rows = [row for folder in sorted(folders) for row in PARTY_FILE.read(folder)["scores"]]
    return sorted((row["setting"], row["value"]) for row in rows)


def run_scores(home: Path) -> dict[str, float]:
    """Return the scores of the only run of a home by setting."""
    (table,) = (home / "store/artifacts/report").glob(f"*/{LONG_TABLE}")
    with table.open() as file:
        return {row["setting"]: float(row["value"]) for row in csv.DictReader(file)}


def main(acme: Path, clinic: Path, together: Path) -> int:
    """Print each score of both, and return 1 where one differs, or one is missing."""
    one = run_scores(together)
    parties = [(home.parent.name, *score) for home in (acme, clinic) for score in party_scores(home)]
    print(f"\n{'':8}{'':20}{'two parties':>20}{'one process':>20}")
    for party, setting, score in parties:
        print(f"{party:8}{setting:20}{score:20.15f}{one[SETTINGS[setting]]:20.15f}")
    different = [f"{setting} of {party}" for party, setting, score in parties if score != one[SETTINGS[setting]]]
    different += sorted(SETTINGS.keys() - {setting for _, setting, _ in parties})
    if different:
        print(f"These scores differ or are missing: {', '.join(different)}", file=sys.stderr)
        return 1
    print("The scores are the same to the last digit.")
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
