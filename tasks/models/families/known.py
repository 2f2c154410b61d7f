"""Table of the operations that are exact in each family, as the tests measure them, so that no model must be built."""

from collections.abc import Mapping

from tasks.core.errors import InputError

# The operations that a run may need of a family, and what to do if one is not exact.
OPERATIONS = {
    "capture": "take a model of another family",
    "scoring": "take a model of another family",
    "surgery": "take a model of another family",
    "cache": "take a task that is scored by log-likelihoods, not by generated text",
    "sharing": 'set plan.share = "none", or take a model of another family',
    "stand_ins": 'choose another plan.share than "linear", or take a model of another family',
    "tuning": "take a model of another family",
    "lens": 'leave "lens" out of study.parts and set support.final_norm = false, or take a model of another family',
    "generation": "take a task that is scored by log-likelihoods, not by generated text",
}
WORDS = {
    "capture": "capturing the states of blocks",
    "scoring": "scoring",
    "surgery": "removing blocks",
    "cache": "running an emulator with a cache",
    "sharing": "sharing blocks",
    "stand_ins": "replacing blocks by linear maps",
    "tuning": "tuning",
    "lens": "reading states by the final norm and the head",
    "generation": "generating text",
}
PAGE = "docs/reference/families.md"

# Families in which every operation is exact, but for the linear stand-ins of `NO_STAND_INS`.
# fmt: off
EXACT = frozenset({
    "apertus", "arcee", "biogpt", "bitnet", "bloom", "codegen", "cohere", "cohere2", "ctrl", "deepseek_v2",
    "deepseek_v3", "dots1", "ernie4_5", "ernie4_5_moe", "exaone4", "falcon", "falcon_h1", "falcon_mamba", "gemma",
    "gemma2", "gemma3", "gemma3_text", "glm", "glm4", "glm4_moe", "gpt2", "gpt_bigcode", "gpt_neo", "gpt_neox",
    "gpt_oss", "gptj", "granite", "granitemoe", "helium", "hunyuan_v1_dense", "hunyuan_v1_moe", "llama", "llama4_text",
    "mamba", "mamba2", "ministral", "mistral", "mixtral", "mpt", "nemotron", "olmo", "olmo2", "olmo3", "olmoe",
    "openai-gpt", "opt", "persimmon", "phi", "phi3", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss",
    "smollm3", "stablelm", "starcoder2", "vaultgemma", "xglm",
})
# fmt: on

# Blocks of two kinds, one of which has a recurrent state instead of keys and values.
_MIXED_CACHE = {
    "cache": "transformers has no cache for an emulator whose kept blocks are all of the kind without attention"
}
_NORMED = "a norm stands between the last linear module of a block and the state that it adds to"
_EXPERTS = "what a block adds to its state is a sum of experts, and no output of one linear module"
_FALCON = "its last linear module is of another class than torch's linear layer"
_SCALED = "what a block adds to its state is scaled"
_STREAMS = "its blocks pass four streams of states and share keys and values, and each has embeddings of its own"
_PERIOD = "its config gives kinds of blocks by a period of the depth, so that no other order can be built"
_DEPTH = "each block's decay depends on its depth and on the number of blocks"
_IN_PLACE = "its code divides weights in place by the depth at which they run"

# Families in which some operation is not exact, and why.
LIMITED: dict[str, dict[str, str]] = {
    "bamba": _MIXED_CACHE,
    "gemma3n": dict.fromkeys(("capture", "surgery", "cache", "tuning", "lens", "generation"), _STREAMS),
    "gemma3n_text": dict.fromkeys(("capture", "surgery", "cache", "tuning", "lens", "generation"), _STREAMS),
    "granitemoehybrid": _MIXED_CACHE,
    "jamba": dict.fromkeys(("surgery", "cache", "tuning", "generation"), _PERIOD),
    "lfm2": _MIXED_CACHE,
    "minimax": {"surgery": _DEPTH}
    | dict.fromkeys(("cache", "generation"), "the state in its cache does not give the logits of a whole pass"),
    "qwen3_5_text": _MIXED_CACHE,
    "qwen3_next": _MIXED_CACHE,
    "recurrent_gemma": dict.fromkeys(
        ("cache", "generation"), "its recurrent blocks keep their state in themselves and read padding as tokens"
    ),
    "rwkv": dict.fromkeys(OPERATIONS, _IN_PLACE),
}

# Measured as well, but here the exact operations depend on the model's config, which is therefore always tried.
DEPENDS = frozenset({"gemma4", "gemma4_text"})


# Families without linear stand-ins: nothing but the output of one linear module can be multiplied by a folded map.
NO_STAND_INS: dict[str, str] = {
    **dict.fromkeys(
        ("exaone4", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "glm4", "olmo2", "olmo3"), _NORMED
    ),
    "openai-gpt": _NORMED,
    **dict.fromkeys(("granitemoe", "gpt_oss", "jamba", "mixtral", "olmoe", "phimoe"), _EXPERTS),
    **dict.fromkeys(("qwen2_moe", "qwen3_moe", "qwen3_next"), _EXPERTS),
    "falcon": _FALCON,
    "minimax": _SCALED,
}


def failed_operations(family: str) -> Mapping[str, str] | None:
    """Return the operations that are not exact in a family, and why; None for a family that is not in the table."""
    if family not in EXACT and family not in LIMITED:
        return None
    stand_ins = {"stand_ins": NO_STAND_INS[family]} if family in NO_STAND_INS else {}
    return LIMITED.get(family, {}) | stand_ins


def require_exact(name: str, family: str, failed: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    """Check that all wanted operations are exact in the model's family.

    name: of the model; failed: operations that are not exact, and why; wanted: operations, and the setting that needs
    each (empty where every run does).

    Raises:
        InputError: for the first wanted operation that is not exact.
    """
    for operation, remedy in OPERATIONS.items():
        if operation in wanted and operation in failed:
            asked = f" (asked for by {wanted[operation]})" if wanted[operation] else ""
            raise InputError(
                f"{name} is of family {family}, in which {WORDS[operation]}{asked} is not exact:"
                f" {failed[operation].rstrip('.')}. What to do: {remedy}; {PAGE} lists the families"
            )
