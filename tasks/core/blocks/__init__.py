"""Blocks of a model: found in any family, rearranged, run in part, plugged in.

This is the public face. Inside the project, modules import the submodules: `anatomy` finds the blocks, `surgery` takes
them out, repeats and returns them, `partial_passes` runs a model up to or from one of them.
"""

from tasks.core.faces import face_of

__getattr__ = face_of(__name__, ("anatomy", "surgery", "partial_passes"))
