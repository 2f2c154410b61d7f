"""The five settings and their differences by hand."""

import statistics

import pytest

from tasks.core.evaluation.comparison import Score, compare, mean_score

SEEDS = (0, 1, 2)
TUNED = [Score(value, 0.02, seed) for seed, value in enumerate((0.30, 0.34, 0.32))]
PLUGGED = [Score(value, 0.02, seed) for seed, value in enumerate((0.50, 0.55, 0.48))]
FULL = [Score(value, 0.01, seed) for seed, value in enumerate((0.90, 0.92, 0.94))]


def compared(higher_is_better: bool = True):
    strategies = {"uniform": (Score(0.10, 0.01), TUNED, PLUGGED)}
    return compare("acc", higher_is_better, Score(0.20, 0.03), FULL, strategies)


def test_means_and_errors_over_seeds():
    result = compared()
    [uniform] = result.strategies
    assert result.full_zero_shot.value == 0.20
    assert (result.full_zero_shot.stderr, result.full_zero_shot.error_over) == (0.03, "rows")
    assert uniform.plug_in.value == pytest.approx(0.51)
    assert uniform.plug_in.stderr == pytest.approx(statistics.stdev((0.50, 0.55, 0.48)) / 3**0.5)
    assert uniform.plug_in.error_over == "seeds"
    assert uniform.emulator_fine_tuned.value == pytest.approx(0.32)
    assert uniform.emulator_fine_tuned.stderr == pytest.approx(0.02 / 3**0.5)
    assert (uniform.emulator_zero_shot.value, uniform.emulator_zero_shot.stderr) == (0.10, 0.01)
    assert result.full_fine_tuned.value == pytest.approx(0.92)
    assert result.full_fine_tuned.num_seeds == 3


def test_differences_are_paired_by_seed():
    [uniform] = compared().strategies
    gaps = (0.20, 0.21, 0.16)
    assert uniform.privacy_gap.value == pytest.approx(statistics.mean(gaps))
    assert uniform.privacy_gap.stderr == pytest.approx(statistics.stdev(gaps) / 3**0.5)
    assert uniform.gain.value == pytest.approx(0.51 - 0.20)
    assert uniform.leak.value == pytest.approx(0.32 - 0.20)


def test_recovered_is_a_ratio_of_means_with_the_error_of_the_delta_method():
    recovered = compared().strategies[0].recovered
    assert recovered is not None
    gains, possible = (0.30, 0.35, 0.28), (0.70, 0.72, 0.74)
    mean_gain, mean_possible = statistics.mean(gains), statistics.mean(possible)
    ratio = mean_gain / mean_possible
    assert recovered.value == pytest.approx(ratio) == pytest.approx(0.31 / 0.72)
    variances = statistics.variance(gains) + ratio**2 * statistics.variance(possible)
    variance = (variances - 2 * ratio * statistics.covariance(gains, possible)) / mean_possible**2
    assert recovered.stderr == pytest.approx((variance / 3) ** 0.5)
    assert (recovered.num_seeds, recovered.error_over) == (3, "seeds")


def test_all_of_it_is_recovered_by_plugging_in_what_the_full_tuning_gives():
    recovered = compare("acc", True, Score(0.2), FULL, {"crash": (Score(0.1), TUNED, FULL)}).strategies[0].recovered
    assert recovered is not None
    assert (recovered.value, recovered.stderr) == pytest.approx((1.0, 0.0))


@pytest.mark.parametrize("tuned", [[], [Score(0.1)], [Score(0.2)]])
def test_nothing_is_recovered_where_tuning_the_full_model_does_not_help(tuned):
    result = compare("acc", True, Score(0.2), tuned, {"crash": (Score(0.1), TUNED[:1], PLUGGED[:1])})
    assert result.strategies[0].recovered is None
    assert "recovered" not in {row["setting"] for row in result.rows()}


@pytest.mark.parametrize(("higher_is_better", "emulator", "share"), [(True, 0.1, 0.5), (False, 0.4, 0.5)])
def test_cpl_is_below_one_where_the_emulator_is_worse(higher_is_better, emulator, share):
    strategies = {"crash": (Score(emulator, 0.01), TUNED[:1], PLUGGED[:1])}
    cpl = compare("acc", higher_is_better, Score(0.2, 0.03), [], strategies).strategies[0].cpl
    assert cpl is not None
    assert (cpl.value, cpl.stderr) == (pytest.approx(share), None)


def test_cpl_of_nothing_is_unknown():
    strategies = {"crash": (Score(0.1), TUNED[:1], PLUGGED[:1])}
    assert compare("acc", True, Score(0.0), [], strategies).strategies[0].cpl is None


def test_where_lower_is_better_a_fall_is_a_gain():
    [better], [worse] = compared().strategies, compared(higher_is_better=False).strategies
    for name in ("gain", "leak", "privacy_gap"):
        assert getattr(worse, name).value == -getattr(better, name).value


def test_one_seed_keeps_the_error_over_rows():
    mean = mean_score([Score(0.4, 0.05, 0)])
    assert (mean.value, mean.stderr, mean.num_seeds, mean.error_over) == (0.4, 0.05, 1, "rows")


def test_a_single_difference_claims_no_error():
    result = compare("acc", True, Score(0.2, 0.03), [], {"crash": (Score(0.1, 0.01), TUNED[:1], PLUGGED[:1])})
    assert result.full_fine_tuned is None
    assert result.strategies[0].privacy_gap.stderr is None


def test_long_rows_hold_every_setting_once():
    rows = compared().rows()
    assert [(row["strategy"], row["setting"]) for row in rows] == [
        ("full", "full_zero_shot"),
        ("full", "full_fine_tuned"),
        ("uniform", "emulator_zero_shot"),
        ("uniform", "emulator_fine_tuned"),
        ("uniform", "plug_in"),
        ("uniform", "gain"),
        ("uniform", "leak"),
        ("uniform", "privacy_gap"),
        ("uniform", "recovered"),
        ("uniform", "cpl"),
    ]
    assert {row["metric"] for row in rows} == {"acc"}
    by_setting = {row["setting"]: row for row in rows}
    zero_shot, plugged = by_setting["full_zero_shot"], by_setting["plug_in"]
    assert [zero_shot[key] for key in ("value", "stderr", "num_seeds", "error_over")] == [0.20, 0.03, 1, "rows"]
    assert plugged["value"] == pytest.approx(0.51)
    assert plugged["stderr"] == pytest.approx(statistics.stdev((0.50, 0.55, 0.48)) / 3**0.5)
    assert (plugged["num_seeds"], plugged["error_over"]) == (3, "seeds")


def test_strategies_do_not_mix():
    strategies = {"uniform": (Score(0.1), TUNED, PLUGGED), "crash": (Score(0.4), PLUGGED, TUNED)}
    uniform, crash = compare("acc", True, Score(0.2), FULL, strategies).strategies
    assert (uniform.name, crash.name) == ("uniform", "crash")
    assert crash.emulator_zero_shot.value == 0.4
    assert crash.privacy_gap.value == pytest.approx(-uniform.privacy_gap.value)
    assert crash.gain.value == pytest.approx(uniform.leak.value)
    assert crash.leak.value == pytest.approx(uniform.gain.value)


def test_gain_is_leak_plus_privacy_gap():
    [uniform] = compared().strategies
    assert uniform.gain.value == pytest.approx(uniform.leak.value + uniform.privacy_gap.value)


def test_seeds_that_do_not_match_are_an_error():
    with pytest.raises(ValueError, match="shorter"):
        compare("acc", True, Score(0.2), [], {"crash": (Score(0.1), TUNED[:2], PLUGGED)})
