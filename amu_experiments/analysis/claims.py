"""The paper's claims, each with a verdict that a written rule computes from stored results.

The claims are those of the abstract of Wang, Zhang, Guo & Yi 2018 ("Recurrent Neural Networks With Auxiliary Memory
Units", IEEE TNNLS 29(5)), in our words.

A claim rests on findings. Each finding supports or contradicts it, or leaves it undecided, by the same threshold in
both directions; one that lacks its runs is missing. The claim is supported where more than half of its findings
support it and none contradicts it; contradicted where more than half contradict it and none supports it; else, and
where any finding is missing, undecided.

The AMU that is judged is the one trained with the truncated gradient, the paper's own algorithm, where there is one;
how others do is told beside. Where several comparisons fit an experiment, that with most trials of the AMU counts.
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
"""A test decides where its p, Holm-corrected for all tests of the claim, is below this."""

MIN_TRIALS = 10
"""A row with fewer trials decides nothing."""

MOST = 2 / 3
"""The share of trials that is asked for where a claim says that training succeeds."""

FACTOR = 10
"""Error flow is constant where over the whole lag it changes by less than this factor, up or down."""

LAG_RANGE = 5
"""The longest lag must be this many times the shortest, for a statement about long lags."""

RIVALS = ("lstm", "gru", "rnn")

VERDICTS = ("supported", "contradicted", "undecided")

OPTIMIZERS = {"adam": "Adam", "rmsprop": "RMSprop", "sgd": "gradient descent"}

GENERATION = tuple({"problem": "embedded_reber", "targets": targets} for targets in ("next", "legal"))
CLASSIFICATION = tuple(
    {"problem": "two_sequence", "variant": variant, "T": 100, "N": 3} for variant in ("noise_free", "noisy_target")
)
"""Task settings that the claims about learning are tested on.

The grammar is learned from the symbol that comes next, as in Hochreiter & Schmidhuber 1997, and from all symbols that
may, as in the reimplementation WilliamRo/tframe, which has the probe labelled "AMU, 2018"; which of them the paper did
is not known.
"""


@dataclass(frozen=True)
class Finding:
    """One piece of evidence: `says` is supported, contradicted, undecided or missing."""

    text: str
    says: str


@dataclass(frozen=True)
class Claim:
    """A claim with the rule for its verdict and everything that the verdict rests on.

    beside: facts that are told with it and have no part in the verdict. rests_on: names of tables and figures.
    judged_for: one sentence, the reading of the unit and the training that the verdict is about.
    """

    id: str
    statement: str
    rule: str
    findings: list[Finding]
    beside: list[str] = field(default_factory=list)
    rests_on: list[str] = field(default_factory=list)
    judged_for: str = ""

    def count(self, says: str) -> int:
        """How many findings say so."""
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
            return f"{missing} of its {len(self.findings)} findings lack their runs; with those, the rule decides."
        supports, contradicts = self.count("supported"), self.count("contradicted")
        if supports and contradicts:
            return (
                f"Findings go both ways ({supports} support it, {contradicts} contradict it): it takes all of one side "
                "to turn."
            )
        if self.verdict == "undecided":
            wanted = len(self.findings) // 2 + 1 - max(supports, contradicts)
            return (
                f"Too few findings are decided: {wanted} more of {len(self.findings)} would do, all the same way, as "
                "more trials may bring."
            )
        other = VERDICTS[1 - VERDICTS.index(self.verdict)]
        spare = self.count(self.verdict) - len(self.findings) // 2
        return (
            f"One finding that says {other} would make it undecided, as would {spare} found undecided after all; it "
            f"would turn round where more than half say {other} and none {self.verdict}."
        )


class Test(NamedTuple):
    """A test of the AMU, or of one form of it, against another row, for the finding `of`."""

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
        """Success and Kaplan-Meier median."""
        times, solved = self.times()
        middle = sequences_text(statistics.median_time(times, solved).value)
        return f"{self.label} {solved.sum()}/{len(solved)}, median {middle}"


def judge(comparisons: list[Comparison], mechanism: dict[str, pd.DataFrame]) -> list[Claim]:
    """Every claim, from all comparisons there are and the tables of the mechanism (none: an empty dict)."""
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
    """One sentence: the readings of the unit and the training of the judged rows; empty where there are none."""
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
    """The verdicts, and what each rests on."""
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
        "A claim is supported (contradicted) where more than half of its findings support (contradict) it, none speaks "
        "for the other side and none is missing; else it is undecided."
    )
    text = verdicts.drop(columns="judged_for").astype(str).rename(columns=lambda name: name.removeprefix("findings_"))
    scope = " ".join(dict.fromkeys(claim.judged_for for claim in claims))
    return [
        Table("claims", f"{said} {rule} The numbers count findings. {scope}".strip(), verdicts, text),
        Table("claims-findings", f"What the verdicts rest on. {rule}", findings, findings.astype(str)),
    ]


# The claims -----------------------------------------------------------------------------------------------------


def separation(comparisons: list[Comparison], mechanism: dict[str, pd.DataFrame]) -> Claim:
    """The AMU with its output neuron against the same AMU with its output read from the memory neuron.

    The two differ in `output` (and perhaps in tuned settings) alone. Tests on each experiment: the log-rank test on
    sequences to the stop criterion; and the Mann-Whitney test on the gradient-conflict ratio per trial, lower being
    better, at the start of training and after it. A finding supports the claim where separate neurons are ahead with
    Holm-corrected p < 0.05, contradicts it where they are behind with p < 0.05.
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

    The two differ in `gradient` (and perhaps in tuned settings) alone. Test on each experiment: the log-rank test on
    sequences to the stop criterion. A finding supports the claim where truncation is ahead with Holm-corrected p <
    0.05, contradicts it where it is behind with p < 0.05. Time per sequence is told beside: it depends on the
    machine.
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

    For the noise-free and the noisy problem, T must reach at least 5 times the shortest. A finding supports the claim
    where the 95 % Wilson interval of the share solved within the budget lies above 2/3, contradicts it where it lies
    below 2/3.
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
    """The derivative of the loss with respect to the AMU's state at the longest lag, relative to that at lag 1.

    Taken on the two-sequence problem at T = 100, noise-free and noisy, at the start of training and after it. The full
    derivative is judged. The truncated flow is reported beside: it is constant by construction and proves nothing. A
    finding supports the claim where the 95 % bootstrap interval of the median over trials lies between 1/10 and 10,
    contradicts it where the interval lies wholly outside.
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
                    told = _per_trial(mechanism, other, phase, "relative_flow", flow)
                    if len(told):
                        beside.append(f"{name}, {FLOWS[flow]} {words}: {np.median(told):.2g} ({other.label})")
    return Claim(
        "gradient",
        "Error flow is constant and the gradient does not vanish.",
        _rule(gradient),
        findings,
        beside,
        names,
    )


def convergence(comparisons: list[Comparison]) -> Claim:
    """Whether the AMU's training succeeds in most trials, and whether it is quicker than the LSTM's.

    On embedded Reber, with either kind of targets, and on the two-sequence problem at T = 100, noise-free and noisy,
    two findings each. Stable: the 95 % Wilson interval of the share of trials solved within the budget lies above 2/3
    (supports) or below (contradicts). Efficient: by the log-rank test on sequences to the stop criterion the AMU is
    ahead of the LSTM (supports) or behind it (contradicts), each with Holm-corrected p < 0.05.
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
    """The AMU against LSTM, GRU and RNN on the embedded Reber grammar, with either kind of targets.

    With matched parameter counts; log-rank tests on sequences to the stop criterion. A finding supports the claim
    where the AMU is ahead of all three, contradicts it where it is behind at least one of them, so that the strongest
    rival decides; each with Holm-corrected p < 0.05.
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

    With matched parameter counts; log-rank tests on sequences to the stop criterion. A finding supports the claim
    where the AMU is ahead of all three, contradicts it where it is behind at least one of them, so that the strongest
    rival decides; each with Holm-corrected p < 0.05.
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
    """The criterion that ends the reference row's trials, or the last there is where none does."""
    stop = comparison.results[0].config["training"]["stop"]
    return stop if stop in comparison.criteria else comparison.criteria[-1]


def _decide(tests: list[Test]) -> list[Finding]:
    """A finding for each group of tests: the AMU ahead in all of them, behind in any of them, or neither."""
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
    """A quantity of the mechanism for every trial of a row; of one kind of flow, where it is measured of both."""
    if not mechanism:
        return np.array([])
    own = of_row(mechanism["trials"], *row)
    own = own[(own["phase"] == phase) & (own["quantity"] == quantity) & ((own["flow"] == flow) | (flow is None))]
    return own["value"].dropna().to_numpy()


def _seconds_per_sequence(row: Row) -> float:
    """Of one trial among those trained with it, from the first evaluation on, when everything is compiled."""
    history = row.comparison.results[row.number].history
    clock = history.groupby("sequences")["seconds"].agg(["max", "count"]).reset_index()
    trained = (clock["sequences"].diff() * clock["count"])[1:].sum()
    return (clock["max"].iloc[-1] - clock["max"].iloc[0]) / trained if trained else np.nan


def _other_amus(row: Row) -> list[str]:
    return [f"{row.comparison.name}: {other.text()}" for other in _amus(row.comparison) if other != row]


# Which rows -----------------------------------------------------------------------------------------------------


def _candidates(comparisons: list[Comparison], settings: dict) -> list[Row]:
    """The AMU's rows of comparisons with these task settings, those with most trials first."""
    fitting = [
        _amu(comparison)
        for comparison in comparisons
        if comparison.reference is not None
        and comparison.criteria
        and settings.items() <= flat(comparison.task).items()
    ]
    return sorted(fitting, key=lambda row: -row.trials)


def _experiment(comparisons: list[Comparison], settings: dict, rivals: Iterable[str] = ()) -> Row | Finding:
    """The AMU's row of an experiment that has these rivals, too, or a finding that says what is missing."""
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
    """The AMU that is judged: that with the truncated gradient, or else the reference."""
    rows = [row for row in _amus(comparison) if row.model.get("gradient") == "truncated" and row.trials >= MIN_TRIALS]
    return rows[0] if rows else Row(comparison, comparison.reference)


def _amus(comparison: Comparison) -> list[Row]:
    rows = [Row(comparison, number) for number in range(len(comparison.results))]
    return [row for row in rows if row.model["cell"] == "amu"]


def _row_of(comparison: Comparison, cell: str) -> Row | None:
    """The first row of a cell, that with most trials."""
    rows = [row for row, result in enumerate(comparison.results) if result.config["model"]["cell"] == cell]
    return Row(comparison, rows[0]) if rows else None


def _first_pair(
    comparisons: list[Comparison], settings: dict, key: str, one: tuple, other: tuple
) -> tuple[Row, Row] | Finding:
    """Two AMU rows that differ in one setting of the model, the one that is judged among them if possible."""
    for judged in _candidates(comparisons, settings):
        # The one that is judged comes first, so that a pair is near it.
        rows = [judged, *(row for row in _amus(judged.comparison) if row != judged)]
        rows = [row for row in rows if row.trials >= MIN_TRIALS]
        for first in rows:
            for second in rows:
                if first.model.get(key) in one and second.model.get(key) in other and _alike(first, second, key):
                    return first, second
    wanted = f"{key}={' or '.join(one)} and {key}={' or '.join(other)}"
    return Finding(f"{_named(settings)}: {MIN_TRIALS} trials or more of the AMU with {wanted}, else alike", "missing")


def _alike(row: Row, other: Row, key: str) -> bool:
    """Whether two rows' models differ in nothing but a setting and what is tuned."""
    tuned = (key, "initial_range")
    return all(row.model[name] == other.model.get(name) for name in row.model if name not in tuned)


def _named(settings: dict) -> str:
    return " ".join(str(value) if isinstance(value, str) else f"{key}={value}" for key, value in settings.items())


def _rule(claim: Callable) -> str:
    """The rule of a claim: its docstring as one line."""
    return " ".join(claim.__doc__.split())
