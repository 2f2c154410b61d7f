"""A bundle that was verified and copied, as the input of a stage."""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class ReceivedBundle(BaseModel):
    """A bundle of this party's home. path: folder that was made of it; digest: SHA-256 of its manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    kind: Literal["emulator", "tuned_blocks"]
    digest: str

    def cache_view(self) -> dict[str, str]:
        """The values that identify the bundle in a key: the manifest has the digests of all its files."""
        return {"kind": self.kind, "digest": self.digest}
