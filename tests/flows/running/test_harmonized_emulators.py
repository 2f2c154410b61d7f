"""Emulators with harmonizers through settings and the flow: refused early, which blocks are protected, one run."""

import json
from pathlib import Path

import pytest

from flows.cost.priced import SMALL_BYTES
from flows.running.arguments import Arguments
from flows.running.inputs import check_budget
from flows.running.pass_limits import check_room
from flows.settings.reading import read_settings
from flows.settings.run import Settings
from tasks.core.errors import InputError
from tasks.models.tensor_files import stored_tensors
from tests.flows.commands import DEMO, artifacts, crash, stages
from tests.flows.running.test_emulators import MINIMAL, RUN
from tests.tasks.chain import write_model

pytestmark = pytest.mark.usefixtures("one_prefect")

HARMONIZED = ("strategy=scaleot", "distill.data=d")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("strategy=scaleot",), r"strategy scaleot needs distill\.data, the generic text on which harmonizers"),
        (("strategy=uniform", "plan.share=harmonizers"), r"strategy uniform needs distill\.data"),
        (("strategy=scaleot", "plan.share=none"), r"strategy scaleot needs distill\.data"),
        (
            (*HARMONIZED, "distill.enabled=true", "distill.num_steps=9", "distill.warmup_steps=0"),
            "distill.enabled = true with the harmonizers of strategy scaleot",
        ),
        ((*HARMONIZED, "harmonizers.group_size=1"), r"harmonizers\.group_size: .*greater than or equal to 2"),
        ((*HARMONIZED, "harmonizers.share=0"), r"harmonizers\.share: .*greater than 0"),
        ((*HARMONIZED, "harmonizers.num_steps=50"), "harmonizers: warmup_steps = 50 but num_steps = 50"),
    ],
)
def test_harmonizers_that_cannot_be_are_refused(tmp_path: Path, changes: tuple[str, ...], message: str) -> None:
    (tmp_path / "settings.toml").write_text(MINIMAL)
    with pytest.raises(InputError, match=message):
        read_settings(tmp_path / "settings.toml", list(changes))


def test_harmonizers_that_do_not_fit_the_model_are_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(MINIMAL)

    def check(*changes: str) -> Settings:
        settings = read_settings(tmp_path / "settings.toml", [*HARMONIZED, *changes])
        check_budget(settings, 12)
        return settings

    check("plan.num_tuned=6")
    check("plan.num_kept=11", "plan.num_tuned=10", "plan.placement=ends")
    with pytest.raises(InputError, match=r"compares at least two blocks .* but of 12 blocks 11 are tuned"):
        check("plan.num_kept=11", "plan.num_tuned=11", "plan.placement=ends")
    with pytest.raises(InputError, match=r"windows of 512 tokens, but harmonizers\.max_tokens = 100: raise it"):
        check_room(check("harmonizers.max_tokens=100"), 1024)
    check_room(check("harmonizers.max_tokens=100"), 100)


def test_blocks_that_are_tuned_in_every_plan_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text(MINIMAL)
    expected = {
        ("strategy=scaleot",): (),
        ("strategy=scaleot", "plan.placement=ends"): (0, 1, 10, 11),
        ("strategy=uniform", "plan.share=harmonizers"): (0, 1, 10, 11),
        ("strategy=crash", "plan.share=harmonizers", "plan.placement=ends"): (),
        ("strategy=fixed", "plan.share=harmonizers", "plan.kept=[1, 2, 5]", "plan.tuned=[1, 5]"): (1, 5),
    }
    for changes, protected in expected.items():
        settings = read_settings(tmp_path / "settings.toml", ["distill.data=d", "plan.num_kept=6", *changes])
        given = Arguments(settings, "float32").harmonizers(settings.strategy[0], 12)
        assert given["protected"] == protected
        assert (given["block"], given["how"].rank) == (512, 64)


def test_one_run_with_harmonizers(tmp_path: Path) -> None:
    """ScaleOT beside another plan with harmonizers: trained, chosen by scores, and attention of lower rank."""
    write_model(tmp_path / "model")
    text = RUN.format(model=tmp_path / "model", demo=DEMO, home=tmp_path / "home", method="low_rank")
    text = text.replace('strategy = "fixed"', 'strategy = ["scaleot", "fixed"]').replace("enabled = true", "")
    more = "[harmonizers]\nnum_steps = 4\nwarmup_steps = 1\nbatch_size = 4\nrank = 3\nscore_steps = 2\nshare = 0.5\n"
    (tmp_path / "settings.toml").write_text(text + more)
    changes = ("--set", "plan.share=harmonizers", "--set", "compress.parts=attention")
    done = crash("run", str(tmp_path / "settings.toml"), *changes)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| scaleot emulator" in done.stdout
    found = stages(set(artifacts(tmp_path / "home/store")))
    # Two trainings: the tuned blocks of `fixed` are known, and always run.
    assert (found["harmonizers"], found["emulate"], found["compress"], found["cluster"]) == (2, 2, 2, 2)
    assert "distill" not in found
    for manifest in (tmp_path / "home/store/artifacts/emulate").glob("*/manifest.json"):
        written = json.loads(manifest.read_text())
        assert {parent["stage"] for parent in written["parents"]} == {"cluster", "harmonizers"}
        assert written["summary"]["num_harmonizers"] == 1
    for stored in (tmp_path / "home/store/artifacts/compress").glob("*"):
        names = stored_tensors(stored).keys()
        assert sum(name.startswith("harmonizer_") for name in names) == 2
        factored = {name for name in names if name.endswith("weight_inner")}
        assert factored
        assert all("self_attn" in name for name in factored)
    planned = crash("plan-cost", str(tmp_path / "settings.toml"), *changes, "--json")
    assert planned.returncode == 0, planned.stderr
    rows = {row["stage"]: row for row in json.loads(planned.stdout)["stages"]}
    assert {stage: row["count"] for stage, row in rows.items()} == found
    disk = {stage: row["disk_bytes"] - SMALL_BYTES * found[stage] for stage, row in rows.items()}
    stored = {stage: list((tmp_path / "home/store/artifacts" / stage).rglob("*.safetensors")) for stage in rows}
    assert disk["harmonizers"] == sum(map(tensor_bytes, stored["harmonizers"]))
    for stage in ("emulate", "compress"):
        # A parameter is priced by the model's files, with a part of their header.
        assert disk[stage] == pytest.approx(sum(file.stat().st_size for file in stored[stage]), rel=0.03), stage


def tensor_bytes(file: Path) -> int:
    """Bytes of the tensors of a safetensors file, without its header."""
    content = file.read_bytes()
    return len(content) - 8 - int.from_bytes(content[:8], "little")
