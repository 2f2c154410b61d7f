"""Plans: which blocks of a model an emulator keeps, tunes and repeats.

This package re-exports the public names. Inside the project, modules import the submodules: `layout` defines `Plan`,
`placement` decides which blocks are tuned, `spaced`, `sampled` and `measured` define one family of strategies each, and
`registry` finds a strategy by its name.
"""

from tasks.core.faces import face_of

__getattr__ = face_of(__name__, ("layout", "placement", "registry", "spaced", "sampled", "by_similarity"))
