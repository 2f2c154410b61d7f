"""The arguments of each stage, from the settings. Unused settings are not passed, so that they are in no key."""

from typing import Any

from flows.settings.kinds import SearchSettings
from flows.settings.run import Settings, Strategy
from tasks.core.clustering import FREE_LINKAGES
from tasks.core.errors import in_table
from tasks.core.plan.layout import LINEAR
from tasks.core.plan.placement import ends, tuned_before_selection
from tasks.core.plan.registry import STRATEGIES
from tasks.core.tuning.settings import TrainSettings

# The full model's tuning is what others are measured against, and nothing of it is returned.
UNPROTECTED = {"dp_noise": None, "max_change": None}


def plan_options(settings: Settings, name: Strategy) -> dict[str, Any]:
    """Return the options that a strategy's plan depends on, under their names in the settings, with `auto` resolved."""
    plan, strategy = settings.plan, STRATEGIES[name]
    share, placement = plan.share_of(name), plan.placement if strategy.placement else "auto"
    chosen = {key: getattr(plan, key) for key in strategy.options if hasattr(plan, key)}
    chosen["share"] = strategy.share if share == "auto" else None if share == "none" else share
    if strategy.needs == "single_clusters" and plan.linkage not in FREE_LINKAGES:
        chosen["linkage"] = FREE_LINKAGES[0]
    if placement in ("auto", strategy.placement):
        chosen.pop("placement", None)
    if strategy.placement:
        del chosen["num_tuned" if placement == "explicit" else "tuned"]
    return chosen


def is_linear(settings: Settings, strategy: Strategy) -> bool:
    """Return whether linear maps stand in for the blocks that a strategy removes."""
    return bool(plan_options(settings, strategy)["share"] == LINEAR)


def tuned_ahead(settings: Settings, strategy: Strategy, num_blocks: int) -> tuple[int, ...]:
    """Return the tuned blocks of a strategy's plans where they do not depend on its evidence, else none."""
    chosen, how = plan_options(settings, strategy), STRATEGIES[strategy]
    if "tuned" in chosen:
        return tuple(sorted(chosen["tuned"]))
    if chosen.get("placement", how.placement) == "ends" and not how.clusters:
        return ends(range(num_blocks), chosen["num_tuned"])
    return ()


class Arguments:
    """Arguments of the stages of one run, for a resolved precision."""

    def __init__(self, settings: Settings, precision: str) -> None:
        self._settings = settings
        self._precision = precision

    @property
    def capture(self) -> dict[str, Any]:
        """The support set and its pooling."""
        support = self._settings.support
        return {**support.model_dump(), "precision": self._precision}

    @property
    def similarity(self) -> dict[str, Any]:
        """The estimator whose matrix plans are made from."""
        return {"estimator": self._settings.similarity.estimator}

    @property
    def single(self) -> dict[str, Any]:
        """The support set for each block alone, without `final_norm`: no state is the last one before that norm."""
        return {name: value for name, value in self.capture.items() if name != "final_norm"}

    def iterative_drop(self, num_blocks: int) -> dict[str, Any]:
        """The support set, the estimator, the number of kept blocks, and the blocks that are never dropped."""
        chosen = plan_options(self._settings, "iterative_drop")
        placement = chosen.get("placement") or STRATEGIES["iterative_drop"].placement or ""
        protected = tuned_before_selection(num_blocks, chosen.get("num_tuned", 0), placement, chosen.get("tuned", ()))
        return {**self.capture, **self.similarity, "num_kept": chosen["num_kept"], "protected": protected}

    def is_linear(self, strategy: Strategy) -> bool:
        """Whether linear maps stand in for the blocks that this strategy removes."""
        return is_linear(self._settings, strategy)

    def is_harmonized(self, strategy: Strategy) -> bool:
        """Whether harmonizers run in the place of the blocks that this strategy removes."""
        return self._settings.plan.is_harmonized(strategy)

    def harmonizers(self, strategy: Strategy, num_blocks: int) -> dict[str, Any]:
        """The training of harmonizers and scores; blocks that are tuned in every plan of the strategy always run."""
        with in_table("harmonizers"):
            how = self._settings.harmonizers.harmonizing
        protected = tuned_ahead(self._settings, strategy, num_blocks)
        chosen = {"how": how, "block": self._settings.distill.block, "protected": protected}
        return {**chosen, "precision": self._precision}

    @property
    def harmonized(self) -> dict[str, Any]:
        """The share of the removed blocks that get their harmonizer."""
        return {"harmonized": self._settings.harmonizers.share}

    @property
    def stand_ins(self) -> dict[str, Any]:
        """The support set whose states linear stand-ins are fitted to, without what concerns pooled states alone."""
        return {name: value for name, value in self.single.items() if name != "pooling"}

    def stand_in_errors(self, num_blocks: int) -> dict[str, Any]:
        """The support set, and the length of the longest run that a plan with this budget can remove.

        All plans of a search have those of its smallest budget, so that they are measured once.
        """
        settings = self._settings
        budgets = settings.search.num_kept if isinstance(settings, SearchSettings) else ()
        return {**self.stand_ins, "longest": num_blocks - min(budgets or (settings.plan.num_kept,))}

    def cluster(self, strategy: Strategy, num_blocks: int, evidence: dict[str, Any] | None = None) -> dict[str, Any]:
        """The strategy, its options, and the results of earlier stages (`evidence`) that its plan is made from."""
        chosen = {"strategy": strategy, "num_blocks": num_blocks, **plan_options(self._settings, strategy)}
        return chosen | (self.similarity if STRATEGIES[strategy].clusters else {}) | (evidence or {})

    @property
    def compress(self) -> dict[str, Any]:
        """The compression of frozen blocks."""
        return {"how": self._settings.compress.compression}

    @property
    def distill(self) -> dict[str, Any]:
        """The training of frozen blocks."""
        with in_table("distill"):
            how = self._settings.distill.distillation
        chosen: dict[str, Any] = {"settings": how.training, "block": how.block, "hidden_weight": how.hidden_weight}
        if not how.elevation.changes_nothing:
            chosen["elevation"] = how.elevation
        return {**chosen, "precision": self._precision}

    @property
    def rates(self) -> tuple[float, ...]:
        """Learning rates at which the emulator is tuned, for each seed."""
        return grids(self._settings)[0]

    @property
    def full_rates(self) -> tuple[float, ...]:
        """Learning rates at which the full model is tuned, for each seed."""
        return grids(self._settings)[1]

    def tune(self, seed: int, rate: float | None = None) -> dict[str, Any]:
        """The training of the emulator; `variant` is left out for whole tuned blocks. rate: by default the first."""
        variant = self._settings.tune.tuning_method
        with in_table("tune"):
            settings = self._train_settings(seed, rate, self.rates)
        return {
            "settings": settings,
            "precision": self._precision,
            **({} if variant.is_default else {"variant": variant}),
        }

    def full_tune(self, seed: int, rate: float | None = None) -> dict[str, Any]:
        """The training of every block of the full model. rate: by default the first."""
        own = {"learning_rate": "full_tune.learning_rate"} if self._settings.full_tune.rates else {}
        with in_table("tune", **own):
            settings = self._train_settings(seed, rate, self.full_rates, **UNPROTECTED)
        return {"settings": settings, "precision": self._precision}

    def _train_settings(
        self, seed: int, rate: float | None, rates: tuple[float, ...], **chosen: object
    ) -> TrainSettings:
        own = {"learning_rate": rate or rates[0], "seed": seed, "may_diverge": len(rates) > 1}
        return self._settings.tune.train_settings(**own, **chosen)

    @property
    def proxies(self) -> dict[str, Any]:
        """The model owner's text that runs through emulators too: the support set, prompts and answers."""
        support = self._settings.support.model_dump(include={"num_rows", "split", "max_tokens"})
        return {**support, "precision": self._precision}

    @property
    def plug_in(self) -> dict[str, Any]:
        """Whether the plug-in is exported as a model folder."""
        return {"export": self._settings.export.plugged_model}

    @property
    def evaluate(self) -> dict[str, Any]:
        """Passes of validation and of a study, and with `scoring` of the five settings."""
        return {"precision": self._precision, "max_tokens": self._settings.evaluate.max_tokens}

    @property
    def scoring(self) -> dict[str, Any]:
        """Scoring of each of the five settings."""
        return {**self.evaluate, "num_fewshot": self._settings.evaluate.num_fewshot}


def grids(settings: Settings) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the learning rates of the emulator's and of the full model's tuning; the best of several is selected."""
    return settings.tune.rates, settings.full_tune.rates or settings.tune.full_rates


def emulator_wishes(settings: Settings, teacher: Any, text: Any) -> dict[str, Any]:
    """Return what the settings ask of emulators beyond a plan, which the check of the inputs compares with the model.

    teacher: of a distillation; text: of a distillation or of harmonizers, else None.
    """
    wanted: dict[str, Any] = {}
    if compression := settings.compress.compression:
        wanted["compression"] = compression
    if text is not None:
        wanted |= {"text": text, "block": settings.distill.block}
    if settings.distill.enabled and settings.distill.teacher:
        wanted["teacher"] = teacher
    return wanted
