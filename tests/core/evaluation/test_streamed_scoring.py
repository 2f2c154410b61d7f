"""Scores of a model whose blocks are on disk are those of the model in memory, bit for bit."""

import pytest

from tasks.core.errors import InputError
from tasks.core.evaluation.likelihoods import score_tokens
from tests.core.blocks.test_streaming import on_disk
from tests.core.evaluation.test_shared_prompts import CONTEXT, some_requests
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_no_number_differs(family: str) -> None:
    model, requests = tiny_model(family), some_requests()
    emptied, tensors = on_disk(model)
    expected = score_tokens(model, requests, CONTEXT, 60, share_prompts=False)
    assert score_tokens(emptied, requests, CONTEXT, 60, tensors=tensors) == expected


def test_blocks_are_read_once_for_all_passes_whose_states_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, requests = tiny_model("llama"), some_requests()
    emptied, tensors = on_disk(model)
    expected = score_tokens(model, requests, CONTEXT, 60, share_prompts=False)
    seen: list[list[int]] = []
    progress = lambda blocks, description: seen.append(list(blocks)) or iter(blocks)  # noqa: E731
    for most, reads in ((4 << 30, 1), (1, None)):
        seen.clear()
        tensors.asked.clear()
        monkeypatch.setattr("tasks.core.evaluation.scoring_states.MAX_BYTES", most)
        assert score_tokens(emptied, requests, CONTEXT, 60, progress, tensors=tensors) == expected
        assert seen == [list(range(NUM_BLOCKS))] * (reads or len(seen))
        assert len(tensors.asked) == len(seen) * len(tensors)
    assert len(seen) > 3, "each pass alone"


def test_requests_without_tokens_are_refused_as_always() -> None:
    emptied, tensors = on_disk(tiny_model("llama"))
    with pytest.raises(InputError, match="no token to score"):
        score_tokens(emptied, [((1, 2), ())], CONTEXT, 60, tensors=tensors)
