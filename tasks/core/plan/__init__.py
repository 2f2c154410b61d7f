"""Plans: which blocks of a model an emulator keeps, tunes and repeats.

This is the public face. Inside the project, modules import the submodules: `layout` holds `Plan`, the others one family
of strategies each, `registry` finds a strategy by its name.
"""

from tasks.core.faces import face_of

__getattr__ = face_of(__name__, ("layout", "placement", "registry", "spaced", "sampled", "measured"))
