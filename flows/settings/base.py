"""The base class of all groups of settings."""

from pydantic import BaseModel, ConfigDict

# Settings that name a folder, which may lie beside the file.
FOLDERS = (("model", "name"), ("task", "data"), ("distill", "teacher"), ("distill", "data"), ("study", "other"))


class Group(BaseModel):
    """A table of settings; unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
