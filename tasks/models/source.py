"""A model as an input of a stage: where it lies, and what identifies it."""

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
        """What identifies the model in a key: content, never where it lies or what it is called."""
        return {"weights": self.weights, "tokenizer": self.tokenizer}
