"""Verdicts on the claims, from stores and measurements written by hand."""

import pandas as pd
import pytest
from handmade import write

from amu_experiments.analysis.claims import Claim, Finding, claims_tables, judge
from amu_experiments.analysis.comparison import compare

QUICK = [300 + 10 * n for n in range(10)]
SLOW = [800 + 10 * n for n in range(10)]
NEVER = [None] * 10
NOISE_FREE = {"variant": "noise_free"}
NOISY = {"variant": "noisy_target", "criteria": {"noisy_target": {"st1": {"wrong": "== 0"}, "st2": {"wrong": "== 0"}}}}
REBER, LEGAL = ({"problem": "embedded_reber", "targets": targets} for targets in ("next", "legal"))
TASKS = (NOISE_FREE, NOISY, REBER, LEGAL)


def verdicts(root, rows, mechanism=None) -> dict[str, Claim]:
    """The claims by name, from rows (cell, ends, task, model settings)."""
    results = [
        write(root, cell, ends, identity=f"{place:012}", task=task, model=model)
        for place, (cell, ends, task, model) in enumerate(rows)
    ]
    return {claim.id: claim for claim in judge(compare(results), mechanism or {})}


def against(amu, others, tasks=TASKS) -> list[tuple]:
    """The AMU and, of each task, the three others."""
    rivals = dict(zip(("lstm", "gru", "rnn"), others, strict=True))
    return [(cell, ends, task, {}) for task in tasks for cell, ends in {"amu": amu, **rivals}.items()]


def measured(rows: list[tuple]) -> dict[str, pd.DataFrame]:
    """Measurements of ten trials: rows (place of the run, cell, quantity, value at trial 0), a little more in each."""
    trials = [
        {
            "task": "two_sequence",
            "model": cell,
            "identity": f"{place:012}",
            "phase": phase,
            "flow": "full",
            "trial": trial,
            "quantity": quantity,
            "value": value * (1 + trial / 100),
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
        ([], "undecided"),
    ],
)
def test_a_verdict_takes_more_than_half_of_the_findings_and_none_against(says, verdict):
    assert Claim("id", "statement", "rule", [Finding("text", each) for each in says]).verdict == verdict


def test_nothing_run_leaves_every_claim_undecided_and_names_what_is_missing():
    claims = judge([], {})
    assert [claim.id for claim in claims] == [
        *("separation", "algorithm", "memory", "gradient", "convergence", "generation", "classification")
    ]
    assert {claim.verdict for claim in claims} == {"undecided"}
    assert all(finding.says == "missing" for claim in claims for finding in claim.findings)
    assert "10 trials or more of each of amu, lstm, gru, rnn" in claims[5].findings[0].text
    assert claims[5].would_change.startswith("2 of its 2 findings have no runs")


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
    assert "undecided if one finding became supported" in claims["classification"].would_change


def test_equal_cells_decide_nothing(tmp_path):
    claims = verdicts(tmp_path, against(QUICK, [QUICK, SLOW, NEVER]))
    assert claims["generation"].verdict == "undecided"
    assert "2 more of 2 would be enough" in claims["generation"].would_change


def test_a_cell_that_never_solves_contradicts_convergence(tmp_path):
    assert verdicts(tmp_path, against(NEVER, [QUICK, SLOW, NEVER]))["convergence"].verdict == "contradicted"


def test_one_experiment_for_and_one_against_leave_it_open(tmp_path):
    rows = [*against(QUICK, [SLOW] * 3, [NOISE_FREE]), *against(SLOW, [QUICK] * 3, [NOISY])]
    classification = verdicts(tmp_path, rows)["classification"]
    assert classification.verdict == "undecided"
    assert "Findings disagree (1 support it, 1 contradict it)" in classification.would_change


def test_a_missing_rival_or_too_few_trials_leave_it_open(tmp_path):
    without = [row for row in against(QUICK, [SLOW] * 3) if row[:1] + row[2:3] != ("gru", NOISY)]
    claims = verdicts(tmp_path / "without", without)
    assert claims["generation"].verdict == "supported"
    assert claims["classification"].verdict == "undecided"
    assert "noisy_target" in claims["classification"].findings[1].text
    few = verdicts(tmp_path / "few", against(QUICK[:9], [NEVER] * 3))
    assert few["generation"].verdict == few["convergence"].verdict == "undecided"


def test_the_truncated_unit_is_judged_and_others_are_told_beside(tmp_path):
    full = [("amu", QUICK, task, {"gradient": "full"}) for task in (NOISE_FREE, NOISY, REBER, LEGAL)]
    rivals = [row for row in against(SLOW, [QUICK, NEVER, NEVER]) if row[0] != "amu"]
    truncated = [("amu", SLOW, task, {"gradient": "truncated"}) for task in (NOISE_FREE, NOISY, REBER, LEGAL)]
    generation = verdicts(tmp_path, [*full, *rivals, *truncated])["generation"]
    assert generation.verdict == "contradicted"
    assert generation.beside == [
        f"embedded_reber-noise_free-T100-N3-{targets}: amu (gradient=full) 10/10, median 340"
        for targets in ("next", "legal")
    ]


# Memory


@pytest.mark.parametrize(
    ("at_longest", "verdict"), [(SLOW, "supported"), (NEVER, "contradicted"), ([*SLOW[:5], *NEVER[:5]], "undecided")]
)
def test_memory_is_judged_at_the_longest_lag(tmp_path, at_longest, verdict):
    rows = [
        ("amu", ends, task | {"T": T}, {})
        for task in (NOISE_FREE, NOISY)
        for T, ends in ((100, QUICK), (1000, at_longest))
    ]
    memory = verdicts(tmp_path, rows)["memory"]
    assert memory.verdict == verdict
    assert any("T1000" in text for text in memory.beside)


def test_lags_that_are_close_together_show_no_long_memory(tmp_path):
    rows = [("amu", QUICK, task | {"T": T}, {}) for task in (NOISE_FREE, NOISY) for T in (100, 200)]
    memory = verdicts(tmp_path, rows)["memory"]
    assert memory.verdict == "undecided"
    assert "only T = 100, 200" in memory.findings[0].text


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
    assert "else alike" in verdicts(tmp_path, rows)["algorithm"].findings[1].text


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
    assert len(separation.findings) == 4 * 3


def test_separation_without_measurements_is_undecided(tmp_path):
    assert verdicts(tmp_path, forms("output", "neuron", "memory", QUICK, SLOW))["separation"].verdict == "undecided"


# Gradient


@pytest.mark.parametrize(
    ("flow", "verdict"), [(0.8, "supported"), (1e-6, "contradicted"), (1e6, "contradicted"), (0.096, "undecided")]
)
def test_error_flow_is_constant_within_a_factor_of_ten(tmp_path, flow, verdict):
    rows = [("amu", QUICK, task, {}) for task in (NOISE_FREE, NOISY)]
    table = measured([(place, "amu", "relative_flow", flow) for place in range(2)])
    assert verdicts(tmp_path, rows, table)["gradient"].verdict == verdict


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
        "derivative at the start of training: 1e-06 (lstm97)",
        "truncated flow at the start of training: 1 (lstm97)",
    ]


# Tables


def test_the_tables_hold_every_verdict_and_finding(tmp_path):
    claims = judge([], {})
    verdict, findings = claims_tables(claims)
    assert verdict.numbers["claim"].tolist() == [claim.id for claim in claims]
    assert len(findings.numbers) == sum(len(claim.findings) for claim in claims)
    assert "| undecided |" in verdict.markdown()
    assert verdict.numbers.loc[5, "findings_missing"] == 2
    assert all(claim.rule.endswith(".") and "\n" not in claim.rule for claim in claims)
