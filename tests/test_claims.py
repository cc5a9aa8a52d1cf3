"""Verdicts on the claims, from stores and measurements written by hand."""

import numpy as np
import pandas as pd
import pytest
from handmade import write
from scipy import stats

from amu_experiments import AMU
from amu_experiments.analysis import comparison
from amu_experiments.analysis.cases import Case
from amu_experiments.analysis.claims import FACTOR, GENERATION, LONG, judge
from amu_experiments.analysis.comparison import compare, higher_is_better
from amu_experiments.analysis.evidence import MOST
from amu_experiments.analysis.reading import Reading
from amu_experiments.analysis.verdicts import (
    SIGNIFICANT,
    Claim,
    Finding,
    Verdict,
    claims_tables,
    hangs_on,
    speaks_against,
    speaks_for,
    speaks_for_neither,
    summary,
    verdicts_by_case,
)
from amu_experiments.options import added_options
from amu_experiments.store import read_results

QUICK = [300 + 10 * n for n in range(10)]
SLOW = [800 + 10 * n for n in range(10)]
NEVER = [None] * 10
NOISE_FREE = {"variant": "noise_free"}
NOISY = {"variant": "noisy_target", "criteria": {"noisy_target": {"st1": {"wrong": "== 0"}, "st2": {"wrong": "== 0"}}}}
REBER, LEGAL = ({"problem": "embedded_reber", "targets": targets} for targets in ("next", "legal"))
TASKS = (NOISE_FREE, NOISY, REBER, LEGAL)
ABSTRACT = {"neurons_per_unit": 2, "output_in_product": False}
TFRAME = Case(Reading(), "adam")


def judged(root, rows, mechanism=None) -> dict[str, Claim]:
    """The claims by name, from rows (cell, ends, task, model settings, optimizer or Adam).

    An AMU has the truncated gradient if its settings do not say otherwise.
    """
    results = []
    for place, (cell, ends, task, model, *optimizer) in enumerate(rows):
        model = ({"gradient": "truncated"} if cell == "amu" else {}) | model
        training = {"optimizer": (*optimizer, "adam")[0]}
        results.append(write(root, cell, ends, identity=f"{place:012}", task=task, model=model, training=training))
    return {claim.id: claim for claim in judge(compare(results), mechanism or {})}


def verdicts(root, rows, mechanism=None) -> dict[str, Verdict]:
    """The verdicts by the names of the claims, from rows with one case."""
    claims = judged(root, rows, mechanism)
    assert {len(claim.verdicts) for claim in claims.values()} == {1}
    return {name: claim.verdicts[0] for name, claim in claims.items()}


def against(amu, others, tasks=TASKS, model=(), *optimizer) -> list[tuple]:
    """The AMU with these settings and, of each task, the three others."""
    rivals = dict(zip(("lstm", "gru", "rnn"), others, strict=True))
    rows = {"amu": (amu, dict(model)), **{cell: (ends, {}) for cell, ends in rivals.items()}}
    return [(cell, ends, task, own, *optimizer) for task in tasks for cell, (ends, own) in rows.items()]


def measured(rows: list[tuple]) -> dict[str, pd.DataFrame]:
    """Measurements of ten trials: rows (place of the run, cell, quantity, value at trial 0), a little more in each.

    Runs of the same value have the same untrained networks, but not the same trained ones.
    """
    trials = [
        {
            "task": "two_sequence",
            "model": cell,
            "identity": f"{place:012}",
            "phase": phase,
            "flow": "full",
            "trial": trial,
            "quantity": quantity,
            "value": value * (1 + trial / 100) * (1 + (place + 1) / 1000 if phase == "trained" else 1),
        }
        for place, cell, quantity, value in rows
        for phase in ("start", "trained")
        for trial in range(10)
    ]
    return {"trials": pd.DataFrame(trials)}


# How findings make a verdict


@pytest.mark.parametrize(
    ("says", "verdict"),
    [
        (["supported"], "supported"),
        (["contradicted"], "contradicted"),
        (["supported", "supported", "undecided"], "supported"),
        (["contradicted", "contradicted", "undecided"], "contradicted"),
        (["supported", "undecided"], "undecided"),
        (["supported", "supported", "contradicted"], "undecided"),
        (["contradicted", "contradicted", "supported"], "undecided"),
        (["supported", "supported", "missing"], "undecided"),
        (["contradicted", "contradicted", "missing"], "undecided"),
        (["undecided"], "undecided"),
        (["missing", "missing"], "not run"),
    ],
)
def test_a_verdict_takes_more_than_half_of_the_findings_and_none_against(says, verdict):
    assert Verdict(TFRAME, [Finding("text", each) for each in says]).verdict == verdict


def test_nothing_run_judges_no_claim_and_names_what_is_missing():
    claims = judge([], {})
    assert [claim.id for claim in claims] == [
        *("separation", "algorithm", "memory", "gradient", "convergence", "generation", "classification")
    ]
    assert {claim.sentence for claim in claims} == {"Not run."}
    assert {verdict.case.name for claim in claims for verdict in claim.verdicts} == {"abstract (Adam)"}
    assert all(finding.says == "missing" for claim in claims for finding in claim.verdicts[0].findings)
    assert not any(claim.has_runs for claim in claims)
    (generation,) = claims[5].verdicts
    assert "10 trials or more of each of amu, lstm, gru, rnn, trained by Adam" in generation.findings[0].text
    assert generation.would_change == "It needs the runs of all its findings; missing: 2 of 2."


def test_a_claim_has_runs_if_a_finding_rests_on_some(tmp_path):
    claims = judged(tmp_path, against(QUICK, [SLOW, SLOW, NEVER], [NOISE_FREE]))
    assert [name for name, claim in claims.items() if claim.has_runs] == ["convergence", "classification"]


def test_verdicts_do_not_depend_on_the_reference(tmp_path):
    rows = against(QUICK, [SLOW, SLOW, NEVER], [NOISE_FREE])
    results = [
        write(tmp_path, cell, ends, task=task, model=model | {"gradient": "truncated"}, training={"optimizer": "adam"})
        for cell, ends, task, model in rows
    ]
    comparisons = compare(results)
    assert judge(comparison.against(comparisons, "gru"), {}) == judge(comparisons, {})


# Generation, classification, convergence


def test_a_cell_ahead_of_all_others_is_better(tmp_path):
    claims = verdicts(tmp_path, against(QUICK, [SLOW, SLOW, NEVER]))
    assert claims["generation"].verdict == claims["classification"].verdict == "supported"
    assert claims["convergence"].verdict == "supported"
    assert (
        "amu 10/10, median 340 against rnn 0/10, median not reached, p < 0.001" in claims["generation"].findings[0].text
    )
    assert "embedded_reber-noise_free-T100-N3-next-criteria" in claims["generation"].rests_on


def test_the_strongest_other_cell_decides(tmp_path):
    claims = verdicts(tmp_path, against(SLOW, [NEVER, QUICK, NEVER]))
    assert claims["generation"].verdict == claims["classification"].verdict == "contradicted"
    assert "undecided if at least one finding said supported" in claims["classification"].would_change


def test_equal_cells_decide_nothing(tmp_path):
    claims = verdicts(tmp_path, against(QUICK, [QUICK, SLOW, NEVER]))
    assert claims["generation"].verdict == "undecided"
    assert not claims["classification"].count("missing")
    assert "2 more of 2 would be enough" in claims["classification"].would_change
    assert "2 more of 2 would be enough" in claims["generation"].would_change


def test_a_cell_that_never_solves_contradicts_convergence(tmp_path):
    assert verdicts(tmp_path, against(NEVER, [QUICK, SLOW, NEVER]))["convergence"].verdict == "contradicted"


def test_one_experiment_for_and_one_against_leave_it_open(tmp_path):
    rows = [*against(QUICK, [SLOW] * 3, [NOISE_FREE]), *against(SLOW, [QUICK] * 3, [NOISY])]
    classification = verdicts(tmp_path, rows)["classification"]
    assert classification.verdict == "undecided"
    assert "Findings disagree (1 for it, 1 against it)" in classification.would_change


def test_a_missing_rival_or_too_few_trials_leave_it_open(tmp_path):
    without = [row for row in against(QUICK, [SLOW] * 3) if row[:1] + row[2:3] != ("gru", NOISY)]
    claims = verdicts(tmp_path / "without", without)
    assert claims["generation"].verdict == "supported"
    assert claims["classification"].verdict == "undecided"
    assert "noisy_target" in claims["classification"].findings[1].text
    few = verdicts(tmp_path / "few", against(QUICK[:9], [NEVER] * 3))
    assert few["generation"].verdict == few["convergence"].verdict == "not run"


def test_the_truncated_unit_is_judged_and_others_are_told_beside(tmp_path):
    full = [("amu", QUICK, task, {"gradient": "full"}) for task in TASKS]
    generation = verdicts(tmp_path, [*full, *against(SLOW, [QUICK, NEVER, NEVER])])["generation"]
    assert generation.verdict == "contradicted"
    assert generation.beside == [
        f"embedded_reber-noise_free-T100-N3-{targets}: amu (gradient=full) 10/10, median 340"
        for targets in ("next", "legal")
    ]


def test_the_p_of_a_claim_is_that_of_scipys_logrank_test_on_the_stored_trials(tmp_path):
    """The claim rests on three tests on one experiment; Holm multiplies the smallest of three p by 3."""
    times = {"amu": QUICK, "lstm": [n + 45 for n in QUICK], "gru": QUICK, "rnn": QUICK}
    rows = [(cell, ends, REBER, {}) for cell, ends in times.items()]
    finding, *missing = verdicts(tmp_path, rows)["generation"].findings
    samples = {}
    for path in tmp_path.glob("*/*/*/trials-0-9/trials.csv"):
        trials = pd.read_csv(path)
        samples[path.parts[-4]] = trials["st2_sequences"].fillna(trials["sequences"])
    p = 3 * stats.logrank(samples["amu"], samples["lstm"]).pvalue
    assert 0.001 < p < 0.2
    assert f"against lstm 10/10, median 385, p = {p:.3f}" in finding.text
    assert {each.says for each in missing} == {"missing"}


# Experiments in which networks generate

RIVALS = ("lstm", "gru", "rnn")
WAVEFORMS = [each.name for each in GENERATION if each.name.startswith("waveform")]


def generated(root, levels: dict[str, dict[str, int]], grammar=(QUICK, SLOW)) -> Claim:
    """The claim of generation, from the grammar as the AMU and its rivals learned it, and the other experiments.

    levels: for each experiment, how good each cell is; of two levels, every trial of the higher one is better.
    """
    results = [
        write(root, cell, grammar[cell != "amu"], task=task, model=options(cell), training={"optimizer": "adam"})
        for task in (REBER, LEGAL)
        for cell in ("amu", *RIVALS)
    ]
    for experiment in GENERATION:
        for cell, level in levels.get(experiment.name, {}).items():
            values = [level + trial / 100 for trial in range(10)]
            size = experiment.parameters or 42
            results.append(
                write(
                    root,
                    cell,
                    NEVER,
                    task=experiment.settings,
                    model=options(cell) | {"units": size // 10},
                    training={"optimizer": "adam"},
                    tested={experiment.metric: values if higher_is_better(experiment.metric) else np.negative(values)},
                    parameters=size + 5,
                )
            )
    (claim,) = (each for each in judge(compare(results), {}) if each.id == "generation")
    return claim


def options(cell: str) -> dict:
    return {"gradient": "truncated"} if cell == "amu" else {}


def levels(amu: int = 1, names=tuple(each.name for each in GENERATION), **rivals: int) -> dict[str, dict[str, int]]:
    """The AMU with this level, and rivals with the level 0 or their own, in these experiments."""
    return {name: {"amu": amu, "lstm": 0, "gru": 0, "rnn": 0} | rivals for name in names}


def test_generation_is_judged_by_one_metric_of_each_experiment(tmp_path):
    claim = generated(tmp_path, levels())
    (verdict,) = claim.verdicts
    assert (verdict.words, claim.sentence) == ("supported", "Supported.")
    assert len(verdict.findings) == 2 + len(GENERATION) == 14
    (mso,) = (finding.text for finding in verdict.findings if finding.text.startswith("mso5"))
    assert mso.startswith("mso5, free_nrmse: median -1.04 (amu) against -0.0450 (lstm), p = 0.0")
    assert [mso.count(f"({rival})") for rival in RIVALS] == [1, 1, 1]


def test_an_amu_behind_any_rival_contradicts_and_findings_on_both_sides_leave_it_open(tmp_path):
    worse = levels(rnn=2)
    assert generated(tmp_path / "all", worse, (SLOW, QUICK)).verdicts[0].verdict == "contradicted"
    one = levels() | {"pen": worse["pen"]}
    (verdict,) = generated(tmp_path / "one", one).verdicts
    assert (verdict.count("supported"), verdict.count("contradicted"), verdict.verdict) == (13, 1, "undecided")


@pytest.mark.parametrize(("better", "verdict"), [(6, "supported"), (5, "undecided")])
def test_generation_takes_more_than_half_of_fourteen_findings(tmp_path, better, verdict):
    """Two of the findings, those of the grammar, are for the AMU."""
    names = [each.name for each in GENERATION]
    (found,) = generated(tmp_path, levels(0) | levels(1, names[:better])).verdicts
    assert (found.count("supported"), found.count("missing"), found.verdict) == (2 + better, 0, verdict)


def test_an_experiment_without_runs_is_left_out_and_makes_the_verdict_partial(tmp_path):
    there = levels(1, [each.name for each in GENERATION if each.name not in ("pen", "chorales")])
    del there["mso2"]["gru"]
    claim = generated(tmp_path / "partial", there)
    (verdict,) = claim.verdicts
    assert (verdict.verdict, verdict.words) == ("supported", "supported (partial)")
    assert (claim.sentence, len(verdict.judged)) == ("Supported (partial).", 11)
    assert verdict.findings[-1].text.startswith("left out: mso2, pen, chorales: needs 10 trials or more of each of amu")
    assert "add findings. The verdict would be undecided" in verdict.would_change


def test_sampled_strings_do_not_stand_in_for_the_grammar(tmp_path):
    """They have the same task but for the number of samples."""
    experiment = GENERATION[0]
    rows = [
        (cell, QUICK if cell == "amu" else SLOW, experiment.settings | {"targets": "next"}, {})
        for cell in ("amu", *RIVALS)
    ]
    generation = verdicts(tmp_path, rows)["generation"]
    assert [finding.text.partition(":")[0] for finding in generation.findings] == [
        *("embedded_reber next", "embedded_reber legal", "left out")
    ]


def test_a_size_of_the_waveform_has_rivals_of_its_own_size(tmp_path):
    """At 250 parameters all rivals are behind the AMU, at the other sizes they are ahead; p is scipy's, with Holm's."""
    (verdict,) = generated(tmp_path, levels(1, WAVEFORMS, lstm=2) | levels(1, ["waveform_250"])).verdicts
    says = {finding.text.partition(",")[0]: finding.says for finding in verdict.findings}
    assert [says[name] for name in WAVEFORMS] == ["contradicted", "supported", "contradicted", "contradicted"]
    p = stats.mannwhitneyu([1 + n / 100 for n in range(10)], [n / 100 for n in range(10)]).pvalue
    assert 0.001 < 12 * p < 0.05  # of twelve equal p of this kind, and smaller ones of the grammar
    (finding,) = (finding for finding in verdict.findings if finding.text.startswith("waveform_250"))
    assert f"p = {12 * p:.3f}" in finding.text


def test_diverged_trials_are_the_worst(tmp_path):
    """The letters of a diverged network count as wrong, whatever its last measurement was."""
    (verdict,) = generated(tmp_path, levels(1, ["pen"])).verdicts
    for path in tmp_path.glob("pen/amu/*/trials-0-9/trials.csv"):
        trials = pd.read_csv(path)
        trials["status"] = "diverged"
        trials.to_csv(path, index=False)
    (again,) = [each for each in judge(compare(read_results(tmp_path)), {}) if each.id == "generation"]
    found = [[f.says for f in each.findings if f.text.startswith("pen,")] for each in (verdict, again.verdicts[0])]
    assert found == [["supported"], ["contradicted"]]


# Cases


def test_each_reading_is_judged_for_itself(tmp_path):
    rows = against(SLOW, [QUICK, NEVER, NEVER])
    rows += [("amu", [100 + n for n in range(10)], task, ABSTRACT) for task in TASKS]
    claims = judged(tmp_path, rows)
    assert claims["classification"].sentence == "Holds under abstract (Adam); fails under tframe (Adam)."
    table, findings = claims_tables(list(claims.values()))
    assert table.numbers.loc[table.numbers["claim"] == "generation", "verdict"].tolist() == [
        "supported",
        "contradicted",
    ]
    by_case = verdicts_by_case(table.numbers).set_index("claim")
    assert by_case.columns.tolist() == ["statement", "abstract (Adam)", "tframe (Adam)"]
    assert by_case.loc["generation"].tolist()[1:] == ["supported (partial)", "contradicted (partial)"]
    assert set(findings.numbers["reading"]) == {"abstract", "tframe"}
    assert hangs_on(table.numbers) == (
        "1 of 2 claims holds in one case and fails in another (classification); the reading changes the "
        "verdict on 2 of 2 claims (convergence and classification); no claim has all its runs in two cases that "
        "differ in the training alone. Partial verdicts have no part in these comparisons of cases."
    )


def test_a_case_has_only_rivals_and_pairs_of_its_own_optimizer(tmp_path):
    """Gradient descent has other task settings. There, the LSTM and the full gradient were trained by Adam only."""
    by_descent = [task | {"squash": "logistic"} for task in TASKS]
    rows = against(QUICK, [SLOW, SLOW, SLOW])
    rows += [("amu", SLOW, task, {"gradient": "full"}) for task in TASKS]
    rows += [("amu", QUICK, task, {}, "sgd") for task in by_descent]
    rows += [(cell, SLOW, task, {}, "sgd") for task in by_descent for cell in ("gru", "rnn")]
    rows += [("lstm", SLOW, task, {}) for task in by_descent]
    rows += [("amu", SLOW, task, {"gradient": "full"}) for task in by_descent]
    claims = judged(tmp_path, rows)
    for name, missing in (("classification", "gru, rnn, trained by gradient descent"), ("algorithm", "gradient=full")):
        assert claims[name].sentence == "Holds under tframe (Adam); not run under tframe (gradient descent)."
        assert {finding.says for finding in claims[name].verdicts[1].findings} == {"missing"}
        assert missing in claims[name].verdicts[1].findings[0].text


def test_pairs_have_the_reading_of_their_case(tmp_path):
    rows = [("amu", QUICK, task, ABSTRACT) for task in TASKS]
    rows += [("amu", SLOW, task, {"gradient": "full"}) for task in TASKS]
    algorithm = verdicts(tmp_path, rows)["algorithm"]
    assert algorithm.case.name == "abstract (Adam)"
    assert {finding.says for finding in algorithm.findings} == {"missing"}


def test_holm_corrects_for_the_tests_of_all_cases(tmp_path):
    """Two tests have p; all other tests of their case have a smaller one. A second case has two tests with p = 1."""
    near = [n + 35 for n in QUICK]
    p = stats.logrank(QUICK, near).pvalue
    assert 2 * p < 0.05 < 4 * p
    alone = against(QUICK, [near, NEVER, NEVER], (REBER, LEGAL))
    second = [("amu", near, task, ABSTRACT) for task in (REBER, LEGAL)]
    assert judged(tmp_path / "alone", alone)["generation"].sentence == "Supported (partial)."
    both = judged(tmp_path / "both", [*alone, *second])["generation"]
    assert both.sentence == "Undecided in every case; partial in every case."
    assert f"p = {4 * p:.3f}" in both.verdicts[1].findings[0].text


def test_cases_come_in_the_order_of_the_named_readings_and_adam_first(tmp_path):
    readings = [{}, {"neurons_per_unit": 4, "memory_seen_by": "all"}, ABSTRACT, ABSTRACT | {"output": "linear"}]
    rows = [("amu", QUICK, NOISE_FREE, model, by) for model in readings for by in ("rmsprop", "sgd", "adam")]
    rows += [
        ("amu", QUICK, NOISE_FREE, ABSTRACT | {"output": "memory"}),
        ("amu", QUICK, NOISE_FREE, {"neurons_per_unit": 5, "gradient": "full"}),
        ("amu", QUICK[:9], NOISE_FREE, {"neurons_per_unit": 6}),
        ("amu", QUICK, {"variant": "noisy_input"}, {"neurons_per_unit": 7}),
    ]
    cases = [verdict.case for verdict in judged(tmp_path, rows)["memory"].verdicts]
    assert [case.name for case in cases[:6]] == [
        f"{reading} ({training})"
        for reading in ("abstract", "tframe")
        for training in ("Adam", "gradient descent", "RMSprop")
    ]
    assert [case.name for case in cases[6::3]] == [
        "abstract with output without tanh (Adam)",
        "tframe with 4 neurons a unit and memory seen by all units (Adam)",
    ]
    assert len(cases) == 12


def test_a_stored_row_without_the_newer_options_has_their_old_values(tmp_path):
    newer = {"memory_seen_by": "unit", "output_sees": "old", "writers": "tanh"}
    rows = [("amu", QUICK, task, {}) for task in TASKS]
    rows += [("amu", SLOW, task, newer | {"gradient": "full"}) for task in TASKS]
    assert verdicts(tmp_path, rows)["algorithm"].verdict == "supported"


# Memory


@pytest.mark.parametrize(
    ("far", "verdict"), [(SLOW, "supported"), (NEVER, "contradicted"), ([*SLOW[:5], *NEVER[:5]], "undecided")]
)
def test_memory_is_judged_at_one_lag_in_every_case(tmp_path, far, verdict):
    """A case that was also run at a longer lag is not judged by it."""
    rows = [
        ("amu", ends, task | {"T": T}, {})
        for task in (NOISE_FREE, NOISY)
        for T, ends in ((100, QUICK), (1000, far), (3000, NEVER))
    ]
    memory = verdicts(tmp_path, rows)["memory"]
    assert memory.verdict == verdict
    assert [sum(f"T{T}-" in text for text in memory.beside) for T in (100, 1000, 3000)] == [2, 2, 2]


def test_of_two_comparisons_at_that_lag_the_one_with_most_trials_counts(tmp_path):
    lags = ({"T": 100}, {"T": 1000, "variance": 0.1}, {"T": 1000})
    rows = [
        ("amu", ends, task | lag, {})
        for task in (NOISE_FREE, NOISY)
        for lag, ends in zip(lags, (QUICK, QUICK * 2, NEVER), strict=True)
    ]
    memory = verdicts(tmp_path, rows)["memory"]
    assert [finding.text.count("20/20 solved") for finding in memory.findings] == [1, 1]


def test_short_lags_show_no_long_memory(tmp_path):
    rows = [("amu", QUICK, task | {"T": T}, {}) for task in (NOISE_FREE, NOISY) for T in (100, 200)]
    memory = verdicts(tmp_path, rows)["memory"]
    assert memory.verdict == "not run"
    assert "noise_free T=1000 N=3: needs 10 trials" in memory.findings[0].text


def test_a_case_that_was_only_run_at_the_long_lag_is_judged_on_memory(tmp_path):
    rows = against(QUICK, [SLOW, SLOW, NEVER], [task | {"T": 1000} for task in (NOISE_FREE, NOISY)])
    rows.append(("amu", QUICK, NOISE_FREE | {"T": [100, 1000]}, {}))  # of another task, as only a damaged file has it
    claims = verdicts(tmp_path, rows)
    assert (claims["memory"].verdict, claims["classification"].verdict) == ("supported", "not run")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("memory", [f"T = {LONG}", "2/3"]),
        ("gradient", [f"1/{FACTOR} and {FACTOR}"]),
        ("convergence", ["2/3", f"p < {SIGNIFICANT}"]),
        ("separation", [f"p < {SIGNIFICANT}"]),
    ],
)
def test_the_rules_in_words_have_the_thresholds_of_the_code(name, words):
    (rule,) = (claim.rule for claim in judge([], {}) if claim.id == name)
    assert MOST == 2 / 3
    assert all(word in rule for word in words)


# Algorithm and separation


def forms(key: str, one: str, other: str, ends, other_ends) -> list[tuple]:
    return [
        ("amu", own, task, {key: value})
        for task in (NOISE_FREE, NOISY, REBER, LEGAL)
        for value, own in ((one, ends), (other, other_ends))
    ]


@pytest.mark.parametrize(
    ("truncated", "full", "verdict"),
    [(QUICK, SLOW, "supported"), (SLOW, QUICK, "contradicted"), (QUICK, QUICK, "undecided")],
)
def test_truncation_is_judged_against_the_same_unit_with_its_full_gradient(tmp_path, truncated, full, verdict):
    algorithm = verdicts(tmp_path, forms("gradient", "truncated", "full", truncated, full))["algorithm"]
    assert algorithm.verdict == verdict
    assert len(algorithm.findings) == len(algorithm.beside) == 4


def test_units_that_differ_in_more_than_the_gradient_are_no_pair(tmp_path):
    rows = [
        ("amu", QUICK, NOISE_FREE, {"gradient": "truncated"}),
        ("amu", SLOW, NOISE_FREE, {"gradient": "full", "output": "memory"}),
    ]
    algorithm = verdicts(tmp_path, rows)["algorithm"]
    assert {finding.says for finding in algorithm.findings} == {"missing"}
    assert "the same AMU with gradient=full" in algorithm.findings[0].text


def conflicts(separate: float, joint: float) -> dict[str, pd.DataFrame]:
    rows = [(place, "amu", "conflict", (separate, joint)[place % 2]) for place in range(8)]
    tables = measured(rows)
    trials = tables["trials"]
    trials.loc[trials["identity"].isin([f"{place:012}" for place in range(4, 8)]), "task"] = "embedded_reber"
    return tables


@pytest.mark.parametrize(
    ("separate", "joint", "conflict", "verdict"),
    [
        (QUICK, SLOW, (0.2, 0.4), "supported"),
        (SLOW, QUICK, (0.4, 0.2), "contradicted"),
        (QUICK, SLOW, (0.4, 0.2), "undecided"),
    ],
)
def test_separation_needs_quicker_learning_and_less_conflict(tmp_path, separate, joint, conflict, verdict):
    rows = forms("output", "neuron", "memory", separate, joint)
    separation = verdicts(tmp_path, rows, conflicts(*conflict))["separation"]
    assert separation.verdict == verdict
    assert len(separation.findings) == 4 * 2 + 1  # the untrained networks of all experiments are the same


def test_separation_without_measurements_is_undecided(tmp_path):
    assert verdicts(tmp_path, forms("output", "neuron", "memory", QUICK, SLOW))["separation"].verdict == "undecided"


# Gradient


@pytest.mark.parametrize(
    ("flow", "verdict"), [(0.8, "supported"), (1e-6, "contradicted"), (1e6, "contradicted"), (0.096, "undecided")]
)
def test_error_flow_is_constant_within_a_factor_of_ten(tmp_path, flow, verdict):
    rows = [("amu", QUICK, task, {}) for task in (NOISE_FREE, NOISY)]
    table = measured([(place, "amu", "relative_flow", flow) for place in range(2)])
    gradient = verdicts(tmp_path, rows, table)["gradient"]
    assert gradient.verdict == verdict
    assert len(gradient.findings) == 3  # the untrained networks of both problems are the same


def test_the_derivative_decides_on_error_flow_and_the_truncated_flow_is_told_beside(tmp_path):
    rows = [(cell, QUICK, task, {}) for task in (NOISE_FREE, NOISY) for cell in ("amu", "lstm97")]
    full = measured([(place, ("amu", "lstm97")[place % 2], "relative_flow", 1e-6) for place in range(4)])["trials"]
    table = {"trials": pd.concat([full, full.assign(flow="truncated", value=1.0)])}
    gradient = verdicts(tmp_path, rows, table)["gradient"]
    assert gradient.verdict == "contradicted"
    assert all("derivative" in finding.text for finding in gradient.findings)
    told = [text.partition(", ")[2] for text in gradient.beside if "start" in text]
    assert told[:3] == [
        "truncated flow at the start of training: 1 (amu)",
        "derivative at the start of training: 1.04e-06 (lstm97)",
        "truncated flow at the start of training: 1 (lstm97)",
    ]


# Tables


def test_the_tables_hold_every_verdict_and_finding(tmp_path):
    claims = judge([], {})
    verdict, findings = claims_tables(claims)
    assert verdict.numbers["claim"].tolist() == [claim.id for claim in claims]
    assert len(findings.numbers) == sum(len(claim.verdicts[0].findings) for claim in claims)
    assert "| not run         |" in verdict.markdown()
    assert verdict.numbers.loc[5, "findings_missing"] == 3  # two for the grammar, and one for all other experiments
    assert all(claim.rule.endswith(".") and "\n" not in claim.rule for claim in claims)


# Sentences about all claims


def table(**claims: str) -> pd.DataFrame:
    """The table of verdicts; for each claim a letter for each case of a (Adam), b (Adam), a (sgd).

    m: undecided, for lack of some runs; n: not run; p: supported, though some runs are missing.
    """
    words = {
        "s": "supported",
        "c": "contradicted",
        "u": "undecided",
        "m": "undecided",
        "n": "not run",
        "p": "supported",
    }
    cases = (("a", "Adam"), ("b", "Adam"), ("a", "sgd"))
    return pd.DataFrame(
        [
            {"claim": claim, "statement": f"It is {claim}.", "reading": reading, "training": training}
            | {"verdict": words[letter], "findings_missing": int(letter in "mnp")}
            for claim, letters in claims.items()
            for letter, (reading, training) in zip(letters, cases, strict=False)
        ]
    )


def test_what_speaks_for_and_against_the_paper():
    many = table(good="sun", bad="ccc", poor="uun", turned="scp", open="nnn")
    assert speaks_for(many) == (
        "For the paper: good holds in 1 of 2 cases and turned holds in 2 of 3 cases (1 of them partial). "
        "A case is a reading of the unit with one way of training."
    )
    assert speaks_against(many) == "Against the paper: bad fails in 3 of 3 cases and turned fails in 1 of 3 cases."
    assert speaks_for_neither(many) == "Undecided in every case that was run: poor. Not run: open."
    assert speaks_for(table(a="cc")).startswith("For the paper: no claim holds in any case. A case is ")
    assert summary(table(good="s", fair="p", open="u"))[:2] == [
        "The paper claims of its unit: it is good (good); it is fair (fair); it is open (open).",
        "For the paper: good and fair (partial) hold. Against the paper: no claim fails. Undecided: open.",
    ]


def test_what_the_verdicts_hang_on():
    assert hangs_on(table(good="s", bad="c")) == (
        "These verdicts hold for one reading of the unit and one training only: a (Adam)."
    )
    assert hangs_on(table(good="sss", bad="ccu", open="umu")) == (
        "The reading changes no verdict on 2 claims; the training changes the verdict on 1 of 3 claims (bad). "
        "Partial verdicts have no part in these comparisons of cases."
    )
    assert hangs_on(table(turned="sc", other="um")) == (
        "1 of 2 claims holds in one case and fails in another (turned); the reading changes the verdict on 1 of "
        "1 claim (turned); no claim has all its runs in two cases that differ in the training alone. Partial "
        "verdicts have no part in these comparisons of cases."
    )


def test_a_row_of_older_runs_has_the_options_of_a_reading_that_came_later_at_their_values_from_before():
    before = added_options(AMU.annotations())
    assert before
    assert before.items() <= Reading()._asdict().items()
