"""Fail a test that skips for a reason which is not listed here, where CRASH_TESTS_STRICT=1, as in CI.

A skip shows as one letter among thousands, so that a missing file or program could keep tests from running for long.
"""

import os
import re
from collections.abc import Generator

import pytest

# The beginning of a skip's reason, as a regular expression, and why CI may lack what it names.
ACCEPTED = {
    "needs a CUDA device": "CI has no GPU",
    "mounting needs root": "a container may run as another user",
    "mount namespaces are not allowed here": "a container may lack the right to make namespaces",
    "host names of one's own are not allowed here": "the same right",
    "needs iproute2 and the right to make a network namespace": "the same right",
    r"\['unshare'.* is not allowed here": "the same right",
    "kubectl is": "it is no Debian package; tests/infra/kustomizing.py renders the same manifests",
}


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Check a test's report, in the process that runs the test."""
    report = yield
    refuse(report)
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Check the report of a module, which can skip as a whole."""
    report = yield
    refuse(report)
    return report


def refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn an unexpected skip into a failure."""
    if os.environ.get("CRASH_TESTS_STRICT") != "1" or not report.skipped or hasattr(report, "wasxfail"):
        return
    assert isinstance(report.longrepr, tuple)
    reason = report.longrepr[2].removeprefix("Skipped: ")
    if not any(re.match(pattern, reason) for pattern in ACCEPTED):
        report.outcome = "failed"
        report.longrepr = (
            f"unexpected skip: {reason}\nInstall what is missing, or add the reason to ACCEPTED in"
            " tests/suite/unexpected_skips.py, or unset CRASH_TESTS_STRICT."
        )
