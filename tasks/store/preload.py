"""Imported once by the server from which stages are forked: what most stages need and what is slow to import."""

import datasets  # noqa: F401
import lm_eval.models.huggingface  # noqa: F401
import torch  # noqa: F401
import transformers  # noqa: F401
