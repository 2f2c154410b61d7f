"""Everything about tasks that stages and flows use; nothing heavy is imported until a function runs."""

from tasks.store.checks import check_inputs
from tasks.store.examples import Examples, load_examples
from tasks.store.task_sources import TaskSource, resolve_task

__all__ = ["Examples", "TaskSource", "check_inputs", "load_examples", "resolve_task"]
