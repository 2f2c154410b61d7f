"""Tuning variants through the stages: what is written, killed and resumed, plugged in, exported and scored."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.core.blocks.surgery import get_blocks, with_layout
from tasks.core.errors import InputError
from tasks.core.evaluation.likelihoods import score_tokens
from tasks.core.tuning.method import TuningMethod
from tasks.core.tuning.returned import load_parts, plug_in_parts, validate_returned
from tasks.engine.runtime import Runtime
from tasks.evaluate import evaluate
from tasks.models.tuned_blocks import read_returned
from tasks.models.variants import load_variant, open_variant
from tasks.plug_in import plug_in
from tasks.store.artifacts import Ref, Store
from tasks.tune import tune
from tasks.validate import validate
from tests.tasks.chain import NUM_BLOCKS, Chain, logits, plain
from tests.tasks.test_tune import LONG, disturb

LORA = TuningMethod("lora", lora_rank=2)
EVERYTHING = TuningMethod("lora", trained="all", lm_head=True)
VARIANTS = [
    LORA,
    EVERYTHING,
    TuningMethod("adapter", adapter_size=4),
    TuningMethod("adapter", trained="all", lm_head=True, adapter_size=4),
    TuningMethod("bitfit"),
    TuningMethod("prompt", prompt_tokens=4),
    TuningMethod(trained="frozen"),
    TuningMethod(trained="all", lm_head=True),
]
each_variant = pytest.mark.parametrize(
    "variant", VARIANTS, ids=lambda v: f"{v.method}-{v.trained}{'-head' * v.lm_head}"
)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(tmp_path_factory.mktemp("variants"))


def tuned(chain: Chain, variant: TuningMethod, **changes: Any) -> Ref:
    return tune.run(chain.runtime, **chain.tuning(**{"learning_rate": 1e-2} | changes), variant=variant)


def plugged(chain: Chain, ref: Ref, **options: Any) -> Ref:
    return plug_in.run(chain.runtime, model=chain.model, plan=chain.plan, tuned=ref, **options)


def scored(chain: Chain, tmp_path: Path, ref: Ref | None, emulator: Ref | None = None) -> torch.Tensor:
    """Logits of what `evaluate` scores."""
    folders = [chain.store.open(each) if each else None for each in (emulator, ref)]
    return logits(load_variant(chain.model, *folders, "float32"))


@each_variant
def test_what_is_scored_is_what_was_tuned(chain: Chain, tmp_path: Path, variant: TuningMethod) -> None:
    ref, how = tuned(chain, variant), chain.read_plan(chain.plan)
    state = read_returned(chain.open(ref))
    emulator = with_layout(plain(Path(chain.model.path)), how)
    load_parts(emulator, state.tuned | state.kept, how, variant)
    expected = logits(emulator)
    assert torch.equal(scored(chain, tmp_path, ref, chain.emulate(chain.plan)), expected)
    merged = plug_in_parts(chain.full, validate_returned(state.tuned, chain.full, how, variant), how, variant.admitted)
    back = plugged(chain, ref)
    assert torch.equal(scored(chain, tmp_path, back), logits(merged))
    assert torch.equal(logits(merged), logits(chain.full)) == (variant.trained == "frozen")
    assert not torch.equal(expected, scored(chain, tmp_path, None, chain.emulate(chain.plan)))
    assert read_returned(chain.open(back)).variant == variant.admitted


@each_variant
def test_only_what_goes_back_is_in_the_file_that_goes_back(chain: Chain, variant: TuningMethod) -> None:
    ref, how = tuned(chain, variant), chain.read_plan(chain.plan)
    folder = chain.open(ref)
    names = {name.partition(".")[0] for name in load_file(folder / "tuned.safetensors")}
    is_inside = variant.method != "prompt" and variant.trained != "frozen"
    blocks = {str(index) for index in variant.returned_sources(how)}
    assert blocks == ({str(index) for index in how.tuned} if is_inside else set())
    others = {"lm_head"} if variant.lm_head else {"prompt"} if variant.method == "prompt" else set()
    assert names == blocks | others
    stays = folder / "emulator.safetensors"
    assert stays.exists() == (variant.trained != "tuned")
    if stays.exists():
        found = {int(name.partition(".")[0]) for name in load_file(stays)}
        assert found == set(how.kept) - set(how.tuned)
    assert TuningMethod.from_json((folder / "variant.json").read_text()).cache_view() == variant.cache_view()


def test_a_plan_that_leaves_nothing_to_train_is_refused_by_the_settings_names(chain: Chain) -> None:
    low = chain.cluster(strategy="fixed", num_blocks=NUM_BLOCKS, kept=(0, 1, 5), tuned=(0, 1))
    given = chain.tuning() | {"plan": low, "emulator": chain.emulate(low)}
    with pytest.raises(InputError, match=r"tune\.freeze_bottom leaves nothing to train.*tune\.lm_head"):
        tune.run(chain.runtime, **given, variant=TuningMethod(freeze_bottom=True))


def test_factors_are_small(chain: Chain) -> None:
    size = {
        name: (chain.open(ref) / "tuned.safetensors").stat().st_size
        for name, ref in (("lora", tuned(chain, LORA)), ("blocks", chain.tune(learning_rate=1e-2)))
    }
    assert size["lora"] < 0.4 * size["blocks"]
    assert tuned(chain, LORA).summary["num_parameters"] == sum(
        tensor.numel() for tensor in chain.tensors(tuned(chain, LORA), "tuned").values()
    )


@pytest.mark.parametrize("variant", [EVERYTHING, TuningMethod("bitfit"), TuningMethod(trained="frozen")], ids=str)
def test_an_exported_model_is_what_is_scored(chain: Chain, tmp_path: Path, variant: TuningMethod) -> None:
    ref = tuned(chain, variant)
    folder = chain.open(plugged(chain, ref, export=True)) / "model"
    assert torch.equal(logits(plain(folder)), scored(chain, tmp_path, plugged(chain, ref)))


@pytest.mark.parametrize("method", ["adapter", "prompt"])
def test_adapters_and_prompts_cannot_be_exported(chain: Chain, method: Any) -> None:
    with pytest.raises(InputError, match=f"a Hugging Face folder cannot hold what tune.method = '{method}' trains"):
        plugged(chain, tuned(chain, TuningMethod(method)), export=True)


def test_a_prompt_stands_in_front_of_what_is_scored(chain: Chain, tmp_path: Path) -> None:
    """In the emulator it was trained in, in the full model, and where blocks are on disk."""
    ref = tuned(chain, TuningMethod("prompt", prompt_tokens=4), learning_rate=0.3)
    given = {"model": chain.model, "task": chain.task}
    for emulator, blocks in ((chain.emulate(chain.plan), ref), (None, plugged(chain, ref))):
        found = validate.run(chain.runtime, **given, emulator=emulator, tuned=blocks)
        plainly = validate.run(chain.runtime, **given, emulator=emulator)
        assert found.summary["loss"] != pytest.approx(plainly.summary["loss"], rel=1e-3)
        assert evaluate.run(chain.runtime, **given, emulator=emulator, tuned=blocks).summary["num_rows"] == 6
    folders = [None, chain.open(plugged(chain, ref))]
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    requests = [((5, 6, 7), (8, 9)), ((5, 6), (10,))]
    whole = score_tokens(load_variant(chain.model, *folders, "float32"), requests, 64, 256)
    with open_variant(chain.model, *folders, "float32", "cpu", scratch) as (variant, tensors):
        streamed = score_tokens(variant, requests, 64, 256, tensors=tensors)
    assert [value for value, _ in streamed] == pytest.approx([value for value, _ in whole], abs=1e-4)
    emulated = validate.run(chain.runtime, **given, emulator=chain.emulate(chain.plan), tuned=ref)
    zero_shot = validate.run(chain.runtime, **given, emulator=chain.emulate(chain.plan))
    assert emulated.summary["loss"] < zero_shot.summary["loss"]


def test_the_whole_model_can_be_tuned_by_factors(chain: Chain, tmp_path: Path) -> None:
    arguments = chain.tuning(learning_rate=1e-2) | {"plan": chain.every, "emulator": None}
    ref = tune.run(chain.runtime, **arguments, model=chain.model, variant=LORA)
    state, how = chain.tensors(ref, "tuned"), chain.read_plan(chain.every)
    expected = plug_in_parts(chain.full, validate_returned(state, chain.full, how, LORA), how, LORA.admitted)
    assert torch.equal(scored(chain, tmp_path, ref), logits(expected))
    assert len(get_blocks(chain.full)) == len({name.partition(".")[0] for name in state})


def test_killed_in_the_middle_factors_end_with_the_same_digest(chain: Chain, tmp_path: Path) -> None:
    undisturbed = tuned(chain, EVERYTHING, **LONG)
    shutil.copytree(chain.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("tune"))
    elsewhere = Runtime(store=str(tmp_path / "store"), run_id=str(tmp_path))
    arguments = chain.tuning(learning_rate=1e-2, **LONG) | {"variant": EVERYTHING}
    disturb(elsewhere, arguments, signal.SIGKILL)
    assert list((tmp_path / "store").glob("work/*/checkpoint.safetensors"))
    ref = tune.run(elsewhere, **arguments)
    assert ref.digest == undisturbed.digest
    assert Store(tmp_path / "store").open(ref)


def test_what_was_changed_on_its_way_is_refused(chain: Chain, tmp_path: Path) -> None:
    state = read_returned(chain.open(tuned(chain, LORA)))
    name = next(iter(state.tuned))
    for tensors, message in (
        (state.tuned | {name: state.tuned[name][:1].contiguous()}, "expected shape"),
        (state.tuned | {name: state.tuned[name] / 0}, "not finite"),
        ({key: value for key, value in state.tuned.items() if key != name}, "lack 1 tensors"),
    ):
        save_file(tensors, tmp_path / "tuned.safetensors")
        with pytest.raises(InputError, match=message):
            validate_returned(load_file(tmp_path / "tuned.safetensors"), chain.full, state.plan, state.variant)


def test_what_matters_is_in_the_key_and_nothing_else(chain: Chain) -> None:
    arguments = chain.tuning()
    plainly = tune.key(**arguments)[0]
    assert tune.key(**arguments, variant=TuningMethod(lora_rank=9, lora_dropout=0.5, adapter_size=9))[0] == plainly
    settings = replace(arguments["settings"], gradient_checkpointing=True)
    assert tune.key(**arguments | {"settings": settings})[0] == plainly
    different = [TuningMethod(method) for method in ("lora", "adapter", "bitfit", "prompt")]
    different += [
        TuningMethod("lora", lora_rank=9),
        TuningMethod(lm_head=True),
        TuningMethod(trained="all"),
        TuningMethod(freeze_bottom=True),
    ]
    assert len({tune.key(**arguments, variant=variant)[0] for variant in different} | {plainly}) == 9
