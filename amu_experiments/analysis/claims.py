"""The paper's claims, each with a verdict computed from stored results by a written rule.

The claims are those of the abstract of Wang, Zhang, Guo & Yi 2018 ("Recurrent Neural Networks With Auxiliary Memory
Units", IEEE TNNLS 29(5)), in our words.

A claim rests on findings. A finding supports the claim, contradicts it or leaves it undecided, by the same threshold in
both directions. A finding without its runs is missing. The claim is supported if more than half of its findings support
it and none contradicts it. It is contradicted if more than half contradict it and none supports it. Otherwise, and if
any finding is missing, it is undecided.

The judged AMU is trained with the truncated gradient, the paper's own algorithm, if there is such a row. The results of
other AMUs are reported beside. If several comparisons fit an experiment, the one with most trials of the AMU counts.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from amu_experiments.analysis import statistics
from amu_experiments.analysis.comparison import Comparison, flat
from amu_experiments.analysis.mechanism_tables import FLOWS, PHASES, of_row
from amu_experiments.analysis.statistics import CONFIDENCE
from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import p_text, sequences_text

SIGNIFICANT = 0.05
"""A test is significant if its p, Holm-corrected for all tests of the claim, is below this."""

MIN_TRIALS = 10
"""Rows with fewer trials are not used."""

MOST = 2 / 3
"""Training succeeds, as some claims say, if the share of solved trials is above this."""

FACTOR = 10
"""Error flow is constant if it changes by less than this factor, up or down, over the whole lag."""

LAG_RANGE = 5
"""A statement about long lags needs a longest lag of at least this many times the shortest."""

RIVALS = ("lstm", "gru", "rnn")

VERDICTS = ("supported", "contradicted", "undecided")

OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop", "sgd": "gradient descent"}

GENERATION = tuple({"problem": "embedded_reber", "targets": targets} for targets in ("next", "legal"))
CLASSIFICATION = tuple(
    {"problem": "two_sequence", "variant": variant, "T": 100, "N": 3} for variant in ("noise_free", "noisy_target")
)
"""Task settings on which the claims about learning are tested.

The targets of the grammar are the next symbol, as in Hochreiter & Schmidhuber 1997, or all legal next symbols, as in
the reimplementation WilliamRo/tframe, which has the probe labelled "AMU, 2018". Which targets the paper used is not
known.
"""


@dataclass(frozen=True)
class Finding:
    """One piece of evidence; `says` is "supported", "contradicted", "undecided" or "missing"."""

    text: str
    says: str


@dataclass(frozen=True)
class Claim:
    """A claim with the rule for its verdict and the findings on which the verdict rests.

    beside: further facts, which are not part of the verdict. rests_on: names of tables and figures.
    judged_for: one sentence about the reading of the unit and the training for which the verdict holds.
    """

    id: str
    statement: str
    rule: str
    findings: list[Finding]
    beside: list[str] = field(default_factory=list)
    rests_on: list[str] = field(default_factory=list)
    judged_for: str = ""

    def count(self, says: str) -> int:
        """The number of findings with this result."""
        return sum(finding.says == says for finding in self.findings)

    @property
    def verdict(self) -> str:
        for verdict, opposite in (VERDICTS[:2], VERDICTS[1::-1]):
            if self.count(verdict) > len(self.findings) / 2 and not self.count(opposite) + self.count("missing"):
                return verdict
        return "undecided"

    @property
    def would_change(self) -> str:
        """What would change the verdict."""
        missing = self.count("missing")
        if missing:
            return f"{missing} of its {len(self.findings)} findings have no runs; with these runs, the rule decides."
        supports, contradicts = self.count("supported"), self.count("contradicted")
        if supports and contradicts:
            return (
                f"Findings disagree ({supports} support it, {contradicts} contradict it): the verdict changes only if "
                "every finding of one side changes."
            )
        if self.verdict == "undecided":
            wanted = len(self.findings) // 2 + 1 - max(supports, contradicts)
            return (
                f"Too few findings are decided: {wanted} more of {len(self.findings)} would be enough if they agreed. "
                "More trials may decide them."
            )
        other = VERDICTS[1 - VERDICTS.index(self.verdict)]
        spare = self.count(self.verdict) - len(self.findings) // 2
        return (
            f"It would become undecided if one finding became {other}, or if {spare} became undecided. It would become "
            f"{other} if more than half of the findings became {other} and none stayed {self.verdict}."
        )


class Test(NamedTuple):
    """A test of an AMU against another row; tests with the same `of` make one finding."""

    of: str
    text: str
    p: float
    ahead: bool


class Row(NamedTuple):
    """A row of a comparison."""

    comparison: Comparison
    number: int

    @property
    def label(self) -> str:
        return self.comparison.labels[self.number]

    @property
    def trials(self) -> int:
        return len(self.comparison.results[self.number].trials)

    @property
    def model(self) -> dict:
        return self.comparison.results[self.number].config["model"]

    @property
    def training(self) -> dict:
        return self.comparison.results[self.number].config["training"]

    def times(self) -> tuple[np.ndarray, np.ndarray]:
        return self.comparison.times(self.number, stop_criterion(self.comparison))

    def text(self) -> str:
        """The row's label with its solved trials and its Kaplan-Meier median."""
        times, solved = self.times()
        middle = sequences_text(statistics.median_time(times, solved).value)
        return f"{self.label} {solved.sum()}/{len(solved)}, median {middle}"


def judge(comparisons: list[Comparison], mechanism: dict[str, pd.DataFrame]) -> list[Claim]:
    """Every claim, from all comparisons and the tables of `read_mechanism`."""
    claims = [
        separation(comparisons, mechanism),
        algorithm(comparisons),
        memory(comparisons),
        gradient(comparisons, mechanism),
        convergence(comparisons),
        generation(comparisons),
        classification(comparisons),
    ]
    scope = judged_for(comparisons)
    return [replace(claim, judged_for=scope) for claim in claims]


def judged_for(comparisons: list[Comparison]) -> str:
    """One sentence about the reading of the unit and the training of the judged rows; empty without judged rows."""
    rows = [row for settings in (*GENERATION, *CLASSIFICATION) for row in _candidates(comparisons, settings)[:1]]
    readings, optimizers = set(), set()
    for row in rows:
        neurons, product = row.model.get("neurons_per_unit"), row.model.get("output_in_product", True)
        readings.add(f"{neurons} neurons a unit, the output neuron {'' if product else 'not '}a factor of the product")
        optimizer = row.training.get("optimizer", "unknown")
        optimizers.add(OPTIMIZERS.get(optimizer, optimizer))
    if not rows:
        return ""
    return (
        f"These verdicts hold for one reading of the unit ({'; '.join(sorted(readings))}) and one training "
        f"({', '.join(sorted(optimizers))}): the paper's text is closed, and trials outside these tables show that "
        "another admissible reading changes the outcome."
    )


def claims_tables(claims: list[Claim]) -> list[Table]:
    """A table of the verdicts and a table of the findings."""
    verdicts = pd.DataFrame(
        [
            {"claim": claim.id, "statement": claim.statement, "verdict": claim.verdict}
            | {f"findings_{says}": claim.count(says) for says in (*VERDICTS, "missing")}
            | {"judged_for": claim.judged_for}
            for claim in claims
        ]
    )
    findings = pd.DataFrame(
        [
            {"claim": claim.id, "finding": finding.text, "says": finding.says}
            for claim in claims
            for finding in claim.findings
        ]
    )
    said = "Claims of the abstract of Wang, Zhang, Guo & Yi 2018 [A], in our words."
    rule = (
        "A claim is supported (contradicted) if more than half of its findings support (contradict) it, none says the "
        "opposite and none is missing. Otherwise it is undecided."
    )
    text = verdicts.drop(columns="judged_for").astype(str).rename(columns=lambda name: name.removeprefix("findings_"))
    scope = " ".join(dict.fromkeys(claim.judged_for for claim in claims))
    return [
        Table("claims", f"{said} {rule} The numbers are numbers of findings. {scope}".strip(), verdicts, text),
        Table("claims-findings", f"The findings on which the verdicts rest. {rule}", findings, findings.astype(str)),
    ]


# The claims -----------------------------------------------------------------------------------------------------


def separation(comparisons: list[Comparison], mechanism: dict[str, pd.DataFrame]) -> Claim:
    """The AMU with its output neuron against the same AMU with its output read from the memory neuron.

    The two differ only in `output`, and perhaps in tuned settings. Tests on each experiment: the log-rank test on
    sequences to the stop criterion, and the Mann-Whitney test on the gradient-conflict ratio per trial at the start of
    training and after it; a lower ratio is better. A finding supports the claim if separate neurons are ahead with
    Holm-corrected p < 0.05. It contradicts the claim if they are behind with p < 0.05.
    """
    tests, findings, beside, names = [], [], [], []
    for experiment in (*GENERATION, *CLASSIFICATION):
        pair = _first_pair(comparisons, experiment, "output", ("neuron", "linear"), ("memory",))
        if isinstance(pair, Finding):
            findings.append(pair)
            continue
        separate, joint = pair
        name = separate.comparison.name
        names += [f"{name}-criteria", f"{name}-conflict"]
        tests.append(_race(f"{name}, learning", separate, joint))
        for phase, words in PHASES.items():
            values = [_per_trial(mechanism, row, phase, "conflict") for row in pair]
            if min(map(len, values)) < MIN_TRIALS:
                findings.append(Finding(f"{name}: no gradient conflict measured {words}", "missing"))
                continue
            ours, theirs = map(np.median, values)
            tests.append(
                Test(
                    of=f"{name}, gradient conflict {words}",
                    text=f"median {ours:.3f} ({separate.label}) against {theirs:.3f} ({joint.label})",
                    p=statistics.mann_whitney(*values),
                    ahead=ours < theirs,
                )
            )
        mixing = [(cell, _row_of(separate.comparison, cell)) for cell in ("gru", "rnn")]
        known = [(cell, _per_trial(mechanism, row, "trained", "conflict")) for cell, row in mixing if row is not None]
        beside += [f"{name}: conflict after training in {cell} {np.median(v):.3f}" for cell, v in known if len(v)]
    return Claim(
        "separation",
        "Memory and output are separate neurons of a unit, which removes a conflict in learning.",
        _rule(separation),
        _decide(tests) + findings,
        beside,
        names,
    )


def algorithm(comparisons: list[Comparison]) -> Claim:
    """The AMU with truncated gradient against the same AMU with full back-propagation through time.

    The two differ only in `gradient`, and perhaps in tuned settings. Test on each experiment: the log-rank test on
    sequences to the stop criterion. A finding supports the claim if truncation is ahead with Holm-corrected p < 0.05.
    It contradicts the claim if truncation is behind with p < 0.05. Time per sequence is reported beside, because it
    depends on the machine.
    """
    tests, findings, beside, names = [], [], [], []
    for experiment in (*GENERATION, *CLASSIFICATION):
        pair = _first_pair(comparisons, experiment, "gradient", ("truncated",), ("full",))
        if isinstance(pair, Finding):
            findings.append(pair)
            continue
        name = pair[0].comparison.name
        names += [f"{name}-criteria", f"{name}-solved"]
        tests.append(_race(name, *pair))
        truncated, full = map(_seconds_per_sequence, pair)
        beside.append(
            f"{name}: {1e6 * truncated:.0f} us per sequence and trial truncated, {1e6 * full:.0f} us full, "
            "data and evaluation included"
        )
    return Claim(
        "algorithm",
        "Truncating the error flow gives an efficient learning algorithm.",
        _rule(algorithm),
        _decide(tests) + findings,
        beside,
        names,
    )


def memory(comparisons: list[Comparison]) -> Claim:
    """The share of AMU trials that solve the two-sequence problem at the longest lag T.

    For the noise-free and for the noisy problem, the longest T must be at least 5 times the shortest. A finding
    supports the claim if the 95 % Wilson interval of the share solved within the budget lies above 2/3. It contradicts
    the claim if the interval lies below 2/3.
    """
    findings, beside, names = [], [], []
    for experiment in CLASSIFICATION:
        family = {key: value for key, value in experiment.items() if key != "T"}
        rows = [row for row in _candidates(comparisons, family) if isinstance(row.comparison.task.get("T"), int)]
        rows = sorted(rows, key=lambda row: row.comparison.task["T"])
        lags = [row.comparison.task["T"] for row in rows if row.trials >= MIN_TRIALS]
        if not lags or lags[-1] < LAG_RANGE * lags[0]:
            reached = f"only T = {', '.join(map(str, sorted(set(lags))))}" if lags else "nothing"
            findings.append(
                Finding(f"two_sequence {experiment['variant']}: {reached} with {MIN_TRIALS} trials", "missing")
            )
            continue
        rows = [row for row in rows if row.trials >= MIN_TRIALS]
        findings.append(_share_finding(rows[-1]))
        for row in rows:
            rivals = [rival for cell in RIVALS if (rival := _row_of(row.comparison, cell)) is not None]
            beside.append(f"{row.comparison.name}: {'; '.join(each.text() for each in [row, *rivals])}")
            names.append(f"{row.comparison.name}-criteria")
        names.append(f"{rows[-1].comparison.name}-traces")
    return Claim("memory", "The memory is stable over a long time range.", _rule(memory), findings, beside, names)


def gradient(comparisons: list[Comparison], mechanism: dict[str, pd.DataFrame]) -> Claim:
    """The derivative of the loss with respect to the AMU's state at the longest lag, relative to lag 1.

    It is measured on the two-sequence problem at T = 100, noise-free and noisy, at the start of training and after it.
    The full derivative is judged. The truncated flow is reported beside: it is constant by construction and proves
    nothing. A finding supports the claim if the 95 % bootstrap interval of the median over trials lies between 1/10 and
    10. It contradicts the claim if the whole interval lies outside.
    """
    findings, beside, names = [], [], []
    for experiment in CLASSIFICATION:
        row = _experiment(comparisons, experiment)
        if isinstance(row, Finding):
            findings.append(row)
            continue
        name = row.comparison.name
        names.append(f"{name}-flow")
        for phase, words in PHASES.items():
            values = _per_trial(mechanism, row, phase, "relative_flow", "full")
            if len(values) < MIN_TRIALS:
                findings.append(Finding(f"{name}: no error flow measured {words}", "missing"))
                continue
            estimate = statistics.median(values)
            inside = estimate.low >= 1 / FACTOR and estimate.high <= FACTOR
            outside = estimate.high < 1 / FACTOR or estimate.low > FACTOR
            says = "supported" if inside else "contradicted" if outside else "undecided"
            interval = f"{estimate.value:.2g} [{estimate.low:.2g}, {estimate.high:.2g}]"
            findings.append(Finding(f"{name}, derivative {words}: {interval} ({row.label})", says))
            others = [other for cell in (*RIVALS, "lstm97") if (other := _row_of(row.comparison, cell))]
            for other in (row, *others):
                for flow in FLOWS if other != row else ("truncated",):
                    values = _per_trial(mechanism, other, phase, "relative_flow", flow)
                    if len(values):
                        beside.append(f"{name}, {FLOWS[flow]} {words}: {np.median(values):.2g} ({other.label})")
    return Claim(
        "gradient",
        "Error flow is constant and the gradient does not vanish.",
        _rule(gradient),
        findings,
        beside,
        names,
    )


def convergence(comparisons: list[Comparison]) -> Claim:
    """Whether the AMU's training succeeds in most trials, and whether it takes fewer sequences than the LSTM's.

    Each experiment has two findings. The experiments are embedded Reber with each kind of targets, and the two-sequence
    problem at T = 100, noise-free and noisy. Stable: the 95 % Wilson interval of the share of trials solved within the
    budget lies above 2/3 (supports) or below (contradicts). Efficient: in the log-rank test on sequences to the stop
    criterion, the AMU is ahead of the LSTM (supports) or behind it (contradicts), with Holm-corrected p < 0.05.
    """
    tests, findings, beside, names = [], [], [], []
    for experiment in (*GENERATION, *CLASSIFICATION):
        row = _experiment(comparisons, experiment, rivals=("lstm",))
        if isinstance(row, Finding):
            findings.append(row)
            continue
        name = row.comparison.name
        names += [f"{name}-criteria", f"{name}-solved"]
        findings.append(_share_finding(row))
        tests.append(_race(f"{name}, efficient", row, _row_of(row.comparison, "lstm")))
        beside += _other_amus(row)
    return Claim(
        "convergence",
        "Learning is efficient and converges stably.",
        _rule(convergence),
        _decide(tests) + findings,
        beside,
        names,
    )


def generation(comparisons: list[Comparison]) -> Claim:
    """The AMU against LSTM, GRU and RNN on the embedded Reber grammar, with each kind of targets.

    Parameter counts are matched. Log-rank tests compare sequences to the stop criterion. A finding supports the claim
    if the AMU is ahead of all three. It contradicts the claim if the AMU is behind at least one of them, so the
    strongest rival decides. Each test needs Holm-corrected p < 0.05.
    """
    return _against_rivals(
        "generation",
        "It is better than other recurrent networks at sequence generation.",
        generation,
        comparisons,
        GENERATION,
    )


def classification(comparisons: list[Comparison]) -> Claim:
    """The AMU against LSTM, GRU and RNN on the two-sequence problem at T = 100, noise-free and noisy.

    Parameter counts are matched. Log-rank tests compare sequences to the stop criterion. A finding supports the claim
    if the AMU is ahead of all three. It contradicts the claim if the AMU is behind at least one of them, so the
    strongest rival decides. Each test needs Holm-corrected p < 0.05.
    """
    return _against_rivals(
        "classification",
        "It is better than other recurrent networks at sequence classification.",
        classification,
        comparisons,
        CLASSIFICATION,
    )


def _against_rivals(
    name: str, statement: str, rule: Callable, comparisons: list[Comparison], experiments: Iterable[dict]
) -> Claim:
    tests, findings, beside, names = [], [], [], []
    for experiment in experiments:
        row = _experiment(comparisons, experiment, RIVALS)
        if isinstance(row, Finding):
            findings.append(row)
            continue
        names += [f"{row.comparison.name}-criteria", f"{row.comparison.name}-solved"]
        tests += [_race(row.comparison.name, row, _row_of(row.comparison, cell)) for cell in RIVALS]
        beside += _other_amus(row)
    return Claim(name, statement, _rule(rule), _decide(tests) + findings, beside, names)


# Evidence -------------------------------------------------------------------------------------------------------


def stop_criterion(comparison: Comparison) -> str:
    """The criterion that ends the trials of the reference row, or else the last criterion."""
    stop = comparison.results[0].config["training"]["stop"]
    return stop if stop in comparison.criteria else comparison.criteria[-1]


def _decide(tests: list[Test]) -> list[Finding]:
    """A finding for each group of tests: ahead in all of them supports, behind in any of them contradicts."""
    adjusted = dict(zip(tests, statistics.holm([test.p for test in tests]), strict=True)) if tests else {}
    findings = []
    for of in dict.fromkeys(test.of for test in tests):
        group = [test for test in tests if test.of == of]
        decided = [(test.ahead, adjusted[test] < SIGNIFICANT) for test in group]
        if any(sure and not ahead for ahead, sure in decided):
            says = "contradicted"
        else:
            says = "supported" if all(sure for _, sure in decided) else "undecided"
        texts = [f"{test.text}, {p_text(adjusted[test], 'p')}" for test in group]
        findings.append(Finding(f"{of}: {'; '.join(texts)}", says))
    return findings


def _race(of: str, row: Row, other: Row) -> Test:
    """The log-rank test of two rows on sequences to the stop criterion."""
    groups = (*row.times(), *other.times())
    return Test(of, f"{row.text()} against {other.text()}", statistics.logrank(*groups), statistics.faster(*groups))


def _share_finding(row: Row) -> Finding:
    _, solved = row.times()
    share = statistics.success(solved)
    says = "supported" if share.low > MOST else "contradicted" if share.high < MOST else "undecided"
    text = f"{solved.sum()}/{len(solved)} solved, {CONFIDENCE:.0%} interval {share.low:.2f} to {share.high:.2f}"
    return Finding(f"{row.comparison.name}, stable: {text} ({row.label})", says)


def _per_trial(
    mechanism: dict[str, pd.DataFrame], row: Row, phase: str, quantity: str, flow: str | None = None
) -> np.ndarray:
    """A quantity of the mechanism for every trial of a row, (trials,); `flow` selects one kind of error flow."""
    if not mechanism:
        return np.array([])
    own = of_row(mechanism["trials"], *row)
    own = own[(own["phase"] == phase) & (own["quantity"] == quantity) & ((own["flow"] == flow) | (flow is None))]
    return own["value"].dropna().to_numpy()


def _seconds_per_sequence(row: Row) -> float:
    """Seconds per sequence and trial after the first evaluation, when everything is compiled."""
    history = row.comparison.results[row.number].history
    clock = history.groupby("sequences")["seconds"].agg(["max", "count"]).reset_index()
    trained = (clock["sequences"].diff() * clock["count"])[1:].sum()
    return (clock["max"].iloc[-1] - clock["max"].iloc[0]) / trained if trained else np.nan


def _other_amus(row: Row) -> list[str]:
    return [f"{row.comparison.name}: {other.text()}" for other in _amus(row.comparison) if other != row]


# Which rows -----------------------------------------------------------------------------------------------------


def _candidates(comparisons: list[Comparison], settings: dict) -> list[Row]:
    """The AMU's rows of comparisons with these task settings; rows with most trials come first."""
    fitting = [
        _amu(comparison)
        for comparison in comparisons
        if comparison.reference is not None
        and comparison.criteria
        and settings.items() <= flat(comparison.task).items()
    ]
    return sorted(fitting, key=lambda row: -row.trials)


def _experiment(comparisons: list[Comparison], settings: dict, rivals: Iterable[str] = ()) -> Row | Finding:
    """The AMU's row of an experiment with these rivals, or a finding that names the missing runs."""
    rows = _candidates(comparisons, settings)
    complete = [
        row
        for row in rows
        if row.trials >= MIN_TRIALS
        and all((rival := _row_of(row.comparison, cell)) and rival.trials >= MIN_TRIALS for cell in rivals)
    ]
    if complete:
        return complete[0]
    cells = ", ".join(["amu", *rivals])
    return Finding(f"{_named(settings)}: {MIN_TRIALS} trials or more of each of {cells}", "missing")


def _amu(comparison: Comparison) -> Row:
    """The judged AMU: a row with the truncated gradient, or else the reference."""
    rows = [row for row in _amus(comparison) if row.model.get("gradient") == "truncated" and row.trials >= MIN_TRIALS]
    return rows[0] if rows else Row(comparison, comparison.reference)


def _amus(comparison: Comparison) -> list[Row]:
    rows = [Row(comparison, number) for number in range(len(comparison.results))]
    return [row for row in rows if row.model["cell"] == "amu"]


def _row_of(comparison: Comparison, cell: str) -> Row | None:
    """The first row of a cell, which has most trials."""
    rows = [row for row, result in enumerate(comparison.results) if result.config["model"]["cell"] == cell]
    return Row(comparison, rows[0]) if rows else None


def _first_pair(
    comparisons: list[Comparison], settings: dict, key: str, one: tuple, other: tuple
) -> tuple[Row, Row] | Finding:
    """Two AMU rows that differ in one setting of the model; the judged AMU is one of them if possible."""
    for judged in _candidates(comparisons, settings):
        # The judged AMU comes first, so that pairs with it are preferred.
        rows = [judged, *(row for row in _amus(judged.comparison) if row != judged)]
        rows = [row for row in rows if row.trials >= MIN_TRIALS]
        for first in rows:
            for second in rows:
                if first.model.get(key) in one and second.model.get(key) in other and _alike(first, second, key):
                    return first, second
    wanted = f"{key}={' or '.join(one)} and {key}={' or '.join(other)}"
    return Finding(f"{_named(settings)}: {MIN_TRIALS} trials or more of the AMU with {wanted}, else alike", "missing")


def _alike(row: Row, other: Row, key: str) -> bool:
    """Whether two rows' models are equal except for this setting and tuned settings."""
    tuned = (key, "initial_range")
    return all(row.model[name] == other.model.get(name) for name in row.model if name not in tuned)


def _named(settings: dict) -> str:
    return " ".join(str(value) if isinstance(value, str) else f"{key}={value}" for key, value in settings.items())


def _rule(claim: Callable) -> str:
    """The rule of a claim: its docstring as one line."""
    return " ".join(claim.__doc__.split())
