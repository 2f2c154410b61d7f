"""An emulator goes to the data owner, and tuned blocks come back: both arrive as they were sent."""

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tasks.artifacts.plan import read_plan
from tasks.artifacts.tuning import TUNED_FILE
from tasks.core.errors import RefusedError
from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.method import TuningMethod
from tasks.exchange import tuned_bundle
from tasks.exchange.ledger import Ledger, opened
from tasks.exchange.ledger_entry import ACCEPTED
from tasks.exchange.manifest import Answer, EmulatorManifest, Manifest, TunedBlocksManifest
from tasks.exchange.opening import settle
from tasks.exchange.sealing import seal
from tasks.models.emulators.emulator import load_emulator
from tasks.models.folder_tensors import tensors_of
from tasks.models.loading import load_tokenizer, tokenizer_of
from tasks.models.tuned_blocks import read_returned
from tests.exchange.parties import (
    NOW,
    PLAN,
    Party,
    copied,
    demo_model,
    make_emulator,
    make_parties,
    make_tuning,
    receive_emulator,
    receive_tuned,
    resign,
    seal_emulator,
    seal_tuned,
    tree_digest,
)


@pytest.fixture
def acme_and_clinic(tmp_path: Path) -> tuple[Party, Party]:
    acme, clinic = make_parties(tmp_path / "homes", "acme", "clinic")
    return acme, clinic


@pytest.fixture
def emulator(tmp_path: Path) -> Path:
    return make_emulator(tmp_path / "made")


@pytest.fixture
def sent(tmp_path: Path, acme_and_clinic: tuple[Party, Party], emulator: Path) -> tuple[EmulatorManifest, Path]:
    bundle = tmp_path / "emulator"
    return seal_emulator(*acme_and_clinic, emulator, bundle), bundle


def test_an_opened_emulator_computes_what_the_sealed_one_did(
    acme_and_clinic: tuple[Party, Party], emulator: Path, sent: tuple[EmulatorManifest, Path]
) -> None:
    found = receive_emulator(acme_and_clinic[1], sent[1])
    assert read_plan(found.folder) == PLAN
    tokens = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        expected = load_emulator(emulator)(tokens).logits
        assert torch.equal(load_emulator(found.folder)(tokens).logits, expected)


def test_an_opened_tokenizer_encodes_and_decodes_as_the_owners(
    acme_and_clinic: tuple[Party, Party], sent: tuple[EmulatorManifest, Path]
) -> None:
    own, theirs = load_tokenizer(demo_model()), tokenizer_of(receive_emulator(acme_and_clinic[1], sent[1]).folder)
    for text in ("Anna lives in Rome.", "  Ünïcödé\n\t<pad> 123", ""):
        assert theirs.encode(text) == own.encode(text)
        assert theirs.decode(theirs.encode(text)) == own.decode(own.encode(text))
    roles = ("bos_token_id", "eos_token_id", "unk_token_id", "pad_token_id")
    assert [getattr(theirs, role) for role in roles] == [getattr(own, role) for role in roles]


def test_a_bundle_has_no_tensor_of_a_removed_block(sent: tuple[EmulatorManifest, Path], emulator: Path) -> None:
    names = {path.name for path in sent[1].iterdir()}
    assert names == {"manifest.json", "manifest.sig", "tokenizer.json", "weights.safetensors"}
    given, full = load_file(sent[1] / "weights.safetensors"), tensors_of(Path(demo_model().path))
    assert given.keys() == tensors_of(emulator).keys()
    removed = set(range(12)) - set(PLAN.kept)
    own = load_file(Path(demo_model().path) / "model.safetensors")
    secret = [own[name] for name in full if any(f".layers.{index}." in name for index in removed)]
    assert secret
    for tensor in given.values():
        assert not any(each.shape == tensor.shape and torch.equal(each, tensor) for each in secret if each.std() > 0)


def test_an_emulators_bundle_has_the_emulators_own_tensors_and_nothing_of_a_tuning(
    tmp_path: Path, acme_and_clinic: tuple[Party, Party], emulator: Path
) -> None:
    """Also where the emulator's folder holds a checkpoint and states of an optimizer: tensor by tensor."""
    own = load_file(next(emulator.glob("*.safetensors")))
    for name in ("checkpoint.safetensors", "optimizer.safetensors"):
        save_file({"0.exp_avg": torch.full((3, 5), 7.125)}, emulator / name)
    (emulator / "metrics.jsonl").write_text("{}")
    seal_emulator(*acme_and_clinic, emulator, tmp_path / "emulator")
    given: dict[str, torch.Tensor] = {}
    for file in (tmp_path / "emulator").glob("*.safetensors"):
        given |= load_file(file)
    assert given.keys() == own.keys()
    assert all(torch.equal(given[name], own[name]) for name in own)
    assert not [name for name in given if "exp_avg" in name or "optimizer" in name]


def test_low_rank_factors_of_opt_125m_are_small(tmp_path: Path, acme_and_clinic: tuple[Party, Party]) -> None:
    """LoRA of rank 4 in four tuned blocks of that shape goes back in at most 2 MB, with manifest and signature."""
    from transformers import OPTConfig

    acme, clinic = acme_and_clinic
    folder = tmp_path / "opt"
    folder.mkdir()
    # The defaults of this config are OPT-125m's.
    OPTConfig(architectures=["OPTForCausalLM"]).save_pretrained(folder)
    plan, method = fixed_plan(12, kept=(0, 1, 4, 7, 10, 11), tuned=(0, 1, 10, 11)), TuningMethod("lora", lora_rank=4)
    ((name, tensors),) = tuned_bundle.expected_tensors(folder, plan, method).items()
    assert {each.shape for each in tensors.values()} == {(4, 768), (768, 4), (4, 3072), (3072, 4)}
    files = tmp_path / "files"
    files.mkdir()
    save_file({each: torch.ones(facts.shape) for each, facts in tensors.items()}, files / name)

    def describe(_: Ledger, header: dict[str, Any]) -> Manifest:
        answer = Answer(id="1" * 32, nonce="2" * 32, manifest="3" * 64)
        described = {"answers": answer, "base": "4" * 64, "method": method.cache_view(), "tuning": {}, "scores": {}}
        return TunedBlocksManifest(**header, **described)

    seal(files, tmp_path / "returned", "tuned_blocks", describe, clinic.to(acme), clinic.place, NOW)
    assert sum(file.stat().st_size for file in (tmp_path / "returned").iterdir()) <= 2_000_000


def test_tuned_blocks_come_back_as_they_were_trained(
    tmp_path: Path, acme_and_clinic: tuple[Party, Party], sent: tuple[EmulatorManifest, Path]
) -> None:
    acme, clinic = acme_and_clinic
    tuning = make_tuning(tmp_path / "tuning")
    asked = receive_emulator(clinic, sent[1])
    seal_tuned(clinic, acme, asked, tuning, tmp_path / "returned")
    found = receive_tuned(acme, tmp_path / "returned", sent[0])
    returned, expected = read_returned(found.folder), load_file(tuning / TUNED_FILE)
    assert returned.plan == PLAN
    assert returned.variant == TuningMethod()
    assert returned.tuned.keys() == expected.keys()
    assert all(torch.equal(returned.tuned[name], expected[name]) for name in expected)


def test_low_rank_factors_come_back_within_the_rank_that_was_agreed(
    tmp_path: Path, acme_and_clinic: tuple[Party, Party], sent: tuple[EmulatorManifest, Path]
) -> None:
    acme, clinic = acme_and_clinic
    asked = receive_emulator(clinic, sent[1])
    for rank in (4, 16):
        method = TuningMethod("lora", lora_rank=rank)
        tuning = make_tuning(tmp_path / f"tuning-{rank}", method)
        seal_tuned(clinic, acme, asked, tuning, tmp_path / f"returned-{rank}", method=method.cache_view())
    assert receive_tuned(acme, tmp_path / "returned-4", sent[0]).manifest.sequence == 1
    with pytest.raises(RefusedError, match="takes at most 8"):
        receive_tuned(acme, tmp_path / "returned-16", sent[0])


def test_b17_the_same_emulator_can_be_opened_again_and_tuned_blocks_accepted_once(
    tmp_path: Path, acme_and_clinic: tuple[Party, Party], sent: tuple[EmulatorManifest, Path]
) -> None:
    acme, clinic = acme_and_clinic
    asked = receive_emulator(clinic, sent[1])
    assert receive_emulator(clinic, sent[1]) == asked
    tuning = make_tuning(tmp_path / "tuning")
    manifest = seal_tuned(clinic, acme, asked, tuning, tmp_path / "returned")
    first = receive_tuned(acme, tmp_path / "returned", sent[0])
    assert receive_tuned(acme, tmp_path / "returned", sent[0]) == first
    settle(acme.place, [manifest], ACCEPTED)
    with pytest.raises(RefusedError, match="was received on 2026-11-01 and is accepted"):
        receive_tuned(acme, tmp_path / "returned", sent[0])
    seal_tuned(clinic, acme, asked, tuning, tmp_path / "again")
    with pytest.raises(RefusedError, match="nonce was already used"):
        receive_tuned(acme, tmp_path / "again", sent[0])


def test_b17_an_older_emulator_is_not_taken_after_a_newer_one(
    tmp_path: Path, acme_and_clinic: tuple[Party, Party], sent: tuple[EmulatorManifest, Path], emulator: Path
) -> None:
    acme, clinic = acme_and_clinic
    seal_emulator(acme, clinic, emulator, tmp_path / "newer")
    receive_emulator(clinic, tmp_path / "newer")
    with pytest.raises(RefusedError, match=r"sequence 1 was already used by acme \(expected >= 3\)"):
        receive_emulator(clinic, sent[1])


def test_b18_expired_bundles_are_refused_and_a_clock_set_back_does_not_help(
    acme_and_clinic: tuple[Party, Party], sent: tuple[EmulatorManifest, Path]
) -> None:
    _acme, clinic = acme_and_clinic
    with pytest.raises(RefusedError, match="expired on 2027-01-30"):
        receive_emulator(clinic, sent[1], NOW + timedelta(days=91))
    with pytest.raises(RefusedError, match="later than now"):
        receive_emulator(clinic, sent[1], NOW - timedelta(days=1))
    receive_emulator(clinic, sent[1], NOW + timedelta(days=80))
    with pytest.raises(RefusedError, match="earlier than the last entry"):
        receive_emulator(clinic, sent[1], NOW)


def test_b18_a_clock_that_jumped_forward_is_noticed_by_both_parties(
    tmp_path: Path, acme_and_clinic: tuple[Party, Party], emulator: Path
) -> None:
    acme, clinic = acme_and_clinic
    seal_emulator(acme, clinic, emulator, tmp_path / "ahead", NOW + timedelta(days=1))
    with pytest.raises(RefusedError, match="later than now: one of the clocks is wrong"):
        receive_emulator(clinic, tmp_path / "ahead", NOW)
    with pytest.raises(RefusedError, match=r"earlier than the last entry of the ledger .* restore the ledger"):
        seal_emulator(acme, clinic, emulator, tmp_path / "again", NOW)
    assert not (tmp_path / "again").exists()
    # What was sealed is as good as any other once its time has come.
    receive_emulator(clinic, tmp_path / "ahead", NOW + timedelta(days=1))
    seal_emulator(acme, clinic, emulator, tmp_path / "again", NOW + timedelta(days=1))
    assert receive_emulator(clinic, tmp_path / "again", NOW + timedelta(days=1)).manifest.sequence == 2


def test_b16_an_expired_key_signs_nothing(
    acme_and_clinic: tuple[Party, Party], sent: tuple[EmulatorManifest, Path]
) -> None:
    with pytest.raises(RefusedError, match="the key of acme expired on 2028-10-31"):
        receive_emulator(acme_and_clinic[1], sent[1], NOW + timedelta(days=800))


def test_b16_signatures_of_others_are_refused(
    tmp_path: Path, acme_and_clinic: tuple[Party, Party], sent: tuple[EmulatorManifest, Path]
) -> None:
    acme, clinic = acme_and_clinic
    stranger, _ = make_parties(tmp_path / "others", "acme", "nobody")
    content = (sent[1] / "manifest.json").read_bytes()
    forged = copied(sent[1], tmp_path / "forged")
    resign(forged, stranger, content)
    with pytest.raises(RefusedError, match=r"no trusted key has signed this manifest \(trusted: acme\)"):
        receive_emulator(clinic, forged)
    changed = json.loads(content)
    changed["sender"]["fingerprint"] = "0" * 64
    resign(forged, acme, json.dumps(changed).encode())
    with pytest.raises(RefusedError, match="signed by acme, but it names another sender"):
        receive_emulator(clinic, forged)


def test_a_bundle_for_another_party_or_of_another_kind_is_refused(
    tmp_path: Path, emulator: Path, acme_and_clinic: tuple[Party, Party]
) -> None:
    acme, clinic, other = make_parties(tmp_path / "three", "acme", "clinic", "other")
    bundle = tmp_path / "for-other"
    seal_emulator(acme, other, emulator, bundle)
    with pytest.raises(RefusedError, match="it is for other"):
        receive_emulator(clinic, bundle)
    manifest = seal_emulator(acme, clinic, emulator, tmp_path / "for-clinic")
    with pytest.raises(RefusedError, match="expected a bundle of kind tuned_blocks, found emulator"):
        receive_tuned(clinic, tmp_path / "for-clinic", manifest)


def test_b17_an_answer_to_another_request(tmp_path: Path, emulator: Path) -> None:
    acme, clinic, other = make_parties(tmp_path / "three", "acme", "clinic", "other")
    manifest = seal_emulator(acme, clinic, emulator, tmp_path / "emulator")
    asked = receive_emulator(clinic, tmp_path / "emulator")
    tuning = make_tuning(tmp_path / "tuning")
    seal_tuned(other, acme, asked, tuning, tmp_path / "stolen")
    with pytest.raises(RefusedError, match="sealed for clinic, and another party signed it"):
        receive_tuned(acme, tmp_path / "stolen", manifest)
    wrong = replace(asked, manifest=asked.manifest.model_copy(update={"nonce": "2" * 32}))
    seal_tuned(clinic, acme, wrong, tuning, tmp_path / "wrong")
    with pytest.raises(RefusedError, match="not sealed here"):
        receive_tuned(acme, tmp_path / "wrong", manifest)


def test_a_refusal_changes_nothing(
    tmp_path: Path, acme_and_clinic: tuple[Party, Party], sent: tuple[EmulatorManifest, Path]
) -> None:
    clinic = acme_and_clinic[1]
    with opened(clinic.place.ledger) as ledger:
        assert ledger.entries() == []
    clinic.place.received.mkdir(parents=True, exist_ok=True)
    before = tree_digest(clinic.home)
    damaged = copied(sent[1], tmp_path / "damaged")
    with open(damaged / "weights.safetensors", "r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    with pytest.raises(RefusedError, match=r"refused .*damaged: weights\.safetensors: digest"):
        receive_emulator(clinic, damaged)
    assert tree_digest(clinic.home) == before
