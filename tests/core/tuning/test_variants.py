"""Tuning variants: what each trains and nothing else, what comes back, and the laws of putting it where it belongs."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from tasks.core.blocks.head import get_head
from tasks.core.blocks.soft_prompt import prompt_ids
from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.lora import insert_lora, linear_modules, live_factors
from tasks.core.tuning.method import TuningMethod
from tasks.core.tuning.parts import is_returned
from tasks.core.tuning.returned import load_parts, plug_in_parts, validate_returned
from tasks.core.tuning.train import TrainResult, train
from tasks.core.tuning.trainable import Trained, TunedBlocks, make_trained
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, WIDTH, tiny_model, token_ids
from tests.core.tuning.test_train import SETTINGS, examples

# Tuned blocks in both halves; repetitions of frozen blocks and frozen copies of tuned ones.
PLAN = fixed_plan(NUM_BLOCKS, (0, 2, 5), (0, 5), "all")
SOME = ["opt", "gpt2", "llama", "gemma3"]
BIASED = ["opt", "gpt2", "bloom", "gpt_neox", "qwen2"]
LORA = TuningMethod("lora", lora_rank=3, lora_alpha=7)
VARIANTS = [
    TuningMethod(trained="frozen"),
    TuningMethod(trained="all"),
    TuningMethod(lm_head=True),
    TuningMethod(freeze_bottom=True),
    LORA,
    replace(LORA, trained="all", lm_head=True),
    TuningMethod("adapter", adapter_size=5),
    TuningMethod("adapter", trained="all", freeze_bottom=True, adapter_size=5),
    TuningMethod("bitfit"),
    TuningMethod("bitfit", trained="frozen"),
    TuningMethod("prompt", prompt_tokens=3),
]
WORDS = [f"{each.method}-{each.trained}{'-head' * each.lm_head}{'-top' * each.freeze_bottom}" for each in VARIANTS]


def cases(*, everywhere: bool = False) -> list[Any]:
    """Every variant on families that have what it trains; factors and adapters everywhere where asked for."""
    found = []
    for variant, words in zip(VARIANTS, WORDS, strict=True):
        families = [*FAMILIES] if everywhere and words in ("lora-tuned", "adapter-tuned") else SOME
        for family in BIASED if variant.method == "bitfit" else families:
            found.append(pytest.param(family, variant, id=f"{family}-{words}"))
    return found


def tuned(family: str, variant: TuningMethod, num_steps: int = 2, **options: Any) -> tuple[Trained, TrainResult]:
    """A trained emulator of a tiny model."""
    trained = make_trained(with_layout(tiny_model(family), PLAN), PLAN, variant, seed=1)
    settings = replace(SETTINGS, num_steps=num_steps)
    return trained, train(trained, examples(), [], settings, **options)


def values(model: nn.Module) -> dict[str, Tensor]:
    """Every tensor of a model at every place where it is, copied."""
    return {name: tensor.detach().clone() for name, tensor in model.named_parameters(remove_duplicate=False)}


@torch.no_grad()
def logits(model: Any) -> Tensor:
    ids, prompt = token_ids(), prompt_ids(model)
    rows = torch.cat([torch.tensor(prompt, dtype=torch.long).expand(len(ids), -1), ids], 1)
    return model.eval()(rows).logits[:, len(prompt) :]


def intended(name: str, variant: TuningMethod) -> bool:
    """Whether a tensor of the emulator, by its path, may change; from the words of the method, not from its code."""
    path = name.split(".")
    if "block" not in path:
        return (variant.lm_head and path[0] == "head") or (variant.method == "prompt" and path[-2] == "soft_prompt")
    source, is_tuned = PLAN.layout[int(path[path.index("block") + 1])]
    if is_tuned:
        chosen = variant.trained != "frozen" and not (variant.freeze_bottom and source < NUM_BLOCKS / 2)
    else:
        chosen = variant.trained != "tuned" and source in PLAN.kept and source not in PLAN.tuned
    marks = {"blocks": True, "lora": "lora_" in name, "adapter": "adapter" in path, "bitfit": path[-1] == "bias"}
    marks["prompt"] = False
    return chosen and marks[variant.method]


def named_by_block(model: Any) -> dict[str, Tensor]:
    """All tensors, as `block.{position}.{name}`, `head.{name}` or `rest.{name}`."""
    blocks = get_blocks(model)
    found = {f"block.{i}.{name}": value for i, block in enumerate(blocks) for name, value in values(block).items()}
    found |= {f"head.{name}": value for name, value in values(get_head(model)).items()}
    inside = {f"{path}." for path, module in model.named_modules() if module is blocks or module is get_head(model)}
    rest = {name: value for name, value in values(model).items() if not name.startswith(tuple(inside))}
    return found | {f"rest.{name}": value for name, value in rest.items()}


@pytest.mark.parametrize(("family", "variant"), cases(everywhere=True))
def test_what_is_intended_changes_and_nothing_else(family: str, variant: TuningMethod) -> None:
    full = tiny_model(family)
    untouched = values(full)
    trained = make_trained(with_layout(full, PLAN), PLAN, variant, seed=1)
    before = named_by_block(trained.model)
    result = train(trained, examples(), [], replace(SETTINGS, num_steps=2))
    after = named_by_block(trained.model)
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    allowed = {name for name in after if intended(name, variant)}
    assert changed <= allowed, sorted(changed - allowed)[:5]
    assert len(changed) > 0.8 * len(allowed) > 0
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in values(full).items()), (
        "the original is as it was"
    )
    assert {tensor.dtype for tensor in result.state.values()} == {torch.float32}
    # Repetitions of a frozen block are one block.
    places = [i for i, (source, is_tuned) in enumerate(PLAN.layout) if source == 2 and not is_tuned]
    assert len(places) > 1
    first = {name: tensor for name, tensor in after.items() if name.startswith(f"block.{places[0]}.")}
    for name, tensor in first.items():
        assert torch.equal(after[name.replace(f"block.{places[0]}.", f"block.{places[1]}.", 1)], tensor), name


@pytest.mark.parametrize(("family", "variant"), cases())
def test_what_was_trained_makes_the_same_emulator_again(family: str, variant: TuningMethod) -> None:
    trained, result = tuned(family, variant)
    again = with_layout(tiny_model(family), PLAN)
    load_parts(again, result.state, PLAN, variant)
    torch.testing.assert_close(logits(again), logits(trained.model), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(logits(again), logits(with_layout(tiny_model(family), PLAN)), atol=1e-3)


@pytest.mark.parametrize(("family", "variant"), cases())
def test_only_what_belongs_to_tuned_blocks_and_head_is_plugged_in(family: str, variant: TuningMethod) -> None:
    _, result = tuned(family, variant)
    full = tiny_model(family)
    before, expected = values(full), logits(full)
    back = {name: tensor for name, tensor in result.state.items() if is_returned(name, PLAN)}
    assert {name.partition(".")[0] for name in back} <= {"0", "5", "lm_head", "prompt"}
    admitted = validate_returned(back, full, PLAN, variant)
    plugged = plug_in_parts(full, admitted, PLAN, variant.admitted)
    assert all(torch.equal(tensor, before[name]) for name, tensor in values(full).items())
    found = values(plugged)
    for index, block in enumerate(get_blocks(full)):
        prefix = next(name for name, module in full.named_modules() if module is block) + "."
        same = all(torch.equal(found[name], before[name]) for name in before if name.startswith(prefix))
        moves = index in variant.returned_sources(PLAN) and variant.method != "adapter"
        assert same != moves, index
    assert torch.equal(logits(plugged), expected) == (not back)
    # What was admitted is admitted again, unchanged: that is what a plug-in hands on.
    again = validate_returned(admitted, full, PLAN, variant.admitted)
    assert again.keys() == admitted.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in admitted.items())


@pytest.mark.parametrize("family", FAMILIES)
def test_factors_that_are_active_equal_factors_that_are_merged(family: str) -> None:
    """Issue C, test 4. Two references: peft's own forward pass, and peft's own merging."""
    _, result = tuned(family, LORA)
    active = tiny_model(family)
    for source in PLAN.tuned:
        block = get_blocks(active)[source]
        insert_lora(block, LORA)
        for name, factor in live_factors(block).items():
            factor.data.copy_(result.state[f"{source}.{name}"])
    full = tiny_model(family)
    merged = plug_in_parts(full, validate_returned(result.state, full, PLAN, LORA), PLAN, LORA.admitted)
    expected = logits(active)
    assert (logits(merged) - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    assert not torch.allclose(logits(merged), logits(full), atol=1e-2), "the factors must matter"
    for source in PLAN.tuned:
        for name, module in get_blocks(active)[source].named_modules():
            if hasattr(module, "lora_A"):
                module.merge()
                own = get_blocks(merged)[source].get_parameter(f"{name}.weight")
                torch.testing.assert_close(own, module.weight, atol=1e-6, rtol=1e-6, msg=name)


@pytest.mark.parametrize("family", FAMILIES)
def test_how_many_parameters_are_trained(family: str) -> None:
    block = get_blocks(tiny_model(family))[0]
    shapes = [module.weight.shape for module in linear_modules(block).values()]
    expected = {
        LORA: 2 * 3 * sum(num_in + num_out for num_in, num_out in shapes),
        TuningMethod("adapter", adapter_size=5): 2 * (2 * 5 * WIDTH + 5 + WIDTH),
        TuningMethod(trained="frozen"): sum(parameter.numel() for parameter in block.parameters()),
        TuningMethod(freeze_bottom=True): sum(parameter.numel() for parameter in block.parameters()),
    }
    for variant, count in expected.items():
        trained, result = tuned(family, variant, num_steps=1)
        assert result.num_parameters == count, variant
        assert sum(parameter.requires_grad for parameter in trained.model.parameters()) == len(trained.parameters())


def test_whole_tuned_blocks_are_what_they_were_before_there_were_variants() -> None:
    assert isinstance(make_trained(with_layout(tiny_model("opt"), PLAN), PLAN, TuningMethod()), TunedBlocks)
    assert TuningMethod(lora_rank=9, adapter_size=9).is_default, "settings of other methods do not count"


@pytest.mark.parametrize("family", FAMILIES)
def test_an_untrained_adapter_changes_no_bit(family: str) -> None:
    trained = make_trained(with_layout(tiny_model(family), PLAN), PLAN, TuningMethod("adapter", trained="all"))
    assert torch.equal(logits(trained.model), logits(with_layout(tiny_model(family), PLAN)))


@pytest.mark.parametrize("family", ["opt", "gpt2", "bloom", "gpt_neo", "llama"])
def test_a_trained_head_leaves_the_embeddings_and_survives_a_plain_folder(family: str, tmp_path: Any) -> None:
    variant = replace(LORA, lm_head=True)
    trained, result = tuned(family, variant)
    full = tiny_model(family)
    assert torch.equal(trained.model.get_input_embeddings().weight, full.get_input_embeddings().weight)
    plugged = plug_in_parts(full, validate_returned(result.state, full, PLAN, variant), PLAN, variant.admitted)
    plugged.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(logits(loaded), logits(plugged))
    assert torch.equal(loaded.get_input_embeddings().weight, full.get_input_embeddings().weight)
    assert torch.equal(get_head(loaded).weight, result.state["lm_head.weight"])


@pytest.mark.parametrize(
    "variant", [LORA, TuningMethod("adapter"), TuningMethod("bitfit", lm_head=True)], ids=lambda v: v.method
)
def test_narrow_computing_keeps_what_is_trained_wide(variant: TuningMethod) -> None:
    trained, result = tuned("opt", variant, num_steps=80, precision="bfloat16")
    chosen = {id(parameter) for parameter in trained.parameters()}
    for name, parameter in trained.model.named_parameters():
        wide = id(parameter) in chosen or parameter.dim() < 2
        assert parameter.dtype == (torch.float32 if wide else torch.bfloat16), name
    assert result.final_loss < tuned("opt", variant, num_steps=1)[1].final_loss


def test_first_values_are_a_function_of_the_seed() -> None:
    states = [make_trained(with_layout(tiny_model("opt"), PLAN), PLAN, LORA, seed=seed).state() for seed in (0, 0, 1)]
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name])
        assert torch.equal(states[0][name], states[2][name]) == name.endswith("lora_B"), name
