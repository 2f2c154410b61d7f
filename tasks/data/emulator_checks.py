"""Check the settings of emulators beyond the plan against the model, before anything is computed."""

from pathlib import Path

from tasks.core.compression.settings import Compression
from tasks.core.errors import InputError, in_table
from tasks.data.generic_text import require_long_enough
from tasks.data.sources import TaskSource
from tasks.models.folder import load_config
from tasks.models.source import ModelSource

# Values that a teacher shares with the model: its states and its tokens are compared with the emulator's.
COMMON = {"num_hidden_layers": "blocks", "hidden_size": "wide", "vocab_size": "tokens"}


def check_emulators(
    model: ModelSource,
    compression: Compression | None,
    teacher: ModelSource | None,
    text: TaskSource | None,
    block: int | None,
) -> None:
    """Check the compression, the teacher and the generic text of emulators against the model.

    Raises:
        InputError: when the rank fits no weight, the family has no channels to remove, the teacher has another shape,
            or the text is shorter than one block.
    """
    folder, called = (Path(teacher.path), teacher.name) if teacher else (None, None)
    check_shapes(Path(model.path), compression, folder, called)
    if text is not None:
        assert block is not None, "text is cut into blocks"
        require_long_enough(text, model, block)


def check_shapes(model: Path, compression: Compression | None, teacher: Path | None, called: str | None) -> None:
    """Check what the configs in two folders decide: the rank and the teacher's shape. called: the teacher's name."""
    if compression is not None and compression.rank is not None:
        from tasks.core.blocks.factored import require_rank
        from tasks.core.blocks.feed_forward import factorised_shapes, require_channels

        shapes = factorised_shapes(load_config(model), compression)
        with in_table("compress"):
            require_rank(shapes, compression)
        if compression.method == "gradot":
            require_channels(load_config(model))
    if teacher is not None:
        require_same_shape(model, teacher, called)


def require_same_shape(model: Path, teacher: Path, called: str | None) -> None:
    """Check that two model folders have the same depth, width and vocabulary. called: the teacher's name.

    Raises:
        InputError: when the teacher differs in one of them.
    """
    from tasks.core.blocks.locate_blocks import text_config

    ours, theirs = (text_config(load_config(folder)) for folder in (model, teacher))
    for name, unit in COMMON.items():
        own, other = getattr(ours, name), getattr(theirs, name)
        if own != other:
            raise InputError(
                f"distill.teacher = {called!r} has {name} {other} ({unit}), the model {own}: a teacher needs the"
                " depth, width and vocabulary of the model; leave distill.teacher out to take the model itself"
            )
