"""Weights between models: exact at the models, linear between them, and only where they differ."""

import pytest
import torch
from torch import nn

from tasks.core.blocks.head import untie_head
from tasks.core.blocks.locate_blocks import find_blocks, get_blocks
from tasks.core.blocks.surgery import aliased
from tasks.core.errors import InputError
from tasks.core.study.interpolation import Mixture, differences, geometry, parameters_of, projected
from tests.core.tiny_models import FAMILIES, NUM_BLOCKS, tiny_model, token_ids


def tuned(model: nn.Module, blocks: list[int], seed: int, step: float = 0.1) -> nn.Module:
    """A copy of the model with these blocks moved at random."""
    generator = torch.Generator().manual_seed(seed)
    made = aliased(model)
    for index in blocks:
        block = get_blocks(made)[index]
        for name, parameter in list(block.named_parameters()):
            path, _, leaf = name.rpartition(".")
            value = (parameter + step * torch.randn(parameter.shape, generator=generator)).to(parameter.dtype)
            setattr(block.get_submodule(path), leaf, nn.Parameter(value.detach(), requires_grad=False))
    return made


def equal_weights(left: nn.Module, right: nn.Module) -> bool:
    own, theirs = parameters_of(left), parameters_of(right)
    return own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)


@torch.inference_mode()
def logits(model: nn.Module) -> torch.Tensor:
    return model(token_ids(), use_cache=False).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_end_points_are_the_models_bit_for_bit(family: str) -> None:
    model = tiny_model(family)
    models = [model, tuned(model, [1, 4], 1), tuned(model, [2, 4], 2)]
    first, second = (differences(model, other, "x") for other in models[1:])
    mixture = Mixture(model, {}, [first, second])
    others = Mixture(model, first, [{}, second])
    assert mixture.changed_blocks == others.changed_blocks == [1, 2, 4]
    places = [(0, 0), (1, 0), (0, 1)]
    # On the way back too: nothing is left of where the weights have been.
    for place in [*places, (0.3, -2.0), *reversed(places), (5.1, 0.7), *places]:
        mixture.set(place)
        others.set(place)
        if place in places:
            expected = models[places.index(place)]
            assert equal_weights(mixture.model, expected)
            assert torch.equal(logits(mixture.model), logits(expected))
            moved = {(0, 0): models[1], (1, 0): model, (0, 1): models[2]}[place]
            assert equal_weights(others.model, moved)
    assert equal_weights(model, tiny_model(family))


def test_between_the_models_the_weights_are_linear() -> None:
    model = tiny_model("llama")
    first, second = (differences(model, tuned(model, blocks, 3), "x") for blocks in ([1, 2], [2, 5]))
    mixture = Mixture(model, {}, [first, second])
    mixture.set((0.25, -1.5))
    own, base = parameters_of(mixture.model), parameters_of(model)
    for name, value in own.items():
        wide = base[name].double()
        expected = wide + 0.25 * (first.get(name, wide) - wide) - 1.5 * (second.get(name, wide) - wide)
        torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
        # What no point changes is not even a copy.
        assert (value.data_ptr() == base[name].data_ptr()) == (name not in first and name not in second)


@pytest.mark.parametrize("family", ["gpt2", "qwen3", "bloom"])
def test_filter_normalised_directions_have_the_norms_of_the_origin(family: str) -> None:
    model = tiny_model(family)
    mixture = Mixture(model, {}, [differences(model, tuned(model, [1, 4], 1, step=0.01), "x")], "filter")
    path, blocks = find_blocks(model)
    for index in (1, 4):
        moved = 0.0
        for name, parameter in blocks[index].named_parameters():
            direction = mixture.direction(0, f"{path}.{index}.{name}")
            moved += float(direction.square().sum())
            if parameter.dim() == 2:
                # One output at a time: GPT-2 keeps them in columns.
                within = 0 if family == "gpt2" else 1
                wanted = parameter.detach().double().norm(dim=within)
                torch.testing.assert_close(direction.norm(dim=within), wanted, rtol=1e-5, atol=0)
        own = sum(float(parameter.detach().double().square().sum()) for parameter in blocks[index].parameters())
        assert moved == pytest.approx(own, rel=1e-6)
    mixture.set((0.0,))
    assert equal_weights(mixture.model, model)
    mixture.set((1.0,))
    assert not equal_weights(mixture.model, tuned(model, [1, 4], 1, step=0.01))


def test_a_filter_that_did_not_move_stays() -> None:
    model = tiny_model("llama")
    other = tuned(model, [2], 1)
    with torch.no_grad():
        get_blocks(other)[2].mlp.up_proj.weight[3] = get_blocks(model)[2].mlp.up_proj.weight[3]
    name = "model.layers.2.mlp.up_proj.weight"
    direction = Mixture(model, {}, [differences(model, other, "x")], "filter").direction(0, name)
    assert direction[3].abs().max() == 0
    assert direction[4].abs().max() > 0


def test_first_blocks_and_heads() -> None:
    model = tiny_model("opt")
    with_head = tuned(model, [3], 1)
    untied = aliased(model)
    untie_head(untied)
    untie_head(with_head)
    with torch.no_grad():
        with_head.lm_head.weight += 0.1
    mixture = Mixture(untied, {}, [differences(untied, with_head, "x"), {}])
    assert (mixture.first_block(0), mixture.first_block(1)) == (3, NUM_BLOCKS)
    # The head is tied in the initial model: its own copy moves, the embeddings stay.
    head = Mixture(model, {}, [{"lm_head.weight": with_head.lm_head.weight.detach()}])
    assert head.first_block(0) == NUM_BLOCKS
    head.set((1.0,))
    assert torch.equal(head.model.lm_head.weight, with_head.lm_head.weight)
    assert torch.equal(head.model.get_input_embeddings().weight, model.get_input_embeddings().weight)
    embeddings = {"model.decoder.embed_tokens.weight": torch.zeros(64, 32)}
    assert Mixture(model, {}, [embeddings]).first_block(0) == 0


def test_narrow_formats_are_rounded_once() -> None:
    model = tiny_model("llama").to(torch.bfloat16)
    end = differences(model, tuned(model, [0], 1), "x")
    mixture = Mixture(model, {}, [end])
    mixture.set((0.3,))
    name = "model.layers.0.mlp.up_proj.weight"
    exact = 0.7 * parameters_of(model)[name].float() + 0.3 * end[name].float()
    assert torch.equal(parameters_of(mixture.model)[name], exact.to(torch.bfloat16))
    mixture.set((1.0,))
    assert torch.equal(parameters_of(mixture.model)[name], end[name])


def test_where_a_model_lies_in_a_plane() -> None:
    model = tiny_model("llama")
    first, second = (differences(model, tuned(model, [1, 3], seed), "x") for seed in (1, 2))
    mixture = Mixture(model, {}, [first, second])
    found = geometry(mixture, ["o", "a", "b"])
    assert abs(found.cosine) < 0.2
    for point, place in [({}, (0, 0)), (first, (1, 0)), (second, (0, 1))]:
        assert projected(mixture, point, found, model) == pytest.approx((*place, 0), abs=1e-5)
    base = parameters_of(model)
    middle = {name: base[name] + 0.5 * (first[name] - base[name]) + 0.25 * (second[name] - base[name]) for name in base
              if name in first}  # fmt: skip
    assert projected(mixture, middle, found, model) == pytest.approx((0.5, 0.25, 0), abs=1e-3)
    outside = differences(model, tuned(model, [1, 3], 9), "x")
    assert projected(mixture, outside, found, model)[2] == pytest.approx(1, abs=0.05)


def test_bad_input() -> None:
    model = tiny_model("llama")
    end = differences(model, tuned(model, [1], 1), "x")
    base = parameters_of(model)
    twice = {name: base[name] + 2 * (tensor - base[name]) for name, tensor in end.items()}
    with pytest.raises(InputError, match="'o', 'a', 'b' lie on one line"):
        geometry(Mixture(model, {}, [end, twice]), ["o", "a", "b"])
    with pytest.raises(InputError, match="lie on one line"):
        geometry(Mixture(model, {}, [end, {}]), ["o", "a", "b"])
    with pytest.raises(InputError, match="'run 2' is another kind of model"):
        differences(model, tiny_model("qwen3"), "run 2")
    narrow = aliased(model)
    narrow.lm_head = nn.Linear(16, 64, bias=False)
    with pytest.raises(InputError, match=r"'run 2' has another width: lm_head.weight is \(64, 16\), .* \(64, 32\)"):
        differences(model, narrow, "run 2")
    broken = tuned(model, [2], 1)
    with torch.no_grad():
        get_blocks(broken)[2].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"'run 2': model.layers.2.mlp.up_proj.weight has values that are not finite"):
        differences(model, broken, "run 2")
    with pytest.raises(InputError, match="choose from raw, filter"):
        Mixture(model, {}, [end], "random")  # type: ignore[arg-type]
