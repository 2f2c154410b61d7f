"""A tuned lens on disk: one safetensors file that names the model it was trained for, and is refused on any other."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.core.study.lens import Lens

LENS_FILE = "lens.safetensors"
CURVES_FILE = "curves.safetensors"
# In the file's metadata: the digest of the weights of the model that the lens reads.
DIGEST = "model_weights"


def write_lens(folder: Path, state: "dict[str, Tensor]", model: ModelSource) -> None:
    """state: `weight` [N-1, d, d] and `bias` [N-1, d], float32."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / LENS_FILE, metadata={DIGEST: model.weights})


def load_lens(folder: Path, model: ModelSource, network: "nn.Module") -> "Lens":
    """The lens in a folder, on the device of `network`, which is `model` loaded. InputError if it is of another one."""
    from safetensors import safe_open

    from tasks.core.study.lens import make_lens
    from tasks.core.study.lens_training import load_state

    file = folder / LENS_FILE
    if not file.is_file():
        raise InputError(f"{folder} holds no tuned lens: it has no {LENS_FILE}; train one with the stage lens")
    with safe_open(file, framework="pt") as reader:
        trained_for = (reader.metadata() or {}).get(DIGEST)
        if trained_for != model.weights:
            raise InputError(
                f"the tuned lens in {folder} was trained for a model with weights {str(trained_for)[:12]}, {model.name}"
                f" has {model.weights[:12]}: train a lens for this model, or use the logit lens"
            )
        state = {name: reader.get_tensor(name) for name in reader.keys()}  # noqa: SIM118 (no mapping)
    lens = make_lens(network)
    load_state(lens, state)
    return lens.requires_grad_(False)


def chosen_lens(folder: Path | None, model: ModelSource, network: "nn.Module") -> "Lens":
    """The tuned lens in a folder, or without one the logit lens."""
    from tasks.core.study.lens import make_lens

    return make_lens(network).requires_grad_(False) if folder is None else load_lens(folder, model, network)
