"""Slow imports that most stages need, done once by the server from which stages are forked."""

import atexit
import gc
import os

import accelerate  # noqa: F401
import datasets
import lm_eval.models.huggingface
import lm_eval.tasks  # noqa: F401
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: F401
from transformers.conversion_mapping import get_checkpoint_conversion_mapping
from transformers.utils import logging

import tasks.core.blocks.surgery
import tasks.engine.child_process  # noqa: F401

# Compiles a few hundred patterns for all families of models at its first call, whichever family is asked for.
get_checkpoint_conversion_mapping("llama")
datasets.disable_progress_bars()
logging.disable_progress_bar()
# The server has nothing to clean up. Without this the interpreter needs seconds to tear down these imports, long after
# the server's run has ended.
atexit.register(os._exit, 0)
# A collection in a stage would touch all these objects, and so copy the memory that it shares with the server.
gc.freeze()
