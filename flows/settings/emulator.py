"""Settings of emulators that are compressed, distilled or have harmonizers."""

from pydantic import model_validator

from flows.settings.group import Group
from tasks.core.compression.settings import Compression, CompressOptions
from tasks.core.harmonizers.settings import HarmonizerOptions, Harmonizing
from tasks.core.tuning.settings import Distillation, DistillOptions


class Compress(Group, CompressOptions, frozen=True):
    """Compression of the emulator's frozen blocks; tuned blocks stay as they are."""

    @model_validator(mode="after")
    def _method_has_its_number(self) -> "Compress":
        _ = self.compression
        return self

    @property
    def compression(self) -> Compression | None:
        """The stage's compression; None for method none."""
        return None if self.method == "none" else self.make(Compression)


class Distill(Group, DistillOptions, frozen=True):
    """Distillation of the emulator's frozen blocks on generic text, with the full model as teacher (Offsite-Tuning)."""

    enabled: bool = False
    """Distill; needs data and num_steps."""
    teacher: str | None = None
    """Folder or hub id of a model with the same depth, width and vocabulary; by default the model itself."""
    data: str | None = None
    """Folder with train and validation files of text, as for task.kind = "text", or a hub data set (owner/name)."""

    @model_validator(mode="after")
    def _enabled_is_complete(self) -> "Distill":
        if not self.enabled:
            return self
        if missing := [name for name in ("data", "num_steps") if getattr(self, name) is None]:
            raise ValueError(f"enabled = true needs {' and '.join(missing)}")
        _ = self.distillation
        return self

    @property
    def distillation(self) -> Distillation:
        """The settings of the training of frozen blocks, where it is enabled."""
        return self.make(Distillation)


class Harmonizers(Group, HarmonizerOptions, frozen=True):
    """Small networks that replace blocks, and scores of the blocks, trained on the text of `distill.data` (ScaleOT)."""

    @model_validator(mode="after")
    def _possible(self) -> "Harmonizers":
        _ = self.harmonizing
        return self

    @property
    def harmonizing(self) -> Harmonizing:
        """The settings of their training."""
        return self.make(Harmonizing)
