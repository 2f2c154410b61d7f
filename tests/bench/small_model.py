"""A small language model made from plain text, for measurements: a tokenizer and a few minutes of training."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

END = "<|endoftext|>"
VOCABULARY, CONTEXT, NUM_BLOCKS, WIDTH = 4096, 128, 12, 192
ROWS, PEAK_RATE, WARMUP_STEPS = 32, 1.5e-3, 50


def make_model(text: Path, folder: Path, seconds: float, seed: int = 0) -> float:
    """Train on a JSONL file with a field `text` for some time and save as a Hugging Face folder; the last loss."""
    torch.manual_seed(seed)
    documents = [json.loads(line)["text"] for line in text.read_text().splitlines()]
    tokenizer = _tokenizer(documents)
    ids = [token for document in documents for token in [*tokenizer.encode(document), tokenizer.eos_token_id]]
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=WIDTH,
        n_layer=NUM_BLOCKS,
        n_head=6,
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        # A single look at little text: dropout only slows it down.
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    loss = _train(model, torch.tensor(ids), seconds)
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return loss


def _train(model: GPT2LMHeadModel, ids: torch.Tensor, seconds: float) -> float:
    """AdamW at a rate that falls linearly with the time that is left; mean loss of the last 20 steps in nats."""
    optimizer = torch.optim.AdamW(model.parameters(), PEAK_RATE, betas=(0.9, 0.95), weight_decay=0.1)
    losses: list[float] = []
    began = time.monotonic()
    for step, batch in enumerate(_batches(ids)):
        spent = (time.monotonic() - began) / seconds
        if spent >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * min(1.0, (step + 1) / WARMUP_STEPS) * max(0.02, 1.0 - spent)
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return sum(losses[-20:]) / len(losses[-20:])


def _batches(ids: torch.Tensor) -> Iterator[torch.Tensor]:
    """[ROWS, CONTEXT] windows at random places, without end."""
    while True:
        begin = torch.randint(len(ids) - CONTEXT, (ROWS,))
        yield torch.stack([ids[place : place + CONTEXT] for place in begin.tolist()])


def _tokenizer(documents: list[str]) -> PreTrainedTokenizerFast:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(documents, vocab_size=VOCABULARY, special_tokens=[END], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=trained._tokenizer, bos_token=END, eos_token=END, model_max_length=CONTEXT
    )
