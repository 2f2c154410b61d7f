"""A model as the input of a stage: its folder and its identity."""

from pydantic import BaseModel, ConfigDict


class ModelSource(BaseModel):
    """A decoder-only model on this machine.

    path: its folder; name: as the user wrote it; weights, tokenizer: digests of content; context: tokens it takes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    name: str
    weights: str
    tokenizer: str
    num_blocks: int
    family: str
    context: int

    def cache_view(self) -> dict[str, str]:
        """The values that identify the model in a key: content, never its folder or its name."""
        return {"weights": self.weights, "tokenizer": self.tokenizer}
