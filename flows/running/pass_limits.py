"""The rows that each flow runs in passes of limited size; a row that is too long for a pass is refused at the start."""

from flows.settings.run import Settings
from tasks.core.errors import InputError
from tasks.data.pass_limits import PassLimit

Limits = tuple[PassLimit, ...]
SUPPORT, TUNE, EVALUATE, DISTILL = (f"{group}.max_tokens" for group in ("support", "tune", "evaluate", "distill"))


def run_limits(settings: Settings) -> Limits:
    """Limits of a crash run, which captures, tunes and scores."""
    how = settings.evaluate
    scored = PassLimit(EVALUATE, how.max_tokens, "scored", choices=True, num_fewshot=how.num_fewshot)
    return (*captured(settings), *tuned(settings), scored)


def search_limits(settings: Settings) -> Limits:
    """Limits of a search, which captures, compares emulators on whole rows of the support set, tunes and validates."""
    support = settings.support
    compared = PassLimit(SUPPORT, support.max_tokens, support.split, support.num_rows)
    validated = PassLimit(EVALUATE, settings.evaluate.max_tokens, "validation")
    return (*captured(settings), compared, *tuned(settings), validated)


def check_windows(settings: Settings, context: int) -> None:
    """Refuse windows of generic text that are too long for one pass of distillation.

    Raises:
        InputError: when distill.block is larger than distill.max_tokens.
    """
    distill, block = settings.distill, min(settings.distill.block, context)
    if distill.enabled and block > distill.max_tokens:
        raise InputError(
            f"distill.block = {distill.block} makes windows of {block} tokens, but {DISTILL} = {distill.max_tokens}:"
            " raise it where memory allows, or take shorter windows"
        )


def captured(settings: Settings) -> Limits:
    """Limits of capture, which runs the chosen part of the support rows."""
    support = settings.support
    return (PassLimit(SUPPORT, support.max_tokens, support.split, support.num_rows, support.part),)


def tuned(settings: Settings) -> Limits:
    """Limits of a tuning, which runs every training row and, where it validates, every validation row."""
    most = settings.tune.max_tokens
    checked = (PassLimit(TUNE, most, "validation"),) if settings.tune.eval_steps else ()
    return (PassLimit(TUNE, most, "train"), *checked)
