"""A tuned lens on disk: one safetensors file that names the model it was trained for, and is refused on any other."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import InputError
from tasks.models.source import ModelSource

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tasks.core.study.lens import Lens

LENS_FILE = "lens.safetensors"
# Key in the file's metadata of the digest of the weights of the lens's model.
DIGEST = "model_weights"


def write_lens(folder: Path, state: "dict[str, Tensor]", model: ModelSource) -> None:
    """Write the lens of a model. state: `weight` [N-1, d, d] and `bias` [N-1, d], float32."""
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    save_file(tensors, folder / LENS_FILE, metadata={DIGEST: model.weights})


def load_lens(folder: Path, model: ModelSource, network: "nn.Module") -> "Lens":
    """Load the lens in a folder onto the device of `network`, which is `model` loaded.

    Raises:
        InputError: when the folder holds no lens, or that of another model.
    """
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
    """Return the tuned lens in a folder, or the logit lens if the folder is None."""
    from tasks.core.study.lens import make_lens

    return make_lens(network).requires_grad_(False) if folder is None else load_lens(folder, model, network)
