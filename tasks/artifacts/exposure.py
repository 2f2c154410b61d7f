"""Exposure of canaries by a tuning: the artifact of `expose`."""

from typing import TypedDict, cast

from tasks.artifacts.files import HasSummary, JsonFile


class ExposureSummary(TypedDict, total=False):
    """true_positives, area, bits: as `tasks.core.privacy.canaries.Exposure`; num_inside, num_outside: of canaries.

    num_rows: training rows beside the canaries; seconds: of the tuning; dp_epsilon: its epsilon, where there is noise.
    """

    true_positives: float
    area: float
    bits: float
    num_inside: int
    num_outside: int
    num_rows: int
    seconds: float
    dp_epsilon: float


EXPOSURE_FILE = JsonFile("exposure.json", "exposure of canaries", ExposureSummary, indent=1)


def exposure_summary(result: HasSummary) -> ExposureSummary:
    """Return the summary of a result of `expose`, which is what its file has."""
    return cast(ExposureSummary, result.summary)
