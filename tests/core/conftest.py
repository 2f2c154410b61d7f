"""Fixtures of tests of the core."""

from collections.abc import Iterator

import pytest

from tasks.core.costs import workloads


@pytest.fixture
def cheap_passes() -> Iterator[None]:
    """A forward pass costs as little beside its tokens as the rows of a test are short."""
    cached = (workloads.scoring_passes, workloads.sorted_passes, workloads.training_passes)
    with pytest.MonkeyPatch.context() as patch:
        for each in cached:
            each.cache_clear()
        patch.setattr("tasks.core.batching.PASS_COST", 4)
        patch.setattr("tasks.core.evaluation.shared_prompts.PASS_COST", 4)
        yield
    for each in cached:
        each.cache_clear()
