"""Admission of several bundles for one model: all of them or none, decided once, and a refusal names the bundle."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from flows.exchange import admission
from flows.exchange.admission import Answered, decline, open_answers, plugged_facts
from tasks.core.errors import RefusedError
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.method import TuningMethod
from tasks.exchange import opening
from tasks.exchange.ledger import opened
from tasks.exchange.ledger_entry import ACCEPTED, DECLINED, OPEN, SEALED
from tasks.exchange.manifest import PlanFacts
from tasks.exchange.opening import settle
from tests.exchange.parties import copied, tree_digest
from tests.exchange.several import Several, make_several


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Several:
    return make_several(tmp_path_factory.mktemp("several"), "clinic", "surgery", "ward")


@pytest.fixture
def several(made: Several, tmp_path: Path) -> Several:
    return made.copied(tmp_path / "several")


def states(several: Several) -> list[str]:
    """States of all entries of the owner's ledger."""
    with opened(several.acme.place.ledger) as ledger:
        return [each.state for each in ledger.entries()]


def refuse(several: Several, bundles: list[Path], reason: str) -> None:
    """Expect a refusal after which the owner's home is as before."""
    several.acme.place.received.mkdir(parents=True, exist_ok=True)
    before = tree_digest(several.acme.home)
    with pytest.raises(RefusedError, match=reason):
        open_answers(bundles, several.acme.home)
    assert tree_digest(several.acme.home) == before


def test_all_bundles_are_admitted_in_the_given_order(several: Several) -> None:
    answers = open_answers(several.bundles, several.acme.home)
    assert [each.manifest.sender.name for each in answers] == ["clinic", "surgery", "ward"]
    assert len({each.asked.id for each in answers}) == 3
    assert states(several) == [SEALED] * 3 + [OPEN] * 3
    assert open_answers(several.bundles, several.acme.home) == answers, "as often as wanted"


def test_a_bundle_that_expired_refuses_all_by_its_name(several: Several) -> None:
    past = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
    expired = several.send_back(
        several.clinics[1], "expired", created=past - timedelta(days=1), expires=past, sequence=2
    )
    clinic, _, ward = several.bundles
    refuse(several, [clinic, expired, ward], "refused .*expired: .*: expired on ")


def test_a_damaged_bundle_refuses_all_by_its_name(several: Several, tmp_path: Path) -> None:
    damaged = copied(several.bundles[2], tmp_path / "damaged")
    with open(damaged / "weights.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    refuse(several, [*several.bundles[:2], damaged], r"refused .*damaged: weights\.safetensors: digest")


def test_the_same_bundle_twice_is_refused(several: Several, tmp_path: Path) -> None:
    clinic = several.bundles[0]
    refuse(several, [clinic, several.bundles[1], clinic], "the same bundle is given twice")
    refuse(several, [clinic, copied(clinic, tmp_path / "copy")], "refused .*copy: the same bundle is given twice")


def test_two_bundles_of_one_party_are_refused(several: Several) -> None:
    again = several.send_back(several.clinics[0], "again")
    refuse(several, [several.bundles[0], again], "clinic sent another one of these bundles; each party counts once")


@pytest.mark.parametrize("what", ["plan", "model"])
def test_bundles_of_other_blocks_or_another_model_are_refused(
    several: Several, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    remembered = admission.remembered

    def changed(place: Any, bundle: str) -> Any:
        asked, settings = remembered(place, bundle)
        if asked.recipient.name != "surgery":
            return asked, settings
        if what == "model":
            return asked.model_copy(update={"base": asked.base.model_copy(update={"weights": "0" * 64})}), settings
        plan = fixed_plan(12, kept=(0, 3, 6, 11), tuned=(0, 6))
        facts = PlanFacts(kept=plan.kept, tuned=plan.tuned, share=plan.share)
        return asked.model_copy(update={"plan": facts}), settings

    monkeypatch.setattr(admission, "remembered", changed)
    reasons = {
        "plan": r"it has the tuned blocks \[0, 6\], and that of clinic \[0, 11\]",
        "model": "it belongs to another full model than the bundle of clinic",
    }
    refuse(several, several.bundles, f"returned-surgery: {reasons[what]}")


def test_a_process_that_fails_between_two_entries_leaves_none(
    several: Several, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(several.acme.place.ledger):
        pass
    enter, calls = opening._enter, []

    def failing(*given: Any) -> None:
        calls.append(given)
        if len(calls) == 2:
            raise OSError("the disk is full")
        enter(*given)

    monkeypatch.setattr(opening, "_enter", failing)
    with pytest.raises(OSError, match="disk is full"):
        open_answers(several.bundles, several.acme.home)
    assert states(several) == [SEALED] * 3
    monkeypatch.setattr(opening, "_enter", enter)
    assert len(open_answers(several.bundles, several.acme.home)) == 3, "what was left is overwritten"


def test_all_are_accepted_or_none(several: Several) -> None:
    answers = open_answers(several.bundles, several.acme.home)
    manifests = [each.manifest for each in answers]
    settle(several.acme.place, [manifests[1]], DECLINED)
    with pytest.raises(RefusedError, match="accepted or declined meanwhile"):
        settle(several.acme.place, manifests, ACCEPTED)
    assert states(several)[3:] == [OPEN, DECLINED, OPEN]
    settle(several.acme.place, [manifests[0], manifests[2]], ACCEPTED)
    assert states(several)[3:] == [ACCEPTED, DECLINED, ACCEPTED]


def test_all_are_declined_together(several: Several) -> None:
    decline(open_answers(several.bundles, several.acme.home))
    assert states(several)[3:] == [DECLINED] * 3


def test_a_refused_change_declines_its_own_bundle_only(several: Several) -> None:
    answers = open_answers(several.bundles, several.acme.home)
    with pytest.raises(RefusedError, match="from surgery: moved too far"), admission.declining(answers[1]):
        raise RefusedError("moved too far")
    assert states(several)[3:] == [OPEN, DECLINED, OPEN]


def test_a_plugged_model_names_its_bundles(several: Several) -> None:
    answers: list[Answered] = open_answers(several.bundles, several.acme.home)
    manifests = [each.manifest for each in answers]
    one, all_three = plugged_facts(manifests[:1]), plugged_facts(manifests)
    assert one == {"bundle": manifests[0].id, "emulator": manifests[0].answers.id, "from": "clinic"}
    assert all_three["bundle"] == plugged_facts(manifests[::-1])["bundle"]
    assert len(all_three["bundle"]) == 32
    assert all_three["merged"].split() == [each.id for each in manifests]
    assert all_three["from"] == "clinic, surgery, ward"


def test_low_rank_and_whole_blocks_are_admitted_together(several: Several) -> None:
    lora = several.send_back(several.clinics[1], "lora", TuningMethod("lora", lora_rank=4))
    answers = open_answers([several.bundles[0], lora], several.acme.home)
    assert [each.method.method for each in answers] == ["blocks", "lora"]


def test_values_that_are_not_finite_refuse_all(several: Several) -> None:
    tuning = several.root / "tuning-bad"
    tuning.mkdir()
    source = several.root / "tuning-returned-ward"
    for file in source.iterdir():
        (tuning / file.name).write_bytes(file.read_bytes())
    tensors = load_file(tuning / "tuned.safetensors")
    next(iter(tensors.values())).view(-1)[0] = float("inf")
    save_file(tensors, tuning / "tuned.safetensors")
    bad = several.send_back(several.clinics[2], "bad")
    refuse(several, [*several.bundles[:2], bad], "refused .*bad: .*values are not finite")
