"""Finding blocks in known and unknown models, rearranging configs, and refusing what cannot be done right."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, BertConfig, GPT2Config, LlamaConfig, PreTrainedConfig

from tasks.core.blocks.locate_blocks import (
    BLOCK_PATHS,
    block_config,
    final_norm,
    find_blocks,
    get_blocks,
    get_stack,
    require_rebuildable,
)
from tasks.core.blocks.surgery import (
    capture_blocks,
    load_tuned,
    plug_in,
    rearranged,
    tuned_parameters,
    tuned_state,
    with_layout,
)
from tasks.core.errors import InputError
from tasks.core.plan.layout import fixed_plan
from tasks.core.study.lens import read_out
from tests.core.more_families import make_config
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model, token_ids

SIZES = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
PLAN = fixed_plan(NUM_BLOCKS, (0, 1, 3, 4), (0, 3), share="all")


class Home(nn.Module):
    """An unknown model whose modules are `parts`."""

    def __init__(self, num_blocks: int, **parts: nn.Module) -> None:
        super().__init__()
        self.config = PreTrainedConfig(num_hidden_layers=num_blocks)
        for name, part in parts.items():
            self.add_module(name, part)


def linears(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(2, 2) for _ in range(count))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_table_and_the_search_agree(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    path, blocks = find_blocks(model)
    assert path == BLOCK_PATHS[model.config.model_type]
    monkeypatch.setattr("tasks.core.blocks.locate_blocks.BLOCK_PATHS", {})
    assert find_blocks(model) == (path, blocks)
    assert len(blocks) == NUM_BLOCKS


def test_lists_inside_blocks_are_not_blocks() -> None:
    """Three blocks of three experts each: only the outer list counts."""
    blocks = nn.ModuleList(nn.ModuleDict({"experts": linears(3)}) for _ in range(3))
    assert find_blocks(Home(3, layers=blocks)) == ("layers", blocks)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ({}, "found no list of modules"),
        ({"layers": linears(4)}, r"found layers \(4 of Linear\)"),
        ({"a": linears(3), "b": linears(3)}, r"found a \(3 of Linear\), b \(3 of Linear\)"),
        ({"a": nn.ModuleList([nn.Linear(1, 1), nn.GELU(), nn.GELU()])}, r"found a \(3 of GELU and Linear\)"),
    ],
)
def test_an_unknown_model_is_refused_with_what_was_found(parts: dict[str, nn.Module], found: str) -> None:
    with pytest.raises(InputError, match=rf"Home: cannot tell which modules are its 3 blocks.*{found}"):
        get_blocks(Home(3, **parts))


@pytest.mark.filterwarnings("ignore")
def test_an_encoder_is_refused() -> None:
    model = AutoModelForCausalLM.from_config(BertConfig(**SIZES, num_hidden_layers=2))
    with pytest.raises(InputError, match=r"\(bert\) is an encoder model; this method needs a decoder-only"):
        get_blocks(model)


def test_a_model_without_a_known_final_norm_is_refused() -> None:
    with pytest.raises(InputError, match=r"no final norm named norm or ln_f .* among layers, output"):
        final_norm(Home(3, layers=linears(3), output=nn.Linear(2, 2)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("mpt", "norm_f"),
        ("xglm", "layer_norm"),
        ("biogpt", "layer_norm"),
        ("ctrl", "layernorm"),
        ("lfm2", "embedding_norm"),
    ],
)
def test_a_final_norm_of_another_name_is_found_behind_the_blocks(family: str, name: str) -> None:
    model = tiny_model(family)
    assert final_norm(model) is getattr(get_stack(model), name)
    read, ids = read_out(model), token_ids()
    with torch.no_grad(), capture_blocks(model) as run:
        last = run(ids)[-1]
    with torch.no_grad():
        torch.testing.assert_close(read(last[0]), model(ids, use_cache=False).logits[0], atol=1e-4, rtol=1e-4)


def test_a_family_whose_blocks_are_followed_by_nothing_has_no_final_norm() -> None:
    """GPT norms behind the feed-forward part of each block; its blocks return lists."""
    model = tiny_model("openai-gpt")
    assert isinstance(final_norm(model), nn.Identity)
    with torch.no_grad(), capture_blocks(model) as run:
        last = run(token_ids())[-1]
    with torch.no_grad():
        assert torch.equal(last, model.transformer(token_ids()).last_hidden_state)


def test_every_per_block_list_follows_its_block_and_nothing_else_changes() -> None:
    config = FAMILIES["qwen3"]()
    config.eos_token_id = [2, 3, 4, 5, 6, 7]  # six ids, by chance as many as blocks
    config.rates = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
    config.shapes = [1, 2, 3]
    before = config.to_dict()
    sources = (5, 1, 1, 4)
    new = block_config(config, sources)
    assert new.num_hidden_layers == 4
    assert new.layer_types == [config.layer_types[source] for source in sources]
    assert new.rates == (0.5, 0.1, 0.1, 0.4)
    assert config.to_dict() == before
    changed = {name for name in before if new.to_dict()[name] != before[name]}
    assert changed == {"num_hidden_layers", "layer_types", "rates"}


def test_both_lists_of_gpt_neo_stay_consistent() -> None:
    config = block_config(FAMILIES["gpt_neo"](), (1, 3, 3))
    assert config.attention_layers == ["local", "global", "global"]
    assert type(config)(**config.to_dict()).attention_layers == config.attention_layers


@pytest.mark.parametrize("sources", [(), (0, 6), (-1,)])
def test_sources_that_are_no_blocks_are_refused(sources: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="the model has blocks 0 to 5"):
        block_config(LlamaConfig(**SIZES, num_hidden_layers=6), sources)


def test_depth_that_only_construction_knows_is_refused_on_disk_and_right_in_memory() -> None:
    """GPT-2 may scale attention by 1 / (depth + 1), and MiniMax lets attention decay by depth."""
    config = GPT2Config(vocab_size=64, n_embd=32, n_layer=4, n_head=4, scale_attn_by_inverse_layer_idx=True)
    require_rebuildable(config, range(4))
    with pytest.raises(InputError, match=r"gpt2: block 2 cannot run at position 1 of a saved model.*attn.scaling"):
        require_rebuildable(config, (0, 2))
    model = AutoModelForCausalLM.from_config(config).eval()
    block = get_blocks(rearranged(model, [(0, False), (2, False)]))[1]
    assert block.attn.scaling == get_blocks(model)[2].attn.scaling

    decay = make_config("minimax")
    with pytest.raises(InputError, match=r"minimax: block 2 cannot run at position 1 .*num_hidden_layers"):
        require_rebuildable(decay, (1, 2))


@pytest.mark.parametrize(
    ("family", "changes", "sources", "expected"),
    [
        ("qwen2_moe", {"mlp_only_layers": [0]}, (1, 2), {"mlp_only_layers": []}),
        ("qwen2_moe", {"mlp_only_layers": [0, 3]}, (0, 2, 3, 3), {"mlp_only_layers": [0, 2, 3]}),
        ("llama4_text", {"moe_layers": [0, 1, 2, 3]}, (1, 3), {"moe_layers": [0, 1]}),
        ("bamba", {}, (0, 3, 3), {"attn_layer_indices": [1, 2]}),
        ("glm4_moe", {"first_k_dense_replace": 2}, (1, 2, 3), {"first_k_dense_replace": 1}),
        ("deepseek_v3", {}, (1, 3), {}),
        ("ernie4_5_moe", {"moe_layer_end_index": 2}, (1, 3), {"moe_layer_start_index": 0, "moe_layer_end_index": 0}),
        ("recurrent_gemma", {}, (2, 3), {"block_types": ["attention", "recurrent"]}),
    ],
)
def test_kinds_of_block_that_are_named_by_index_follow_their_blocks(
    family: str, changes: dict, sources: tuple[int, ...], expected: dict
) -> None:
    """A mixture of experts may begin with dense blocks, and a hybrid may have attention in some blocks only."""
    config = make_config(family, **changes)
    new = block_config(config, sources)
    assert {name: getattr(new, name) for name in expected} == expected
    require_rebuildable(config, sources)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_rebuilt_from_its_config(family: str) -> None:
    require_rebuildable(FAMILIES[family](), [source for source, _ in PLAN.layout])


def test_a_plan_for_another_model_is_refused() -> None:
    plan = fixed_plan(5, (0, 4), (0,))
    with pytest.raises(InputError, match="the plan is for 5 blocks, the model has 6"):
        with_layout(tiny_model("llama"), plan)


def test_tuned_tensors_round_trip_under_original_indices() -> None:
    model = tiny_model("qwen3")
    emulator, other = with_layout(model, PLAN), with_layout(model, PLAN)
    assert {key.split(".")[0] for key in tuned_state(emulator, PLAN)} == {"0", "3"}
    for parameter in tuned_parameters(emulator, PLAN):
        parameter.data.add_(0.5)
    load_tuned(other, tuned_state(emulator, PLAN), PLAN)
    with torch.no_grad():
        assert torch.equal(other(token_ids()).logits, emulator(token_ids()).logits)
        assert not torch.equal(other(token_ids()).logits, model(token_ids()).logits)
    assert len(tuned_parameters(emulator, PLAN)) == len(tuned_state(emulator, PLAN))


def test_tuned_blocks_come_back_in_the_models_number_format() -> None:
    """Tuned in float32, plugged into bfloat16."""
    model = tiny_model("llama").to(torch.bfloat16)
    state = {key: value.float() for key, value in tuned_state(with_layout(model, PLAN), PLAN).items()}
    plugged = plug_in(model, state, PLAN)
    assert {parameter.dtype for parameter in plugged.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert torch.equal(plugged(token_ids()).logits, model(token_ids()).logits)


def test_tuned_tensors_that_misfit_are_refused_by_name_and_change_nothing() -> None:
    model = tiny_model("llama")
    emulator = with_layout(model, PLAN)
    state = tuned_state(emulator, PLAN)
    name = "3.mlp.up_proj.weight"
    cases = [
        ({key: value for key, value in state.items() if key != name}, rf"1 missing \['{name}'\]"),
        (state | {"1.mlp.up_proj.weight": state[name]}, r"1 unexpected \['1.mlp.up_proj.weight'\]"),
        (state | {name: state[name].T}, rf"1 of another shape \['{name}'\]"),
    ]
    for wrong, message in cases:
        changed = {key: value + 1 for key, value in wrong.items()}
        with pytest.raises(InputError, match=message):
            plug_in(model, changed, PLAN)
        with pytest.raises(InputError, match=message):
            load_tuned(emulator, changed, PLAN)
    with torch.no_grad():
        assert torch.equal(with_layout(model, PLAN)(token_ids()).logits, emulator(token_ids()).logits)
    with pytest.raises(InputError, match="this is not an emulator of the plan: 4 blocks, the plan lays out 6"):
        tuned_state(with_layout(model, fixed_plan(6, (0, 1, 3, 4), (0, 3))), PLAN)
