"""Blocks of a model: find them in any family, rearrange them, run some of them, plug them in.

This package re-exports the public names. Inside the project, modules import the submodules: `locate_blocks` finds the
blocks, `surgery` removes, repeats and plugs them in, `partial_passes` runs a model up to or from one of them.
"""

from tasks.core.faces import face_of

__getattr__ = face_of(__name__, ("locate_blocks", "surgery", "partial_passes"))
