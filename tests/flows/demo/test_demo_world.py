"""The demo's world, task, tokenizer, network and shipped model."""

import json
import random
from itertools import islice
from pathlib import Path

import pytest

from flows.demo import questions, world
from flows.demo.words import QUESTION_FORM, QUESTIONS, TEMPLATES, VALUES

DEMO = Path(world.__file__).parent
MODEL, TASK = DEMO / "model", DEMO / "task"
SPLITS = {"train": (720, 120), "validation": (120, 20), "test": (480, 80)}


@pytest.fixture(scope="module")
def training() -> dict:
    return json.loads((MODEL / "training.json").read_text(encoding="utf-8"))


def shipped_rows(split: str) -> list[dict]:
    return [json.loads(line) for line in (TASK / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def names_in(rows: list[dict], people: list[world.Person]) -> set[str]:
    text = "\n".join(row["question"] for row in rows)
    return {person.name for person in people if person.name in text}


def test_the_shipped_rows_are_those_of_the_shipped_models_world(training: dict, tmp_path: Path) -> None:
    questions.write_task(training["seed"], tmp_path)
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (TASK / f"{split}.jsonl").read_bytes()


def test_another_seed_is_another_world(training: dict) -> None:
    assert questions.task_rows(training["seed"] + 1)["test"] != shipped_rows("test")


@pytest.mark.parametrize("split", SPLITS)
def test_a_split_asks_all_facts_of_its_people_and_nobody_elses(training: dict, split: str) -> None:
    num_rows, num_people = SPLITS[split]
    people = world.make_people(training["seed"])
    rows = shipped_rows(split)
    assert len(rows) == num_rows
    names = names_in(rows, people)
    assert len(names) == num_people
    for other in SPLITS.keys() - {split}:
        assert not names & names_in(shipped_rows(other), people)


def test_labels_are_the_truth_and_choices_are_distinct_values_of_one_attribute(training: dict) -> None:
    facts = {
        form.format(name=person.name): person.values[attribute]
        for person in world.make_people(training["seed"])
        for attribute, forms in QUESTIONS.items()
        for form in forms
    }
    for row in (row for split in SPLITS for row in shipped_rows(split)):
        assert row["choices"][row["label"]] == facts[row["question"]]
        assert len(set(row["choices"])) == 16
        assert any(set(row["choices"]) <= set(values) for values in VALUES.values())


def test_the_true_choice_stands_anywhere() -> None:
    labels = [row["label"] for row in shipped_rows("train")]
    assert set(labels) == set(range(16))
    assert max(labels.count(label) for label in range(16)) < 720 / 16 * 2


def test_the_form_of_a_question_never_occurs_in_a_biography() -> None:
    words = {word for templates in TEMPLATES.values() for template in templates for word in template.split()}
    assert not words & set(QUESTION_FORM)
    numbers = random.Random(0)
    for person in world.make_people(seed=5):
        assert not set(QUESTION_FORM) & set(world.biography(person, numbers))
    for forms in QUESTIONS.values():
        assert all(form.split()[0] in QUESTION_FORM and form.endswith(" ?") for form in forms)


def test_biographies_state_the_truth_with_the_full_name_in_every_sentence() -> None:
    person = world.make_people(seed=5)[0]
    wrong = {value for values in VALUES.values() for value in values} - set(person.values.values())
    numbers = random.Random(0)
    num_facts = set()
    for _ in range(100):
        words = world.biography(person, numbers)
        sentences = " ".join(words).removesuffix(" .").split(" . ")
        assert all(person.name in sentence for sentence in sentences)
        assert not wrong & set(words)
        num_facts.add(len(sentences))
    assert num_facts == {2, 3, 4, 6}


def test_the_token_stream_separates_biographies_and_knows_every_word() -> None:
    ids = world.vocabulary()
    stream = list(islice(world.biography_tokens(world.make_people(5), random.Random(0)), 5000))
    assert stream[0] == ids[world.END_OF_TEXT]
    assert stream.count(ids[world.END_OF_TEXT]) > 50
    assert not {ids[world.PAD], ids[world.UNKNOWN]} & set(stream)
    again = list(islice(world.biography_tokens(world.make_people(5), random.Random(0)), 5000))
    assert stream == again


def test_a_value_is_one_token_and_a_question_has_the_same_tokens_alone_and_with_its_answer() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    ids = world.vocabulary()
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (ids[world.PAD], ids[world.END_OF_TEXT])
    for row in shipped_rows("test"):
        context = f"Question : {row['question']} Answer :"
        context_ids = tokenizer.encode(context)
        assert context_ids == [ids[word] for word in context.split()]
        for choice in row["choices"]:
            assert tokenizer.encode(f"{context} {choice}") == [*context_ids, ids[choice]]


def test_the_shipped_model_is_small_loads_by_stock_means_and_recalls_its_world(training: dict) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from flows.demo.pretrain import recall

    assert sum(path.stat().st_size for path in MODEL.iterdir()) <= 6_000_000
    model = AutoModelForCausalLM.from_pretrained(MODEL)
    assert model.dtype == torch.float32
    assert model.config.num_hidden_layers == 12
    assert training["recall"] == 1.0
    assert recall(model, world.make_people(training["seed"])[-30:]) == 1.0
    assert recall(model, world.make_people(training["seed"] + 1)[:30]) < 0.5


def test_the_recipe_drops_upper_blocks_only() -> None:
    from flows.demo.pretrain import Recipe

    drop = [Recipe().drop_probability(block, 12) for block in range(12)]
    assert drop == pytest.approx([0, 0, 0, 0, 0, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    rates = [Recipe().rate(step) for step in (0, 99, 1439, 1920, 2399)]
    assert rates == pytest.approx([1.5e-5, 1.5e-3, 1.5e-3, 7.5e-4, 3e-5])


def test_the_plain_network_computes_what_its_opt_copy_computes() -> None:
    import torch

    from flows.demo.network import Network, NetworkSize, to_opt

    torch.manual_seed(0)
    network = Network(NetworkSize(vocabulary=31, blocks=3, hidden=16, feed_forward=24, heads=2, positions=8))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    ids = torch.randint(3, 31, (4, 8))
    with torch.no_grad():
        torch.testing.assert_close(network(ids), to_opt(network, 0, 1)(input_ids=ids).logits, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(network(ids), network(ids, [0, 2]))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_pretraining_a_tiny_model_is_repeatable(tmp_path: Path, precision: str) -> None:
    from safetensors.torch import load_file

    from flows.demo.network import NetworkSize
    from flows.demo.pretrain import Recipe, pretrain

    size = NetworkSize(vocabulary=len(world.vocabulary()), blocks=2, hidden=16, feed_forward=16, heads=2)
    recipe = Recipe(num_steps=3, batch_size=2, warmup_steps=1)
    report = pretrain(7, tmp_path / "a", size, recipe, precision)
    assert pretrain(7, tmp_path / "b", size, recipe, precision)["final_loss"] == report["final_loss"]
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all((one[name] == two[name]).all() for name in one)
    assert json.loads((tmp_path / "a" / "training.json").read_text(encoding="utf-8"))["num_tokens"] == 3 * 2 * 64
