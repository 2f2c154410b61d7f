"""Settings of the empirical study: its parts, the number of rows, and the models compared."""

from typing import Annotated, Literal, get_args

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator, model_validator

from flows.settings.group import Group

Part = Literal["similarity", "lens", "importance", "landscape", "weights", "datasets"]
Pooling = Literal["mean_weighted", "mean", "mean_all", "max", "max_nonpad", "min", "last"]
PARTS: tuple[Part, ...] = get_args(Part)
# At least two: a drawing, a comparison or a standard error needs more than one.
Several = Annotated[int, Field(ge=2)]


class Study(Group, frozen=True):
    """The empirical study (`crash study`): what a model's blocks do, which ones matter, and where tuned models lie."""

    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = PARTS
    """Analyses to make; each part can be chosen alone."""
    num_samples: tuple[Annotated[int, Field(ge=4)], ...] = (64, 256)
    """Sizes of subsets of the support set on which similarity is computed as well, if below support.num_rows."""
    poolings: tuple[Pooling, ...] = ("mean", "last")
    """Poolings beside support.pooling for which similarity is computed as well."""
    num_bootstraps: Several = 100
    """Bootstraps of the rows, for the stability of the modules."""
    against: Literal["", "emulator", "plug_in"] = ""
    """Compare each full model's states also with its emulators or plug-ins, not only with other models."""
    lens_steps: PositiveInt = 250
    """Optimizer steps of the tuned lens, one affine translator for each block."""
    lens_learning_rate: PositiveFloat = 1e-3
    """Peak learning rate of the tuned lens."""
    lens_batch_size: PositiveInt = 32
    """Rows of one optimizer step of the tuned lens."""
    lens_rows: Several = 512
    """Training rows of the tuned lens; distances are computed on as many validation rows."""
    lens_block: PositiveInt = 512
    """Most tokens of a row for the tuned lens."""
    trajectory_rows: NonNegativeInt = 2
    """Validation rows whose words the page shows, with the likeliest token at every block and position; 0: none."""
    track_text: bool = False
    """Send pages and pictures that show words of rows to MLflow too; otherwise they stay in the store."""
    trajectory_positions: PositiveInt = 16
    """Last positions of a row that are shown."""
    distance_tokens: Several = 2048
    """Tokens over which distances between the blocks' predictions are averaged."""
    importance_rows: Several = 256
    """Validation rows on which blocks are deleted and replaced."""
    pairs: bool = True
    """Also run every block at every other one's position (N x N evaluations)."""
    rewound: bool = True
    """Also undo the tuning of one block at a time. Without this and `pairs`, blocks can be loaded one at a time."""
    points: tuple[str, ...] = ()
    """Models on the landscape: `initial`, `full`, a strategy, or a name of `other`; empty: all of them."""
    other: dict[str, str] = Field(default_factory=dict)
    """More tuned models by name: a folder with tuned.safetensors, or the start of a tuning's key in the store."""
    resolution_line: Several = 25
    """Points on the path between two models."""
    resolution_plane: Several = 25
    """Points on each axis of the plane through three models; the paper has 50, for four times the evaluations."""
    extent: tuple[float, float] = (-4.0, 4.0)
    """First and last coordinate of the plane; the first model is at 0, the two others at 1."""
    axes: Literal["raw", "filter"] = "raw"
    """Use the plane's directions as they are, or scale each filter to the norm of the first model's."""
    landscape_rows: Several = 64
    """Validation rows on which every point of the landscape is evaluated."""

    @field_validator("parts", "poolings", "points", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _each_once(self) -> "Study":
        for name in ("parts", "num_samples", "poolings", "points"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise ValueError(f"{name} = {list(given)} names one twice")
        if self.extent[0] >= self.extent[1]:
            raise ValueError(f"extent = {list(self.extent)}: give the smaller coordinate first")
        return self
