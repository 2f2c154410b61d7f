"""Which rows each flow runs in bounded passes, what is refused for that, and what is said of token ids."""

from pathlib import Path
from typing import Any

import pytest

from flows.running.inputs import Inputs
from flows.running.logs import encoding_lines
from flows.running.pass_limits import check_room, run_limits, search_limits
from flows.settings.kinds import StudySettings
from flows.settings.reading import read_settings
from flows.studies.checks import study_limits
from tasks.core.errors import InputError
from tests.flows.commands import small_settings


def settings(**groups: Any) -> StudySettings:
    base = {"model": {"name": "m"}, "task": {"name": "arc_easy"}, "plan": {"num_kept": 4, "num_tuned": 2}}
    return StudySettings.model_validate(base | groups)


def named(limits: Any) -> list[tuple[Any, ...]]:
    return [(limit.setting, limit.max_tokens, limit.split, limit.num_rows) for limit in limits]


def test_what_a_run_and_a_search_pass_through_a_model() -> None:
    chosen = settings(support={"num_rows": 20, "part": "answer"}, tune={"eval_steps": 5, "max_tokens": 100})
    captured, tuned = ("support.max_tokens", 4096, "validation", 20), ("tune.max_tokens", 100, "train", None)
    checked = ("tune.max_tokens", 100, "validation", None)
    limits = run_limits(chosen)
    assert named(limits) == [captured, tuned, checked, ("evaluate.max_tokens", 8192, "scored", None)]
    assert (limits[0].part, limits[-1].choices) == ("answer", True)
    limits = search_limits(chosen)
    assert named(limits) == [captured, captured, tuned, checked, ("evaluate.max_tokens", 8192, "validation", None)]
    assert [limit.part for limit in limits[:2]] == ["answer", "prompt+answer"]
    assert len(run_limits(settings())) == 3, "without eval_steps no tuning validates"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (["weights"], []),
        (["similarity"], [("support", "validation", 512)]),
        (["lens"], [("support", "validation", 512), ("evaluate", "train", 512), ("evaluate", "validation", 512)]),
        (
            ["importance"],
            [("support", "validation", 512), ("tune", "train", None), ("evaluate", "validation", 256)],
        ),
        (
            ["landscape"],
            [("support", "validation", 512)] * 2 + [("tune", "train", None), ("evaluate", "validation", 64)],
        ),
    ],
)
def test_what_a_study_passes_through_a_model(parts: list[str], expected: list[tuple[Any, ...]]) -> None:
    limits = study_limits(settings(study={"parts": parts, "lens_block": 300}))
    assert [(limit.setting.split(".")[0], limit.split, limit.num_rows) for limit in limits] == expected
    assert [limit.num_tokens for limit in limits if limit.split == "train" and limit.num_rows] == [300] * (
        parts == ["lens"]
    )


def test_a_row_that_no_pass_holds_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    path = small_settings(tmp_path)
    chosen = read_settings(path)
    tune = chosen.tune.model_copy(update={"max_tokens": 8})
    with pytest.raises(
        InputError, match=r"'people', train row \d+ takes \d+ tokens in one pass, but tune.max_tokens = 8"
    ):
        Inputs(chosen.model_copy(update={"tune": tune}))


def test_windows_of_generic_text_fit_a_pass() -> None:
    distill = {"enabled": True, "data": "text", "num_steps": 10, "warmup_steps": 0, "block": 4096, "max_tokens": 2048}
    with pytest.raises(
        InputError, match=r"distill.block = 4096 makes windows of 4096 tokens.*distill.max_tokens = 2048"
    ):
        check_room(settings(distill=distill), 131_072)
    check_room(settings(distill=distill), 2048)
    check_room(settings(distill=distill | {"enabled": False}), 131_072)
    with pytest.raises(InputError, match=r"makes windows of 2058 tokens"):
        check_room(settings(distill=distill | {"random_prompt": 10, "block": 2048}), 131_072)


def test_prompts_leave_room() -> None:
    distill = {"enabled": True, "data": "text", "num_steps": 10, "warmup_steps": 1, "max_tokens": 2048}
    for number in (63, 64, 200):
        with pytest.raises(InputError, match=rf"distill.random_prompt = {number}, but the model takes 64 tokens"):
            check_room(settings(distill=distill | {"random_prompt": number}), 64)
        prompted = settings(tune={"method": "prompt", "prompt_tokens": number})
        with pytest.raises(InputError, match=rf"tune.prompt_tokens = {number}, but the model takes 64 tokens"):
            check_room(prompted, 64)
    check_room(settings(tune={"method": "prompt", "prompt_tokens": 62}), 64)
    # Of another method they do not count.
    check_room(settings(tune={"prompt_tokens": 200}), 64)


def test_virtual_tokens_and_whole_rows_of_the_support_set_are_limited() -> None:
    limits = run_limits(settings(tune={"method": "prompt", "prompt_tokens": 7}))
    assert [limit.in_front for limit in limits if limit.setting == "tune.max_tokens"] == [7]
    gradot = {"method": "gradot", "rank": 0.5, "channels": 0.5}
    some = settings(compress=gradot, support={"part": "prompt"})
    assert [limit.part for limit in run_limits(some) if limit.setting == "support.max_tokens"] == [
        "prompt",
        "prompt+answer",
    ]


def test_what_is_said_of_token_ids() -> None:
    facts: dict[str, Any] = {"context": 4096, "end_tokens": ""}
    facts |= {f"num_{split}_rows": 10 for split in ("train", "validation", "scored")}
    facts |= {f"num_{split}_apart": 0 for split in ("train", "validation", "scored")}
    assert encoding_lines(facts) == []
    facts |= {"end_tokens": "</s>", "num_scored_apart": 3, "window": 2048}
    ended, joined, cut = encoding_lines(facts)
    assert "puts </s> behind every text" in ended
    assert "3 of 10 scored rows" in joined
    assert "windows of 2048 tokens (task.max_length)" in cut
