"""What all groups of settings have in common."""

from pydantic import BaseModel, ConfigDict

# Settings (group, key) that may name a folder or file.
PATHS = (("model", "name"), ("task", "data"), ("distill", "data"), ("distill", "teacher"))


class Group(BaseModel):
    """A table of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
