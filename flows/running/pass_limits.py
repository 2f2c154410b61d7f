"""The rows that each flow runs in passes of limited size; a row that is too long for a pass is refused at the start."""

from flows.settings.kinds import EmulateSettings
from flows.settings.run import Settings
from tasks.core.errors import InputError
from tasks.data.pass_limits import PassLimit
from tasks.data.sources import Split

Limits = tuple[PassLimit, ...]
GROUPS = ("support", "tune", "evaluate", "distill", "harmonizers")
SUPPORT, TUNE, EVALUATE, DISTILL, HARMONIZERS = (f"{group}.max_tokens" for group in GROUPS)


def run_limits(settings: Settings) -> Limits:
    """Limits of a crash run, which captures, tunes and scores."""
    return (*captured(settings), *_compressed(settings), *tuned(settings), *scored(settings))


def audit_limits(settings: Settings) -> Limits:
    """Limits of an audit, which captures and scores."""
    return (*captured(settings), *_compressed(settings), *scored(settings))


def emulate_limits(settings: EmulateSettings) -> Limits:
    """Limits of the model owner, who captures and scores, and may tune on own rows."""
    own = tuned(settings) if settings.exchange.reference else ()
    return (*audit_limits(settings), *own)


def tune_limits(settings: Settings) -> Limits:
    """Limits of the data owner, who tunes and scores."""
    return (*tuned(settings), *scored(settings))


def plug_in_limits(settings: EmulateSettings) -> Limits:
    """Limits of the model owner, who scores, and may make the emulator again and tune it."""
    return emulate_limits(settings) if settings.exchange.reference else scored(settings)


def search_limits(settings: Settings) -> Limits:
    """Limits of a search, which captures, compares emulators on whole rows of the support set, tunes and validates."""
    support = settings.support
    compared = PassLimit(SUPPORT, support.max_tokens, support.split, support.num_rows)
    validated = PassLimit(EVALUATE, settings.evaluate.max_tokens, "validation")
    return (*captured(settings), compared, *tuned(settings), validated)


def check_room(settings: Settings, context: int) -> None:
    """Refuse windows of generic text that are too long for one pass, and prompts that leave no room.

    Raises:
        InputError: when distill.block is larger than the max_tokens of what runs on such windows, or a prompt is as
            long as the context.
    """
    distill, prompt = settings.distill, settings.distill.random_prompt
    if distill.enabled and context - prompt < 2:
        raise InputError(
            f"distill.random_prompt = {prompt}, but the model takes {context} tokens: none is left for text; take fewer"
        )
    block = min(settings.distill.block, context - prompt) + prompt
    if distill.enabled and block > distill.max_tokens:
        raise InputError(
            f"distill.block = {distill.block} makes windows of {block} tokens, but {DISTILL} = {distill.max_tokens}:"
            " raise it where memory allows, or take shorter windows"
        )
    block = min(settings.distill.block, context)
    if settings.trains_harmonizers and block > settings.harmonizers.max_tokens:
        raise InputError(
            f"distill.block = {distill.block} makes windows of {block} tokens, but {HARMONIZERS} ="
            f" {settings.harmonizers.max_tokens}: raise it where memory allows, or take shorter windows"
        )
    if (prompt := settings.tune.tuning_method.num_virtual) and context - prompt < 2:
        raise InputError(
            f"tune.prompt_tokens = {prompt}, but the model takes {context} tokens: none is left for a row; take fewer"
        )


def _compressed(settings: Settings) -> Limits:
    """Limits of GradOT, which runs prompts and answers whatever part of them is captured."""
    support = settings.support
    limit = PassLimit(SUPPORT, support.max_tokens, support.split, support.num_rows)
    return (limit,) if settings.compress.method == "gradot" else ()


def captured(settings: Settings) -> Limits:
    """Limits of capture, which runs the chosen part of the support rows."""
    support = settings.support
    return (PassLimit(SUPPORT, support.max_tokens, support.split, support.num_rows, support.part),)


def scored(settings: Settings) -> Limits:
    """Limits of scoring, which runs every scored row with each of its choices."""
    how = settings.evaluate
    return (PassLimit(EVALUATE, how.max_tokens, "scored", choices=True, num_fewshot=how.num_fewshot),)


def tuned(settings: Settings) -> Limits:
    """Limits of a tuning, which runs every training row and, where it validates, every validation row."""
    splits: tuple[Split, ...] = ("train", "validation") if settings.tune.eval_steps else ("train",)
    prompt = settings.tune.tuning_method.num_virtual
    return tuple(PassLimit(TUNE, settings.tune.max_tokens, split, in_front=prompt) for split in splits)
