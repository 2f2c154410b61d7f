"""The sections of a study's page with their figures, in reading order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tasks.artifacts.study.importance import importance_summary
from tasks.reports.study.cells import CellResults, DrawnFigure
from tasks.reports.study.channels import draw_channels
from tasks.reports.study.datasets import draw_datasets
from tasks.reports.study.importance import draw_importance
from tasks.reports.study.landscape import draw_landscape
from tasks.reports.study.lens import draw_lens
from tasks.reports.study.modules import draw_structure
from tasks.reports.study.similarity import draw_cross, draw_similarity
from tasks.reports.study.weights import draw_weights

Draw = Callable[[Sequence[CellResults], Path], list[DrawnFigure]]


@dataclass(frozen=True)
class Section:
    """A part of the page. name: for links; intro: what its figures can and cannot tell; stages: that it shows."""

    name: str
    title: str
    intro: str
    stages: Sequence[str]
    figures: Sequence[DrawnFigure]


@dataclass(frozen=True)
class Part:
    """A section before its figures are drawn."""

    name: str
    title: str
    intro: str
    stages: Sequence[str]
    draws: Sequence[Draw]
    caution: Callable[[Sequence[CellResults]], str] = lambda cells: ""


def _loss_that_says_little(cells: Sequence[CellResults]) -> str:
    """Return a caution that names the cells in which deleting most blocks lowers the loss."""
    said = []
    for cell in cells:
        if "importance" not in cell.analyses:
            continue
        facts = importance_summary(cell.analyses["importance"])
        if 2 * facts["num_helpful"] > facts["num_blocks"]:
            said.append(f"{cell.label} ({facts['num_helpful']} of {facts['num_blocks']} blocks)")
    if not said:
        return ""
    return (
        f" Caution: on {', '.join(said)} most deletions lower the loss. The model as it is does not know this data, so"
        " that these numbers do not tell what its blocks are for; data that it knows, or a tuned model, would."
    )


PARTS: tuple[Part, ...] = (
    Part(
        "similarity",
        "Similarity",
        "How alike the states behind every two blocks are, on the same rows. Biased CKA is high for any two states with"
        " more dimensions than rows; the debiased estimator is not. Where one channel holds most of the variance, CKA"
        " compares that channel.",
        ("similarity", "cross"),
        (draw_similarity, draw_channels, draw_cross),
    ),
    Part(
        "structure",
        "Modules",
        "Whether neighbouring blocks form groups, how many, and how sure that is: by rows, pooling and data set.",
        ("structure",),
        (draw_structure,),
    ),
    Part(
        "lens",
        "Predictions",
        "What each block would predict if the model ended there, read through a lens: the model's own norm and head"
        " (logit lens), or these behind an affine map that was trained for the block (tuned lens).",
        ("lens", "distances", "trajectory"),
        (draw_lens,),
    ),
    Part(
        "importance",
        "Importance",
        "What is lost without a block, with another in its place, and when its tuning is undone. The smaller the loss"
        " without a block, the more its neighbours can stand in for it.",
        ("importance",),
        (draw_importance,),
        _loss_that_says_little,
    ),
    Part(
        "landscape",
        "Loss landscape",
        "Where tuned models lie. The barrier between two models is the largest rise of the loss on the line between"
        " them over the straight line between their losses; up to 2 % of the mean of both they are called linearly"
        " connected.",
        ("landscape",),
        (draw_landscape,),
    ),
    Part(
        "weights",
        "Weights",
        "How the blocks' matrices of the same role differ, and how far tuning moved them. Blocks with unlike weights"
        " may do alike things: distances of weights say little about functions.",
        ("weights",),
        (draw_weights,),
    ),
    Part(
        "datasets",
        "Data sets",
        "How far apart several data sets lie in one model's states. Their rows are not paired, so that CKA would mean"
        " nothing here.",
        ("dataset_distances",),
        (draw_datasets,),
    ),
)


def draw(cells: Sequence[CellResults], out: Path) -> list[Section]:
    """Draw every part; return those with figures."""
    made = [
        Section(part.name, part.title, part.intro + part.caution(cells), part.stages, _drawn(part, cells, out))
        for part in PARTS
    ]
    names = [drawn.name for section in made for drawn in section.figures]
    assert len(set(names)) == len(names), f"two figures of one name among {names}"
    return [section for section in made if section.figures]


def _drawn(part: Part, cells: Sequence[CellResults], out: Path) -> list[DrawnFigure]:
    return [each for draw in part.draws for each in draw(cells, out)]


def without_words(sections: Sequence[Section]) -> list[Section]:
    """Return the sections without figures that show words of rows, with a note on how many were left out."""
    found = []
    for section in sections:
        kept = [drawn for drawn in section.figures if not drawn.private]
        left = len(section.figures) - len(kept)
        said = f" Left out here: {left} figure{'s' if left > 1 else ''} with words of rows." if left else ""
        found.append(replace(section, figures=kept, intro=section.intro + said))
    return found
