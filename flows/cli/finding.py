"""The findings of `crash doctor`, one a line."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One check and its result. A problem carries its remedy and the exit code that a run would end with."""

    what: str
    value: str
    remedy: str = ""
    exit_code: int = 4


def print_findings(findings: list[Finding]) -> int:
    """Print every finding, with problems marked by `!`; return the exit code of the first problem, or 0."""
    width = max(len(finding.what) for finding in findings)
    for finding in findings:
        print(f"{'!' if finding.remedy else ' '} {finding.what:<{width}}  {finding.value}")
        if finding.remedy:
            print(f"  {'':<{width}}  → {finding.remedy}")
    problems = [finding for finding in findings if finding.remedy]
    print("\nNo problems found." if not problems else f"\n{len(problems)} problem(s) found, marked with !")
    return problems[0].exit_code if problems else 0
