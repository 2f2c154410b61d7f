"""Imported once by the server from which stages are forked: what most stages need and what is slow to import."""

import atexit
import os

import accelerate  # noqa: F401
import datasets
import lm_eval.models.huggingface  # noqa: F401
import torch  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig  # noqa: F401
from transformers.utils import logging

import tasks.core.blocks.surgery  # noqa: F401

datasets.disable_progress_bars()
logging.disable_progress_bar()
# The server keeps nothing that must be tidied up. Without this it takes the interpreter seconds to take apart what was
# imported here, while the run that it belongs to is long gone.
atexit.register(os._exit, 0)
