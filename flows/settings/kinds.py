"""Settings of the other flows, which have more tables than a run, and of files for all flows."""

from typing import Any, cast

from pydantic import model_validator

from flows.settings.audit import Audit
from flows.settings.plan import Strategy
from flows.settings.run import Kind, Settings
from flows.settings.study import Study
from flows.settings.tables import Exchange, Search, Task
from tasks.core.errors import InputError


class SearchSettings(Settings, frozen=True):
    """Settings of a search (`crash search`): those of a run, and the table `[search]`."""

    search: Search = Search()


class StudySettings(Settings, frozen=True):
    """Settings of a study (`crash study`), and of each of its cells: those of a run, and the table `[study]`."""

    study: Study = Study()


class EmulateSettings(Settings, frozen=True):
    """Settings of an emulator that is given away (`crash emulate`): those of a run, and the table `[exchange]`."""

    exchange: Exchange = Exchange()

    @property
    def held_out(self) -> tuple[Task, ...]:
        """Further tasks on which the full model, the emulator and the plugged model are scored."""
        return self.exchange.held_out

    def require_one_strategy(self) -> Strategy:
        """Return the strategy.

        Raises:
            InputError: when there are several.
        """
        if len(self.strategy) > 1:
            raise InputError(f"strategy = {list(self.strategy)}: one emulator is given away, so give one strategy")
        return self.strategy[0]


class AuditSettings(EmulateSettings, frozen=True):
    """Settings of a recovery audit (`crash audit`): those of an emulator, `distill.data`, and the table `[audit]`."""

    audit: Audit = Audit()

    @model_validator(mode="after")
    def _has_text(self) -> "AuditSettings":
        if self.distill.data is None:
            raise ValueError(
                "an audit needs distill.data, the public text on which losses are measured and hidden blocks trained:"
                " give a folder with train and validation files of text"
            )
        return self

    @property
    def text(self) -> str | None:
        """The public text, whether or not emulators are distilled on it."""
        return self.distill.data

    def require_hidden(self, num_blocks: int) -> None:
        """Check, before anything is computed, that each emulator hides blocks, and that these can be filled in.

        Raises:
            InputError: when a strategy keeps every block, or has harmonizers.
        """
        for name in self.strategy:
            num_kept = len(self.plan.kept) if name == "fixed" else self.plan.num_kept
            if num_kept >= num_blocks:
                raise InputError(
                    f"strategy {name} keeps all {num_blocks} blocks of {self.model.name}, so that none is hidden and"
                    " nothing can be recovered: keep fewer (plan.num_kept, plan.kept)"
                )
            if self.plan.is_harmonized(name):
                raise InputError(
                    f"strategy {name} has harmonizers in the places of hidden blocks, which the audit does not fill in"
                    ' once more: choose another plan.share than "harmonizers"'
                )


class AllSettings(StudySettings, SearchSettings, EmulateSettings, frozen=True):
    """A settings file may have the tables of all flows. Each command checks them all, and its flow gets its own."""

    # Not by inheritance: of other flows' files, an audit's text is not asked for.
    audit: Audit = Audit()


def validated(values: dict[str, Any], kind: type[Kind]) -> Kind:
    """Return the settings that a kind of flow takes from a file's values, of which every table is checked.

    Raises:
        ValidationError: when a setting of any table is invalid.
    """
    whole = AllSettings.model_validate(values)
    if kind is AllSettings:
        return cast(Kind, whole)
    return kind.model_validate({name: value for name, value in values.items() if name in kind.model_fields})
