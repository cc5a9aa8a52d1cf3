"""The paper's claims, each with the rule that judges it from stored results, in every case.

The claims are those of the abstract of Wang, Zhang, Guo & Yi 2018 ("Recurrent Neural Networks With Auxiliary Memory
Units", IEEE TNNLS 29(5)), in our words. verdicts.py has the rule that turns findings into a verdict; cases.py
defines a case.

In each case, the judged AMU has the case's reading and training and the truncated gradient, which is the paper's own
algorithm. All rows that it is tested against are in the same comparison and have the same optimizer. If several
comparisons fit an experiment and have the rivals, the one with most trials of the AMU counts.
"""

from collections.abc import Callable, Iterable

import numpy as np
import pandas as pd

from amu_experiments.analysis import statistics
from amu_experiments.analysis.cases import MIN_TRIALS, Case, find_cases, rows_of
from amu_experiments.analysis.comparison import Comparison
from amu_experiments.analysis.evidence import (
    Generated,
    Results,
    amu_pair,
    amu_row,
    duel,
    in_words,
    lacking,
    other_forms,
    per_trial,
    race,
    rivals_of,
    rows_by_lag,
    seconds_per_sequence,
    share_finding,
    test_metrics,
)
from amu_experiments.analysis.mechanism_tables import FLOWS, PHASES
from amu_experiments.analysis.verdicts import Claim, Evidence, Finding, Test, decide

FACTOR = 10
"""Error flow is constant if it changes by less than this factor, up or down, over the whole lag."""

LONG = 1000
"""The lag T at which memory is judged in every case: ten times that of the other claims."""

RIVALS = ("lstm", "gru", "rnn")


GRAMMAR = tuple({"problem": "embedded_reber", "targets": targets, "samples": 0} for targets in ("next", "legal"))
CLASSIFICATION = tuple(
    {"problem": "two_sequence", "variant": variant, "T": 100, "N": 3} for variant in ("noise_free", "noisy_target")
)
EXPERIMENTS = (*GRAMMAR, *CLASSIFICATION)
"""Task settings on which the claims about learning are tested.

The targets of the grammar are the next symbol, as in Hochreiter & Schmidhuber 1997, or all legal next symbols, as in
the reimplementation WilliamRo/tframe, which labels its check of the criteria "AMU, 2018". It is not known which targets
the paper used.
"""


# The metrics were chosen before these experiments were run. They judge the sequences that networks generate. A chorale
# has no true continuation, so its metric is the negative log-likelihood of a frame. Some protocols were changed after a
# look at trials from seed 0 on, so these experiments report others.
GENERATION = (
    Generated("embedded_reber_sampled", {"problem": "embedded_reber", "samples": 1000}, "grammatical"),
    *(
        Generated(
            f"mso{n}",
            {"problem": "oscillators", "sines": n, "T": 399, "free_steps": 300, "noise": 0.03},
            "free_nrmse",
        )
        for n in (2, 5, 8)
    ),
    Generated("fitzhugh_nagumo", {"problem": "fitzhugh_nagumo", "T": 1000, "free_steps": 900}, "free_nrmse"),
    Generated("mackey_glass", {"problem": "mackey_glass", "tau": 17, "T": 300, "free_steps": 84}, "last_nrmse"),
    *(
        Generated(f"waveform_{n}", {"problem": "waveform", "form": "sines", "T": 320}, "nmse", parameters=n)
        for n in (100, 250, 500, 1000)
    ),
    Generated("pen", {"problem": "pen", "letters": 52}, "letters_right"),
    Generated("chorales", {"problem": "chorales", "pieces": 364}, "nats_per_frame"),
)


def judge(comparisons: list[Comparison], mechanism: dict[str, pd.DataFrame]) -> list[Claim]:
    """Every claim with its verdict in every case, from all comparisons and the tables of `read_mechanism`."""
    better = "It is better than other recurrent networks at sequence"
    statements: dict[Callable[[Results, Case], Evidence], str] = {
        separation: "Memory and output are separate neurons of a unit, which removes a conflict in learning.",
        algorithm: "Truncating the error flow gives an efficient learning algorithm.",
        memory: "The memory is stable over a long time range.",
        gradient: "Error flow is constant and the gradient does not vanish.",
        convergence: "Learning is efficient and converges stably.",
        generation: f"{better} generation.",
        classification: f"{better} classification.",
    }
    results = Results(comparisons, mechanism)
    far = [experiment | {"T": LONG} for experiment in CLASSIFICATION]
    cases = find_cases(comparisons, [*EXPERIMENTS, *far, *(each.settings for each in GENERATION)])
    return [
        Claim(
            id=claim.__name__,
            statement=statement,
            rule=" ".join(claim.__doc__.split()),
            verdicts=decide(cases, [claim(results, case) for case in cases]),
        )
        for claim, statement in statements.items()
    ]


# The claims -----------------------------------------------------------------------------------------------------


def separation(results: Results, case: Case) -> Evidence:
    """The AMU with its output neuron against the same AMU with its output read from the memory neuron.

    The two differ only in `output`, and perhaps in tuned settings. Tests on each experiment: the log-rank test on
    sequences to the stop criterion, and the Mann-Whitney test on the gradient-conflict ratio per trial at the start of
    training and after it. The ratio says how far the gradients of a weight at different time steps cancel:
    1 - |their sum| / (sum of their absolute values); lower is better. Untrained networks can be the same in two
    experiments; then their ratios count once. A finding supports the claim if separate neurons are ahead with
    Holm-corrected p < 0.05. It contradicts the claim if they are behind with p < 0.05.
    """
    evidence, known = Evidence(), []
    for experiment in EXPERIMENTS:
        pair = amu_pair(results, experiment, case, "output", "memory")
        if isinstance(pair, Finding):
            evidence.findings.append(pair)
            continue
        separate, joint = pair
        name = separate.comparison.name
        evidence.rests_on += [f"{name}-criteria", f"{name}-conflict"]
        evidence.tests.append(race(f"{name}, learning", separate, joint))
        for phase, words in PHASES.items():
            values = [per_trial(results.mechanism, row, phase, "conflict") for row in pair]
            if min(map(len, values)) < MIN_TRIALS:
                evidence.findings.append(Finding(f"{name}: no gradient conflict measured {words}", "missing"))
                continue
            if _is_known(values, known):
                evidence.beside.append(f"{name}: gradient conflict {words} is that of another experiment")
                continue
            ours, theirs = map(np.median, values)
            evidence.tests.append(
                Test(
                    of=f"{name}, gradient conflict {words}",
                    text=f"median {ours:.3f} ({separate.label}) against {theirs:.3f} ({joint.label})",
                    p=statistics.mann_whitney(*values),
                    ahead=ours < theirs,
                )
            )
        for cell in ("gru", "rnn"):
            for row in rows_of(separate.comparison, cell, case.optimizer)[:1]:
                values = per_trial(results.mechanism, row, "trained", "conflict")
                if len(values):
                    evidence.beside.append(f"{name}: conflict after training in {cell} {np.median(values):.3f}")
    return evidence


def algorithm(results: Results, case: Case) -> Evidence:
    """The AMU with truncated gradient against the same AMU with full back-propagation through time.

    The two differ only in `gradient`, and perhaps in tuned settings. Test on each experiment: the log-rank test on
    sequences to the stop criterion. A finding supports the claim if truncation is ahead with Holm-corrected p < 0.05.
    It contradicts the claim if truncation is behind with p < 0.05. Time per sequence is not judged, because it
    depends on the machine; it is reported as a further fact.
    """
    evidence = Evidence()
    for experiment in EXPERIMENTS:
        pair = amu_pair(results, experiment, case, "gradient", "full")
        if isinstance(pair, Finding):
            evidence.findings.append(pair)
            continue
        name = pair[0].comparison.name
        evidence.rests_on += [f"{name}-criteria", f"{name}-solved"]
        evidence.tests.append(race(name, *pair))
        truncated, full = map(seconds_per_sequence, pair)
        evidence.beside.append(
            f"{name}: {1e6 * truncated:.0f} us per sequence and trial truncated, {1e6 * full:.0f} us full, "
            "data and evaluation included"
        )
    return evidence


def memory(results: Results, case: Case) -> Evidence:
    """The share of AMU trials that solve the two-sequence problem at the lag T = 1000, noise-free and noisy.

    A finding supports the claim if the 95 % Wilson interval of the share solved within the budget lies above 2/3. It
    contradicts the claim if the interval lies below 2/3. Other lags are further facts.
    """
    evidence = Evidence()
    for experiment in CLASSIFICATION:
        rows = rows_by_lag(results, experiment, case, RIVALS)
        if LONG in rows:
            evidence.findings.append(share_finding(rows[LONG]))
        else:
            evidence.findings.append(Finding(lacking(in_words(experiment | {"T": LONG}), (), case), "missing"))
        for row in rows.values():
            name, beside = row.comparison.name, [row, *rivals_of(row, RIVALS)]
            evidence.beside.append(f"{name}: {'; '.join(each.text() for each in beside)}")
            evidence.rests_on += [f"{name}-criteria", f"{name}-traces"]
    evidence.rests_on.append("claims-lags")
    return evidence


def gradient(results: Results, case: Case) -> Evidence:
    """The derivative of the loss with respect to the AMU's state at the longest lag, relative to lag 1.

    It is measured on the two-sequence problem at T = 100, noise-free and noisy, at the start of training and after it.
    The full derivative is judged. The truncated flow is reported as a further fact: it is constant by construction and
    proves nothing. Untrained networks can be the same in both experiments; then they count once. A finding supports the
    claim if the 95 % bootstrap interval of the median over trials lies between 1/10 and 10. It contradicts the claim if
    the whole interval lies outside.
    """
    evidence, known = Evidence(), []
    for experiment in CLASSIFICATION:
        row = amu_row(results, experiment, case)
        if isinstance(row, Finding):
            evidence.findings.append(row)
            continue
        name = row.comparison.name
        evidence.rests_on.append(f"{name}-flow")
        for phase, words in PHASES.items():
            values = per_trial(results.mechanism, row, phase, "relative_flow", "full")
            if len(values) < MIN_TRIALS:
                evidence.findings.append(Finding(f"{name}: no error flow measured {words}", "missing"))
                continue
            if _is_known([values], known):
                evidence.beside.append(f"{name}: the derivative {words} is that of another experiment")
                continue
            estimate = statistics.median(values)
            inside = estimate.low >= 1 / FACTOR and estimate.high <= FACTOR
            outside = estimate.high < 1 / FACTOR or estimate.low > FACTOR
            says = "supported" if inside else "contradicted" if outside else "undecided"
            interval = f"{estimate.value:.3g} [{estimate.low:.3g}, {estimate.high:.3g}]"
            evidence.findings.append(Finding(f"{name}, derivative {words}: {interval} ({row.label})", says))
            for other in (row, *rivals_of(row, (*RIVALS, "lstm97"))):
                for flow in FLOWS if other != row else ("truncated",):
                    values = per_trial(results.mechanism, other, phase, "relative_flow", flow)
                    if len(values):
                        evidence.beside.append(
                            f"{name}, {FLOWS[flow]} {words}: {np.median(values):.3g} ({other.label})"
                        )
    return evidence


def convergence(results: Results, case: Case) -> Evidence:
    """Whether the AMU's training succeeds in most trials, and whether it takes fewer sequences than the LSTM's.

    Each experiment has two findings. The experiments are embedded Reber with each kind of targets, and the two-sequence
    problem at T = 100, noise-free and noisy. Stable: the 95 % Wilson interval of the share of trials solved within the
    budget lies above 2/3 (supports) or below (contradicts). Efficient: in the log-rank test on sequences to the stop
    criterion, the AMU is ahead of the LSTM (supports) or behind it (contradicts), with Holm-corrected p < 0.05.
    """
    evidence = Evidence()
    for experiment in EXPERIMENTS:
        row = amu_row(results, experiment, case, rivals=("lstm",))
        if isinstance(row, Finding):
            evidence.findings.append(row)
            continue
        name = row.comparison.name
        evidence.rests_on += [f"{name}-criteria", f"{name}-solved"]
        evidence.findings.append(share_finding(row))
        evidence.tests.append(race(f"{name}, efficient", row, *rivals_of(row, ("lstm",))))
        evidence.beside += other_forms(row)
    return evidence


def generation(results: Results, case: Case) -> Evidence:
    """The AMU against LSTM, GRU and RNN on the embedded Reber grammar, and on tasks in which networks generate.

    Parameter counts are matched. Each experiment is one finding. On the grammar, with each kind of targets, log-rank
    tests compare sequences to the stop criterion. On each other experiment, Mann-Whitney tests compare one metric of
    the trials at the test, chosen before the experiments were run (for waveforms and letters, that is how
    well the networks generate what they were trained on): the grammatical share of sampled Reber strings; the
    normalised error (NRMSE) of the free run of two, five and eight oscillators and of FitzHugh-Nagumo, and its last
    step, the 84th, for Mackey-Glass; the normalised squared error of a waveform, with 100, 250, 500 and 1,000
    parameters; the share of letters drawn right; the nats per frame of chorales. A diverged trial has the worst rank. A
    finding supports the claim if the AMU is ahead of all three. It contradicts the claim if the AMU is behind at least
    one of them, so the strongest rival decides. Each test needs Holm-corrected p < 0.05. The grammar is needed; any
    other experiment without runs in a case is named and left out, and the verdict is partial.
    """
    evidence, absent = _against_rivals(results, case, GRAMMAR), []
    for experiment in GENERATION:
        row = amu_row(results, experiment.settings, case, RIVALS, experiment.parameters)
        if isinstance(row, Finding) or experiment.metric not in test_metrics(row):
            absent.append(experiment.name)
            continue
        evidence.rests_on.append(f"{row.comparison.name}-metrics")
        evidence.tests += [duel(experiment, row, rival) for rival in rivals_of(row, RIVALS, experiment.parameters)]
    if absent:
        evidence.findings.append(Finding(f"left out: {lacking(', '.join(absent), RIVALS, case)}", "missing", False))
    return evidence


def classification(results: Results, case: Case) -> Evidence:
    """The AMU against LSTM, GRU and RNN on the two-sequence problem at T = 100, noise-free and noisy.

    Parameter counts are matched. Log-rank tests compare sequences to the stop criterion. A finding supports the claim
    if the AMU is ahead of all three. It contradicts the claim if the AMU is behind at least one of them, so the
    strongest rival decides. Each test needs Holm-corrected p < 0.05.
    """
    return _against_rivals(results, case, CLASSIFICATION)


def _is_known(values: list[np.ndarray], known: list[list[np.ndarray]]) -> bool:
    """Whether the same values were measured before; if not, they join `known`."""
    if any(all(map(np.array_equal, values, others)) for others in known):
        return True
    known.append(values)
    return False


def _against_rivals(results: Results, case: Case, experiments: Iterable[dict]) -> Evidence:
    evidence = Evidence()
    for experiment in experiments:
        row = amu_row(results, experiment, case, RIVALS)
        if isinstance(row, Finding):
            evidence.findings.append(row)
            continue
        name = row.comparison.name
        evidence.rests_on += [f"{name}-criteria", f"{name}-solved"]
        evidence.tests += [race(name, row, rival) for rival in rivals_of(row, RIVALS)]
        evidence.beside += other_forms(row)
    return evidence
