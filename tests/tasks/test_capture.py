"""Capture: what the support set is, what is kept of it, and what is counted."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tasks.capture import capture
from tasks.core.errors import InputError
from tasks.data.tokenize import load_examples
from tasks.engine.work import Work
from tasks.models.loading import load_tokenizer
from tasks.models.resolving import resolve_model
from tests.tasks.chain import NUM_BLOCKS, NUM_ROWS, SUPPORT, WIDTH, Chain, people, write_model


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("capture"))


@torch.no_grad()
def last_states(chain: Chain, split: str = "train") -> torch.Tensor:
    """[N + 1, n, d] of the last token, one unpadded row at a time, by the framework's own list (its last is normed)."""
    rows = load_examples(chain.task, split, load_tokenizer(chain.model), chain.model.context).rows
    states = []
    for row in rows:
        ids = torch.tensor([[*row.prompt_ids, *row.answer_ids]])
        hidden = chain.full(ids, output_hidden_states=True).hidden_states
        states.append(torch.stack([state[0, -1] for state in hidden]))
    return torch.stack(states, 1)


def test_what_is_published(chain: Chain) -> None:
    ref = chain.capture()
    tensors = chain.tensors(ref, "states")
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {
        "states": (NUM_BLOCKS + 1, NUM_ROWS, WIDTH),
        "last": (NUM_BLOCKS + 1, NUM_ROWS, WIDTH),
        "block_influence": (NUM_BLOCKS,),
    }
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    torch.testing.assert_close(tensors["last"][:-1], last_states(chain)[:-1], atol=1e-4, rtol=1e-4)
    expected = {"num_blocks": NUM_BLOCKS, "num_rows": NUM_ROWS, "width": WIDTH, "num_truncated": 0}
    assert expected.items() <= ref.summary.items()
    assert {path.name for path in chain.open(ref).iterdir()} == {"states.safetensors", "manifest.json"}


def test_a_second_call_is_a_hit(chain: Chain) -> None:
    first, count = chain.capture(), chain.num_computed
    assert chain.capture() == first
    assert chain.num_computed == count


@pytest.mark.parametrize(
    "change",
    [{"num_rows": 5}, {"split": "validation"}, {"part": "answer"}, {"pooling": "max"}, {"final_norm": True}],
    ids=lambda change: next(iter(change)),
)
def test_every_choice_of_the_support_set_has_its_own_states(chain: Chain, change: dict) -> None:
    first, other = chain.capture(), chain.capture(**change)
    assert first.key != other.key
    states = chain.tensors(other, "states")["states"]
    assert states.shape != (NUM_BLOCKS + 1, NUM_ROWS, WIDTH) or not torch.allclose(
        states, chain.tensors(first, "states")["states"], atol=1e-3
    )


def test_the_final_norm_changes_the_last_state_alone(chain: Chain) -> None:
    raw, normed = (chain.tensors(chain.capture(final_norm=value), "states") for value in (False, True))
    assert torch.equal(raw["states"][:-1], normed["states"][:-1])
    torch.testing.assert_close(normed["last"], last_states(chain), atol=1e-4, rtol=1e-4)


def test_fewer_rows_are_the_first_ones_whatever_the_batches(chain: Chain) -> None:
    five = chain.tensors(chain.capture(num_rows=5, max_tokens=16), "states")
    twelve = chain.tensors(chain.capture(), "states")
    torch.testing.assert_close(five["states"], twelve["states"][:, :5], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(five["last"], twelve["last"][:, :5], atol=1e-5, rtol=1e-4)


def test_rows_that_are_not_there_are_not_counted(chain: Chain) -> None:
    assert chain.capture(num_rows=1000).summary["num_rows"] == NUM_ROWS
    assert chain.capture(num_rows=1000, task=people(num_train=7)).summary["num_rows"] == 7


def test_prompt_and_answer_together_are_all_tokens(chain: Chain) -> None:
    rows = load_examples(chain.task, "train", load_tokenizer(chain.model), chain.model.context).rows
    prompts, answers = sum(len(row.prompt_ids) for row in rows), sum(len(row.answer_ids) for row in rows)
    counts = {part: chain.capture(part=part).summary["num_tokens"] for part in ("prompt", "answer", "prompt+answer")}
    assert counts == {"prompt": prompts, "answer": answers, "prompt+answer": prompts + answers}


def test_a_part_that_does_not_exist_is_refused_and_nothing_is_published(chain: Chain) -> None:
    count = chain.num_artifacts("capture")
    with pytest.raises(InputError, match=r"support\.part = 'question': choose one of prompt\+answer, prompt"):
        chain.capture(part="question")
    assert chain.num_artifacts("capture") == count


def test_a_block_whose_weights_are_broken_is_named_and_nothing_is_published(chain: Chain, tmp_path: Path) -> None:
    full, _ = write_model(tmp_path / "broken")
    with torch.no_grad():
        full.model.decoder.layers[3].fc1.weight[0, 0] = float("nan")
    full.save_pretrained(tmp_path / "broken")
    count = chain.num_artifacts("capture")
    with pytest.raises(InputError, match="output of block 3 holds NaN"):
        chain.capture(model=resolve_model(str(tmp_path / "broken")))
    assert chain.num_artifacts("capture") == count


def test_prompts_beyond_the_context_lose_their_beginning_and_are_counted(chain: Chain, tmp_path: Path) -> None:
    full, short = write_model(tmp_path / "short", max_position_embeddings=8)
    rows = load_examples(chain.task, "train", load_tokenizer(chain.model), 64).rows
    lengths = [row.num_tokens for row in rows]
    assert min(lengths) > 8
    ref = chain.capture(model=short)
    assert (ref.summary["num_truncated"], ref.summary["num_tokens"]) == (NUM_ROWS, 8 * NUM_ROWS)
    assert chain.capture(model=short, num_rows=5).summary["num_truncated"] == 5, "rows that are used"
    ids = torch.tensor([[*row.prompt_ids, *row.answer_ids][-8:] for row in rows])
    with torch.no_grad():
        expected = full(ids, output_hidden_states=True).hidden_states[1][:, -1]
    torch.testing.assert_close(chain.tensors(ref, "states")["last"][1], expected, atol=1e-4, rtol=1e-4)


def test_narrow_computing_gives_nearly_the_same_states_in_float32(chain: Chain) -> None:
    wide, narrow = (chain.tensors(chain.capture(precision=name), "states") for name in ("float32", "bfloat16"))
    assert narrow["states"].dtype == torch.float32
    assert not torch.equal(narrow["states"], wide["states"])
    similar = torch.cosine_similarity(narrow["states"], wide["states"], dim=-1)
    assert similar.min() > 0.99


def test_the_key_knows_the_model_by_its_weights_not_by_its_folder(chain: Chain, tmp_path: Path) -> None:
    _, twin = write_model(tmp_path / "twin")
    first, count = chain.capture(), chain.num_computed
    assert chain.capture(model=twin) == first
    assert chain.num_computed == count
    _, other = write_model(tmp_path / "other", init_std=0.1)
    assert capture.key(model=other, task=chain.task, **SUPPORT)[0] != first.key


def test_with_blocks_loaded_one_at_a_time_the_artifact_is_the_same(
    chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = chain.tensors(chain.capture(), "states")
    for name in ("out", "scratch"):
        (tmp_path / name).mkdir()
    work = Work(tmp_path / "out", tmp_path / "scratch", chain.store, streamed=True)
    monkeypatch.setattr("tasks.models.loading.load_model", None)
    summary = capture.compute(work, chain.model, chain.task, **SUPPORT)
    assert summary["num_blocks"] == NUM_BLOCKS
    found = load_file(tmp_path / "out" / "states.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_run_that_is_told_to_loads_blocks_one_at_a_time(chain: Chain, tmp_path: Path) -> None:
    other = Chain(tmp_path)
    other.runtime = other.runtime.model_copy(update={"stream_blocks": "always"})
    assert other.capture().digest == chain.capture().digest
