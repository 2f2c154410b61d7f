"""Check: refuse a model, task or data that cannot be used, before anything is computed."""

from tasks.artifacts.check_facts import write_facts
from tasks.core.compression.settings import Compression
from tasks.data.pass_limits import PassLimit
from tasks.data.sources import TaskSource
from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.models.source import ModelSource


@stage(packages=("transformers", "tokenizers", "lm_eval", "datasets"))
def check(
    work: Work,
    model: ModelSource,
    task: TaskSource,
    *,
    compression: Compression | None = None,
    teacher: ModelSource | None = None,
    text: TaskSource | None = None,
    block: int | None = None,
    limits: tuple[PassLimit, ...] = (),
) -> dict:
    """Check the inputs; return rows of each split, truncated prompts, and inexact operations of the model's family.

    compression: of emulators; teacher, text, block: for their distillation; limits: of single passes.

    Raises:
        InputError: when the model, task or data cannot be used.
    """
    from pathlib import Path

    from tasks.data.checks import check_inputs
    from tasks.data.emulator_checks import check_emulators
    from tasks.models.checks import check_model
    from tasks.models.families.trial import operations_not_exact

    for each in (model, teacher):
        if each is not None:
            check_model(Path(each.path), each.name)
    not_exact = operations_not_exact(model)
    check_emulators(model, compression, teacher, text, block)
    facts = check_inputs(model, task, limits) | ({"not_exact": not_exact} if not_exact else {})
    write_facts(work.out, facts)
    return facts
