"""Verdicts: the rule that turns findings into a verdict on a claim in a case, and sentences about all verdicts.

A finding supports the claim, contradicts it, leaves it undecided, or is missing because it has no runs. `RULE` says
what verdict they make.

Each claim is judged in every case, that is for every reading of the unit with every training that the results have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pandas as pd

from amu_experiments.analysis import statistics
from amu_experiments.analysis.cases import OPTIMIZERS, Case, case_name
from amu_experiments.analysis.reading import named_readings
from amu_experiments.analysis.tables import Table
from amu_experiments.analysis.text import listing, p_text

SIGNIFICANT = 0.05
"""A test is significant if its p, Holm-corrected for all tests of the claim in all cases, is below this."""

NOT_RUN = "not run"

VERDICTS = ("supported", "contradicted", "undecided", NOT_RUN)

CASE = "A case is a reading of the unit with one way of training."

NEAREST = (
    "Its reading is nearest to the words of the abstract: memory and output are separate, so the output neuron does "
    "not write to the memory, and nothing is added that the abstract does not name."
)

RULE = (
    "A claim is supported (contradicted) if more than half of its findings support (contradict) it and none says the "
    "opposite. Otherwise it is undecided, and also if a finding is missing, unless its rule leaves out missing "
    "findings. A verdict is partial if a finding is missing; if all are, the claim was not run. All p-values of a "
    "claim, in all cases, share one Holm correction. Intervals have no such correction."
)


@dataclass(frozen=True)
class Finding:
    """One piece of evidence; `says` is "supported", "contradicted", "undecided" or "missing".

    needed: whether the claim is undecided if the finding is missing; otherwise the finding is then left out.
    """

    text: str
    says: str
    needed: bool = True


class Test(NamedTuple):
    """A test of an AMU against another row; tests with the same `of` make one finding."""

    of: str
    text: str
    p: float
    ahead: bool


@dataclass
class Evidence:
    """What the results say about a claim in a case, before the correction for many tests.

    beside: further facts, which are not part of the verdict. rests_on: names of tables and figures.
    """

    tests: list[Test] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    beside: list[str] = field(default_factory=list)
    rests_on: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim in a case, with the findings on which it rests."""

    case: Case
    findings: list[Finding]
    beside: list[str] = field(default_factory=list)
    rests_on: list[str] = field(default_factory=list)

    def count(self, says: str) -> int:
        """The number of findings with this result."""
        return sum(finding.says == says for finding in self.findings)

    @property
    def judged(self) -> list[Finding]:
        """The findings that the rule counts: all except missing findings that are not needed."""
        return [finding for finding in self.findings if finding.needed or finding.says != "missing"]

    @property
    def verdict(self) -> str:
        if self.count("missing") == len(self.findings):
            return NOT_RUN
        lacking = sum(finding.says == "missing" for finding in self.judged)
        for verdict, opposite in (VERDICTS[:2], VERDICTS[1::-1]):
            if self.count(verdict) > len(self.judged) / 2 and not self.count(opposite) + lacking:
                return verdict
        return "undecided"

    @property
    def words(self) -> str:
        """The verdict, and whether it is partial: "supported (partial)"."""
        return in_words(self.verdict, self.count("missing"))

    @property
    def would_change(self) -> str:
        """What would change the verdict."""
        lacking = sum(finding.says == "missing" for finding in self.judged)
        if lacking:
            return f"It needs the runs of all its findings; missing: {lacking} of {len(self.judged)}."
        if self.count("missing"):
            return f"If the experiments that are left out are run, they add findings. {self._would_change}"
        return self._would_change

    @property
    def _would_change(self) -> str:
        """What would change the verdict if no finding is missing."""
        supports, contradicts = self.count("supported"), self.count("contradicted")
        if supports and contradicts:
            return (
                f"Findings disagree ({supports} for it, {contradicts} against it): the verdict changes only if "
                "every finding of one side changes."
            )
        if self.verdict == "undecided":
            wanted = len(self.judged) // 2 + 1 - max(supports, contradicts)
            return (
                f"Too few findings are decided: {wanted} more of {len(self.judged)} would be enough if all agreed. "
                "More trials may decide them."
            )
        if len(self.judged) == 1:
            return "It rests on one finding."
        other = VERDICTS[1 - VERDICTS.index(self.verdict)]
        spare = self.count(self.verdict) - len(self.judged) // 2
        return (
            f"The verdict would be undecided if at least one finding said {other}, or if only "
            f"{self.count(self.verdict) - spare} said {self.verdict}. It would be {other} if more than half of the "
            f"findings said {other} and none {self.verdict}."
        )


@dataclass(frozen=True)
class Claim:
    """A claim with the rule for its verdicts and a verdict for each case."""

    id: str
    statement: str
    rule: str
    verdicts: list[Verdict]

    @property
    def has_runs(self) -> bool:
        """Whether any finding rests on stored runs."""
        return any(finding.says != "missing" for verdict in self.verdicts for finding in verdict.findings)

    @property
    def sentence(self) -> str:
        """The verdicts in one sentence: "Holds under tframe (Adam); fails under abstract (Adam)."."""
        if len(self.verdicts) == 1:
            return f"{self.verdicts[0].words.capitalize()}."
        parts = []
        for word, words in zip(VERDICTS, ("holds", "fails", "undecided", NOT_RUN), strict=True):
            names = [verdict.case.name for verdict in self.verdicts if verdict.verdict == word]
            if len(names) == len(self.verdicts):
                parts.append("run in no case" if word == NOT_RUN else f"{words} in every case")
            elif names:
                parts.append(f"{words} under {listing(names)}")
        partial = [verdict.case.name for verdict in self.verdicts if verdict.words != verdict.verdict]
        if partial:
            every = len(partial) == len(self.verdicts)
            parts.append("partial in every case" if every else f"partial under {listing(partial)}")
        return _sentence(parts)


def in_words(verdict: str, missing: int) -> str:
    """A verdict from its word and its number of missing findings."""
    return f"{verdict} (partial)" if missing and verdict != NOT_RUN else verdict


def decide(cases: Sequence[Case], evidence: Sequence[Evidence]) -> list[Verdict]:
    """The verdicts on a claim from its evidence in each case; all its tests, in all cases, share Holm's correction."""
    adjusted = iter(statistics.holm([test.p for each in evidence for test in each.tests]))
    verdicts = []
    for case, each in zip(cases, evidence, strict=True):
        findings = _findings(each.tests, [next(adjusted) for _ in each.tests]) + each.findings
        verdicts.append(Verdict(case, findings, each.beside, each.rests_on))
    return verdicts


def _findings(tests: list[Test], adjusted: list[float]) -> list[Finding]:
    """A finding for each group of tests: "supported" if ahead in all of them, "contradicted" if behind in any."""
    findings = []
    for of in dict.fromkeys(test.of for test in tests):
        group = [(test, p) for test, p in zip(tests, adjusted, strict=True) if test.of == of]
        if any(p < SIGNIFICANT and not test.ahead for test, p in group):
            says = "contradicted"
        else:
            says = "supported" if all(p < SIGNIFICANT for _, p in group) else "undecided"
        texts = [f"{test.text}, {p_text(p, 'p')}" for test, p in group]
        findings.append(Finding(f"{of}: {'; '.join(texts)}", says))
    return findings


# Tables ---------------------------------------------------------------------------------------------------------


def claims_tables(claims: list[Claim]) -> list[Table]:
    """A table of the verdicts, whose text has a column for each case, and a table of the findings."""
    verdicts = verdicts_table(claims)
    findings = pd.DataFrame(
        [
            {"claim": claim.id, **_names(verdict.case), "finding": finding.text, "says": finding.says}
            for claim in claims
            for verdict in claim.verdicts
            for finding in verdict.findings
        ]
    )
    said = "Claims of the abstract of Wang, Zhang, Guo & Yi 2018 [A], in our words, judged under each case."
    caption = " ".join([said, RULE, *summary(verdicts)[1:], nearest(verdicts), readings_text(verdicts)])
    by_case = verdicts_by_case(verdicts)
    return [
        Table("claims", caption, verdicts, by_case, words=tuple(by_case)),
        Table("claims-findings", f"The findings on which the verdicts rest. {RULE}", findings, findings.astype(str)),
    ]


def verdicts_table(claims: list[Claim]) -> pd.DataFrame:
    """The verdicts with their numbers of findings; a row for each claim and case."""
    return pd.DataFrame(
        [
            {"claim": claim.id, "statement": claim.statement, **_names(verdict.case), "verdict": verdict.verdict}
            | {f"findings_{says}": verdict.count(says) for says in (*VERDICTS[:3], "missing")}
            | {"reading_in_words": verdict.case.reading.words}
            for claim in claims
            for verdict in claim.verdicts
        ]
    )


def verdicts_by_case(verdicts: pd.DataFrame) -> pd.DataFrame:
    """The table of verdicts for readers: a row for each claim, and a column with the verdicts under each case."""
    shown = verdicts[["verdict", "findings_missing"]].itertuples(index=False)
    verdicts = verdicts.assign(verdict=[in_words(*each) for each in shown])
    by_case = verdicts[["claim", "statement"]].drop_duplicates()
    for names, rows in verdicts.groupby(["reading", "training"], sort=False):
        by_case = by_case.merge(rows[["claim", "verdict"]].rename(columns={"verdict": case_name(*names)}), on="claim")
    return by_case


def nearest(verdicts: pd.DataFrame) -> str:
    """Why the first case stands first; empty if its reading is not the first in conf/readings.yaml."""
    reading, training = verdicts[["reading", "training"]].iloc[0]
    if reading != next(iter(named_readings())):
        return ""
    reasons = [NEAREST]
    if training == OPTIMIZERS["adam"]:
        reasons.append("The abstract names no training; Adam is the usual one today.")
    return f"{case_name(reading, training)} stands first. {' '.join(reasons)}"


def readings_text(verdicts: pd.DataFrame) -> str:
    """A sentence for each reading in the table of verdicts."""
    readings = verdicts[["reading", "reading_in_words"]].drop_duplicates().itertuples(index=False)
    return " ".join(f"The reading {name}: {words}." for name, words in readings)


def _names(case: Case) -> dict[str, str]:
    return {"reading": case.reading.name, "training": case.training}


# Sentences about all claims, computed from the table `claims` -----------------------------------------------------


def summary(verdicts: pd.DataFrame) -> list[str]:
    """A summary: the paper's claims, the verdicts for and against them, and the choices that change verdicts."""
    came_out = [speaks_for(verdicts), speaks_against(verdicts), speaks_for_neither(verdicts)]
    return [paper_says(verdicts), " ".join(filter(None, came_out)), hangs_on(verdicts)]


def paper_says(verdicts: pd.DataFrame) -> str:
    """The paper's claims in one sentence, each with its name."""
    claims = verdicts[["claim", "statement"]].drop_duplicates().itertuples(index=False)
    said = [f"{text[0].lower()}{text[1:].removesuffix('.')} ({claim})" for claim, text in claims]
    return f"The paper claims of its unit: {'; '.join(said)}."


def speaks_for(verdicts: pd.DataFrame) -> str:
    """The claims that hold in at least one case, with the number of these cases.

    It is the first sentence with the word case, so it is followed by what a case is.
    """
    said = _one_side(verdicts, "For the paper", "supported", "hold")
    return f"{said} {CASE}" if len(_case_names(verdicts)) > 1 else said


def speaks_against(verdicts: pd.DataFrame) -> str:
    """The claims that fail in at least one case, with the number of these cases."""
    return _one_side(verdicts, "Against the paper", "contradicted", "fail")


def speaks_for_neither(verdicts: pd.DataFrame) -> str:
    """The claims that are never decided, and those without runs; empty if there are none."""
    counts = _case_counts(verdicts)
    never = counts["supported"] + counts["contradicted"] == 0
    where = " in every case that was run" if len(_case_names(verdicts)) > 1 else ""
    said = []
    for words, of in ((f"Undecided{where}", counts["undecided"] > 0), ("Not run", counts["undecided"] == 0)):
        if (never & of).any():
            said.append(f"{words}: {listing(counts.index[never & of])}.")
    return " ".join(said)


def hangs_on(verdicts: pd.DataFrame) -> str:
    """Whether the reading of the unit, or the training, changes verdicts, and on which claims.

    The reading changes the verdict on a claim if two readings with the same training have different verdicts. The
    training changes it if two trainings of the same reading have different verdicts. A verdict with missing findings is
    not compared, because it rests on other findings. Claims that hold in one case and fail in another come first.
    """
    names, whole = _case_names(verdicts), verdicts[verdicts["findings_missing"] == 0]
    if len(names) == 1:
        return f"These verdicts hold for one reading of the unit and one training only: {names[0]}."
    claims = _case_counts(whole)
    turned = claims.index[(claims["supported"] > 0) & (claims["contradicted"] > 0)]
    parts = []
    if len(turned):
        verbs = "holds in one case and fails" if len(turned) == 1 else "hold in one case and fail"
        parts.append(f"{len(turned)} of {_claims(len(claims))} {verbs} in another ({listing(turned)})")
    for varied, fixed in (("reading", "training"), ("training", "reading")):
        groups = whole.groupby(["claim", fixed], sort=False)["verdict"]
        compared = (groups.nunique()[groups.size() > 1] > 1).groupby("claim", sort=False).any()
        changed = compared.index[compared]
        if not len(compared):
            parts.append(f"no claim has all its runs in two cases that differ in the {varied} alone")
        elif not len(changed):
            parts.append(f"the {varied} changes no verdict on {_claims(len(compared))}")
        else:
            of = f"{len(changed)} of {_claims(len(compared))}"
            parts.append(f"the {varied} changes the verdict on {of} ({listing(changed)})")
    left_out = " Partial verdicts have no part in these comparisons of cases." if len(whole) < len(verdicts) else ""
    return f"{_sentence(parts)}{left_out}"


def _claims(count: int) -> str:
    return f"{count} claim{'' if count == 1 else 's'}"


def _one_side(verdicts: pd.DataFrame, head: str, verdict: str, verb: str) -> str:
    several, counts = len(_case_names(verdicts)) > 1, _case_counts(verdicts)
    run = counts.drop(columns=NOT_RUN).sum(axis="columns")
    partial = verdicts[(verdicts["verdict"] == verdict) & (verdicts["findings_missing"] > 0)]["claim"].value_counts()
    own = counts[verdict][counts[verdict] > 0]
    if own.empty:
        return f"{head}: no claim {verb}s{' in any case' if several else ''}."
    if not several:
        names = [f"{claim}{' (partial)' if claim in partial else ''}" for claim in own.index]
        return f"{head}: {listing(names)} {verb}{'s' if len(own) == 1 else ''}."
    names = []
    for claim, count in own.items():
        of_them = f" ({partial[claim]} of them partial)" if claim in partial else ""
        cases = "case" if run[claim] == 1 else "cases"
        names.append(f"{claim} {verb}s in {count} of {run[claim]} {cases}{of_them}")
    return f"{head}: {listing(names)}."


def _case_names(verdicts: pd.DataFrame) -> list[str]:
    pairs = verdicts[["reading", "training"]].drop_duplicates()
    return [case_name(*pair) for pair in pairs.itertuples(index=False)]


def _case_counts(verdicts: pd.DataFrame) -> pd.DataFrame:
    """For each claim, the number of cases with each verdict."""
    counts = pd.crosstab(verdicts["claim"], verdicts["verdict"])
    return counts.reindex(index=verdicts["claim"].unique(), columns=VERDICTS, fill_value=0)


def _sentence(parts: list[str]) -> str:
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."
