"""Byte-level tokenizers made here, and a tiny model that knows their tokens."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.models.resolving import resolve_model
from tasks.models.source import ModelSource

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")  # ids 0 to 3
# A byte each, and room for a few merged tokens.
VOCABULARY = 264
CONTEXT = 256
# A space joins with a letter behind it, and a colon with the space and a C: of choices behind "Answer:" only " C".
JOINING = (("Ġ", "A"), ("Ġ", "B"), ("Ġ", "C"), (":", "ĠC"))


def tokenizer(
    *, bos: bool = True, eos_at_end: bool = False, merges: Sequence[tuple[str, str]] = (), dropped: str = ""
) -> Any:
    """A token for each byte; eos_at_end: </s> behind every text; dropped: a character that vanishes."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*SPECIAL, *alphabet, *("".join(pair) for pair in merges)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges), unk_token="<unk>"))
    # Merges reach across spaces, as in vocabularies with tokens of several words.
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    if dropped:
        made.normalizer = normalizers.Replace(dropped, "")
    made.add_special_tokens([AddedToken(name, special=True) for name in SPECIAL])
    if bos or eos_at_end:
        single = ("<s> " if bos else "") + "$A" + (" </s>" if eos_at_end else "")
        made.post_processor = processors.TemplateProcessing(
            single=single, pair=f"{single} $B:1", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    names = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=made, clean_up_tokenization_spaces=False, **names)


def write_model(folder: Path, context: int = CONTEXT, **options: Any) -> ModelSource:
    """A random LLaMA of two blocks with one of the tokenizers above. The same weights whatever the tokenizer."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=context, **sizes, **special)
    LlamaForCausalLM(config).eval().save_pretrained(folder)
    tokenizer(**options).save_pretrained(folder)
    return resolve_model(str(folder))
