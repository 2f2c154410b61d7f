"""Write the corpus of one format version: FOLDER. Once for each version that is released, and never again.

A bundle of every version must stay readable for ever, so that files in `corpus/` are only added. Keys follow from the
names of the parties, and everything lasts as long as the format allows.
"""

import base64
import shutil
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from tasks.core.plan.layout import fixed_plan
from tasks.core.tuning.method import WHOLE_BLOCKS, TuningMethod
from tasks.exchange import emulator_bundle, tuned_bundle
from tasks.exchange.card import emulator_card, tuned_card
from tasks.exchange.keys import OwnKey, PublicKey
from tasks.exchange.ledger import Ledger
from tasks.exchange.manifest import (
    MAX_LIFE,
    Answer,
    BaseModelFacts,
    Disclosure,
    EmulatorManifest,
    Manifest,
    Returns,
    TunedBlocksManifest,
)
from tasks.exchange.names import CARD_FILE, MANIFEST_FILE
from tasks.exchange.place import ExchangePlace
from tasks.exchange.sealing import Parties, seal
from tasks.models.emulators.emulator import write_emulator
from tasks.models.resolving import resolve_model
from tasks.models.source import ModelSource
from tasks.store.digests import plain_digest
from tasks.store.files import write_text
from tests.store.small_tokenizers import CONTEXT, VOCABULARY, tokenizer

MADE = datetime(2026, 11, 28, tzinfo=UTC)
END = datetime(2126, 1, 1, tzinfo=UTC)
PLAN = fixed_plan(4, kept=(0, 1, 3), tuned=(0, 3))
METHODS = {"blocks": WHOLE_BLOCKS, "lora": TuningMethod("lora", lora_rank=2)}


def key_of(name: str) -> OwnKey:
    """Return the key of a party of the corpus, which follows from its name: it protects nothing."""
    private = Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"-"))
    raw = private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return OwnKey(PublicKey(name=name, key=base64.b64encode(raw).decode(), created=MADE, expires=END), private)


def main() -> None:
    """Write keys, an emulator, and tuned blocks of two methods."""
    out = Path(sys.argv[1])
    out.mkdir(parents=True)
    for name in ("acme", "clinic"):
        (out / f"{name}.pub").write_bytes(key_of(name).public.to_json())
    with tempfile.TemporaryDirectory() as scratch:
        model = _write_model(Path(scratch, "model"))
        asked = _seal_emulator(model, Path(scratch), out / "emulator")
        for name, method in METHODS.items():
            _seal_tuned(model, asked, name, method, Path(scratch), out)


def _write_model(folder: Path) -> ModelSource:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, **sizes, **special)
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return resolve_model(str(folder))


def _seal_emulator(model: ModelSource, scratch: Path, out: Path) -> EmulatorManifest:
    write_emulator(Path(model.path), PLAN, scratch / "made")
    files = _empty(scratch / "files")
    parts = emulator_bundle.write_files(scratch / "made", model, files)
    write_text(files / CARD_FILE, emulator_card("tiny", "clinic", {"blocks": "3 of 4"}, ()).text())
    template = emulator_bundle.template_of(Path(model.path), PLAN)

    def describe(_: Ledger, header: dict[str, Any]) -> Manifest:
        return EmulatorManifest(
            **header,
            nonce="0123456789abcdef" * 2,
            base=BaseModelFacts(
                name="tiny",
                weights=model.weights,
                tokenizer=model.tokenizer,
                num_blocks=model.num_blocks,
                num_parameters=20_000,
            ),
            architecture=parts.architecture,
            plan=parts.plan,
            compression=parts.compression,
            tokenizer=parts.tokenizer,
            returns=Returns(methods=("blocks", "lora"), max_rank=8, template=template),
            disclosure=Disclosure(blocks=PLAN.kept, share=0.8, blocks_so_far=PLAN.kept, share_so_far=0.8),
        )

    found = seal(files, out, "emulator", describe, _parties("acme", "clinic"), _place(scratch, "acme"), MADE)
    assert isinstance(found, EmulatorManifest)
    return found


def _seal_tuned(
    model: ModelSource, asked: EmulatorManifest, name: str, method: TuningMethod, scratch: Path, out: Path
) -> None:
    files, generator = _empty(scratch / "files"), torch.Generator().manual_seed(0)
    for file, tensors in tuned_bundle.expected_tensors(Path(model.path), PLAN, method).items():
        state = {each: 0.1 * torch.randn(facts.shape, generator=generator) for each, facts in tensors.items()}
        save_file(state, files / file, metadata={"format": "pt"})
    write_text(files / CARD_FILE, tuned_card("tiny", "acme", {"method": name}).text())

    def describe(_: Ledger, header: dict[str, Any]) -> Manifest:
        return TunedBlocksManifest(
            **header,
            answers=Answer(id=asked.id, nonce=asked.nonce, manifest=plain_digest(out / "emulator" / MANIFEST_FILE)),
            base=asked.base.weights,
            method=method.cache_view(),
            tuning={"num_steps": 3.0},
            scores={"emulator_tuned": 0.5},
        )

    parties, place = _parties("clinic", "acme"), _place(scratch, "clinic")
    seal(files, out / f"tuned_{name}", "tuned_blocks", describe, parties, place, MADE)


def _parties(sender: str, recipient: str) -> Parties:
    return Parties(key_of(sender), key_of(recipient).public, days=MAX_LIFE.days)


def _place(scratch: Path, name: str) -> ExchangePlace:
    return ExchangePlace.of_home(scratch / "homes" / name)


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main()
