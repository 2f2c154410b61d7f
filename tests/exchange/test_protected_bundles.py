"""Bundles of private tunings: epsilon is in the manifest and is shown; old bundles without it stay valid."""

from pathlib import Path
from typing import ClassVar

import pytest

from flows.exchange.facts import answer_facts, exposure_facts, protection_facts, tuning_facts
from tasks.exchange.manifest import read_manifest, to_bytes
from tasks.exchange.tuned_bundle import reported
from tests.exchange import parties
from tests.exchange.parties import make_emulator, make_parties, make_tuning, receive_emulator, receive_tuned, resign

CHANGES = {"moved": {"0": 0.01}, "direction": {"0": 0.1}, "alarms": []}
SUMMARY = {
    **{"num_steps": 60, "num_rows": 512, "num_parameters": 1000, "num_tokens": 31_000, "seconds": 12.5},
    **{"final_loss": 1.0, "dp_epsilon": 5.678, "dp_delta": 1e-5, "dp_noise": 1.0, "dp_clip": 0.5},
}


def test_tokens_and_time_of_a_private_tuning_are_not_reported() -> None:
    assert reported(SUMMARY) == {
        **{"num_steps": 60.0, "num_rows": 512.0, "num_parameters": 1000.0},
        **{"dp_epsilon": 5.678, "dp_delta": 1e-5, "dp_noise": 1.0, "dp_clip": 0.5},
    }
    plain = {name: value for name, value in SUMMARY.items() if not name.startswith("dp_")}
    assert set(reported(plain)) == {"num_steps", "num_rows", "num_parameters", "num_tokens", "seconds"}


@pytest.mark.parametrize("summary", [SUMMARY, {"num_steps": 60, "dp_noise": 0.0, "dp_clip": 0.5}, {"num_steps": 60}])
def test_manifests_with_and_without_epsilon_are_verified_and_shown(tmp_path: Path, summary: dict) -> None:
    owner, clinic = make_parties(tmp_path, "acme", "clinic")
    emulator = parties.seal_emulator(owner, clinic, make_emulator(tmp_path / "emulator"), tmp_path / "given")
    asked = receive_emulator(clinic, tmp_path / "given")
    tuning = make_tuning(tmp_path / "tuning")
    plain = parties.seal_tuned(clinic, owner, asked, tuning, tmp_path / "returned")
    sealed = plain.model_copy(update={"tuning": reported(summary)})
    resign(tmp_path / "returned", clinic, to_bytes(sealed))
    receive_tuned(owner, tmp_path / "returned", emulator)
    assert read_manifest(to_bytes(sealed)).tuning == reported(summary)
    shown = answer_facts(emulator, sealed, CHANGES)
    private = shown.get("differential privacy of a training row, as the sender says")
    if "dp_epsilon" in summary:
        assert private == "epsilon 5.68, delta 1e-05, noise 1, clipping 0.5"
    elif "dp_noise" in summary:
        assert private == "no epsilon, noise 0, clipping 0.5"
    else:
        assert private is None


def test_the_clinic_is_shown_what_protects_its_rows(tmp_path: Path) -> None:
    owner, clinic = make_parties(tmp_path, "acme", "clinic")
    emulator = parties.seal_emulator(owner, clinic, make_emulator(tmp_path / "emulator"), tmp_path / "given")
    facts = tuning_facts(emulator, {**SUMMARY, "change_before_limit": 0.13}, 1000, 0.03)
    assert facts["differential privacy of a training row"].startswith("epsilon 5.68")
    assert facts["change of each tuned block"] == "at most 3.00% of its norm; the furthest would have been 13.00%"
    assert "change of each tuned block" not in tuning_facts(emulator, SUMMARY, 1000, None)


class Found:
    """The result of the stage."""

    summary: ClassVar = {"true_positives": 0.125, "area": 0.75, "bits": 3.21, "num_inside": 64}


def test_the_clinic_is_shown_how_many_canaries_are_recognised() -> None:
    (text,) = exposure_facts(Found()).values()
    assert text.startswith("12% of 64 at a false-positive rate of 1%, AUC 0.75, exposure 3.2 bits (guessing")


def test_what_a_sender_says_of_privacy_is_shown_as_far_as_it_goes() -> None:
    shown = [protection_facts(said) for said in ({}, {"dp_noise": 1.0}, {"dp_noise": 1.0, "dp_epsilon": 3.25})]
    name = "differential privacy of a training row"
    assert shown == [{}, {name: "no epsilon, noise 1"}, {name: "epsilon 3.25, noise 1"}]
