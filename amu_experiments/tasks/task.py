"""The contract of a task: streams of sequences, each from its trial's seed alone, a loss, metrics and criteria.

Shapes use the letters R trials, B sequences, T time steps, I input features, O readout outputs. Data are stored
sequence by sequence, (B, T, I), so that the steps of one sequence are contiguous.
"""

import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from amu_experiments.options import ConfigurationError

BLOCK = 250
"""Sequences drawn with one random generator: enough to make the start of a generator cheap, and few enough that the
blocks of many trials with long sequences fit into RAM."""

_STREAMS = {"train": 0, "validation": 1, "test": 2, "sets": 3, "order": 4, "weights": 5, "samples": 6}

_COMPARISONS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq}


@dataclass(frozen=True)
class Sequences:
    """Sequences of one trial, or with a leading trial axis R on every array, of a stack of trials.

    inputs: ([R,] B, T, I) float32, zero after a sequence's end.
    lengths: ([R,] B) int64, between 1 and T.
    targets: ([R,] B, T, O) float32 for a task that answers at every step (zero after the end), or
        ([R,] B, 1, O) for one that answers at each sequence's own last step.
    """

    inputs: np.ndarray
    lengths: np.ndarray
    targets: np.ndarray

    def __len__(self) -> int:
        return self.lengths.shape[-1]

    def take(self, index) -> "Sequences":
        """The sequences at an index array or a slice. If there is an axis of trials, an integer selects a trial."""
        return Sequences(self.inputs[index], self.lengths[index], self.targets[index])

    def trimmed(self) -> "Sequences":
        """The same sequences, cut to the time steps of the longest of them."""
        steps = int(self.lengths.max())
        return Sequences(self.inputs[..., :steps, :], self.lengths, self.targets[..., :steps, :])


@dataclass(frozen=True)
class Criterion:
    """A named set of conditions on the metrics, all of which must hold.

    `conditions` maps a metric to a comparison and a bound, as in a task's yaml:
    `{wrong: "== 0", mean_error: "< 0.01"}`. Raises ValueError for a condition of another form.
    """

    name: str
    conditions: Mapping[str, str]

    def __post_init__(self):
        self._parts()

    def met(self, metrics: Mapping[str, float]) -> bool:
        return all(compare(metrics[metric], bound) for metric, compare, bound in self._parts())

    def _parts(self) -> list[tuple]:
        """(metric, comparison function, bound) of every condition."""
        parsed = []
        for metric, condition in self.conditions.items():
            sign, _, bound = str(condition).strip().partition(" ")
            try:
                parsed.append((metric, _COMPARISONS[sign], float(bound)))
            except (KeyError, ValueError):
                raise ValueError(
                    f"task.criteria: {self.name}.{metric}={condition!r} is not a condition; give a comparison "
                    f"({', '.join(_COMPARISONS)}), a space and a number, such as '< 0.01'"
                ) from None
        return parsed


def read_criteria(section: Mapping[str, Mapping[str, str]], metrics: Collection[str]) -> tuple[Criterion, ...]:
    """The criteria of a yaml section {name: {metric: condition}}, on these metrics and the loss.

    Raises ValueError for a criterion without conditions, an unknown metric or a malformed condition.
    """
    known = ("loss", *metrics)
    criteria = []
    for name, conditions in section.items():
        if not isinstance(conditions, Mapping) or not conditions:
            raise ValueError(f"task.criteria: {name}={conditions!r} has no conditions such as {{{known[1]}: '< 0.01'}}")
        for metric in conditions:
            if metric not in known:
                raise ValueError(
                    f"task.criteria: {name} names {metric!r}, which is not a metric of this task; "
                    f"it has {', '.join(known)}"
                )
        criteria.append(Criterion(name, dict(conditions)))
    return tuple(criteria)


class FreeRunner(Protocol):
    """A network that can generate; network.py has the shapes."""

    def free_run(
        self,
        given: np.ndarray,
        steps: int,
        squash: str,
        feedback: str,
        draws: np.ndarray | None = None,
        temperature: float = 1.0,
    ) -> np.ndarray: ...


class Task:
    """A problem for a stack of trials.

    A subclass sets the class or instance attributes below and defines either `draw`, for an endless stream of fresh
    sequences, or `sets`, for finite sets of sequences. All random numbers must come from the generator that these
    methods get: it depends on the trial's seed alone, so every model gets the same sequences.
    """

    input_size: int
    output_size: int
    answer: str = "last"
    """Steps at which the readout is compared with the targets: a sequence's own "last" step, or "every" step."""
    loss: str = "squared_error"
    """"squared_error" (summed over the outputs), "cross_entropy" (softmax against target probabilities) or
    "binary_cross_entropy" (logistic outputs against targets of 0 to 1, summed), averaged over the answered steps; or
    "half_squared_error", half the squared error summed over outputs and answered steps, to which the learning rates of
    Hochreiter & Schmidhuber 1997 refer. All are averaged over the sequences of a batch."""
    classes: Sequence[str] | None = None
    """The names of the classes, in the order of the outputs; None for other tasks."""
    squash: str = "linear"
    """From readout to outputs: "linear" (no change), "logistic" or "softmax" (with cross_entropy)."""
    metrics: tuple[str, ...]
    """Names of the metrics of `measure`. The loss is not among them; it is always measured."""
    criteria: tuple[Criterion, ...] = ()
    select: tuple[str, str] = ("loss", "min")
    """The validation metric that `training.select=best` uses, and whether the "min" or the "max" is best."""
    window: int = 0
    """Number of latest training sequences that `measure_recent` gets; if 0, it is not called."""
    recent_metrics: tuple[str, ...] = ()
    """Names of the metrics of `measure_recent`."""
    validation_size: int = 256
    test_size: int = 256
    training_size: int = BLOCK
    """Training sequences of a trial that are in RAM at once."""
    steps: int | None = None
    """Time steps of the longest sequence, roughly; None if unknown before drawing. With the sizes above, it gives the
    estimate of the RAM that a run needs."""
    feedback: Literal["none", "value", "symbol", "bits"] | None = None
    """What a network reads when it generates: its outputs ("value"), a symbol drawn from their softmax
    ("symbol"), 0 or 1 for each logistic output, drawn with that probability of a 1 ("bits"), or inputs that do not
    depend on its outputs ("none"). None: the task cannot be continued."""
    given_steps: int = 1
    """Steps of a true sequence that a network reads before it generates."""
    fixed: bool = False
    """Whether the first input fixes what a network has to generate. Test sequences then have the true answers."""
    shown: int = 4
    """Sequences that amu-sample writes unless a number is given."""
    media: tuple[str, ...] = ()
    """Files that show what a network generates: "txt" (texts); "svg" (moves of a pen), "mid" (notes) or neither
    (a series); and "png" and "wav" of these."""
    generated_metrics: tuple[str, ...] = ()
    """Names of the metrics of `measure_generated`, which belong to the test."""
    threads: int = 1
    """Threads that draw training data, trial by trial; their number does not change the data."""
    contents: Mapping[str, object] = {}
    """Options that identify data given by path, such as their digest. They are part of a run's identity. A task made
    with these options has the same data."""

    def __init__(self, trials: Iterable[int]):
        self.trials = list(trials)
        self._blocks: dict[int, tuple[int, Sequences]] = {}
        self._sets: dict[int, dict[str, Sequences] | None] = {}

    # For a subclass to define ---------------------------------------------------------------------------------

    @classmethod
    def criteria_of(cls, options: Mapping) -> Mapping[str, Mapping[str, str]]:
        """The criteria {name: {metric: condition}} that apply with these options; all of them by default."""
        return options.get("criteria") or {}

    def draw(self, rng: np.random.Generator, count: int, split: str) -> Sequences:
        """`count` fresh sequences (one trial, no trial axis); split is "train", "validation" or "test"."""
        raise TypeError(f"{type(self).__name__} must define draw() or sets()")

    def sets(self, rng: np.random.Generator) -> dict[str, Sequences] | None:
        """One trial's finite sets, {"train": ..., "validation": ..., "test": ...}; None if data are endless.

        Training goes through the training set again and again, each time in a new random order.
        """
        return None

    def measure(self, outputs: np.ndarray, sequences: Sequences) -> dict[str, float]:
        """The metrics of one trial from its squashed outputs, (B, T, O) or (B, 1, O) like the targets."""
        raise TypeError(f"{type(self).__name__} must define measure()")

    def measure_recent(self, errors: np.ndarray) -> dict[str, float]:
        """Metrics of one trial's latest `window` training answers.

        errors: (window,) largest absolute output error of each sequence before its update, oldest first; the first
        values are infinite while the trial has seen fewer than `window` sequences.
        """
        return {}

    # For a subclass that can be continued: it sets `feedback` ---------------------------------------------------

    def start(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """The inputs (count, G, I) with which `count` sequences begin; by default the first of fresh sequences."""
        return self.draw(rng, count, "test").inputs[:, :1]

    def generate(
        self,
        network: FreeRunner,
        rng: Sequence[np.random.Generator],
        count: int,
        length: int,
        prime: np.ndarray | None = None,
        temperature: float = 1.0,
    ) -> np.ndarray:
        """The sequences that the R trials of a network generate: (R, count, length, O).

        The first answer is the one to the last input of the prime. All randomness comes from `rng`.

        Args:
            network: with parameters of R trials.
            rng: a generator for each trial.
            prime: inputs (R, count, G, I) that are read first; None: those of `start`.
            temperature: divides the readout before symbols or bits are drawn. Values do not depend on it.

        Raises:
            ConfigurationError: the task cannot be continued.
        """
        if self.feedback is None:
            raise ConfigurationError(f"{type(self).__name__} cannot be continued: its answers are not next inputs")
        if prime is None:
            prime = np.stack([self.start(each, count) for each in rng])
        before = prime.shape[2] - 1
        shape, draws = (count, before + length), None
        if self.feedback in ("symbol", "bits"):
            shape += (self.output_size,) if self.feedback == "bits" else ()
            draws = np.stack([each.random(shape, np.float32) for each in rng])
        return network.free_run(prime, before + length, self.squash, self.feedback, draws, temperature)[:, :, before:]

    def longest_generated(self) -> int:
        """The number of steps that are generated unless a number is given."""
        return (self.steps or 1) - self.given_steps + 1

    def texts(self, prime: np.ndarray, generated: np.ndarray) -> list[str]:
        """Symbols read (count, G, I) and generated (count, length, O) as texts, for a task with the medium "txt"."""
        raise TypeError(f"{type(self).__name__} must define texts()")

    def first_wrong(self, text: str) -> int | None:
        """The place of the first wrong symbol of a text; None if there is none."""
        return None

    def continuation(self, sequences: Sequences) -> tuple[np.ndarray, np.ndarray]:
        """The first `given_steps` inputs of sequences, and the true answers from the last of these inputs on."""
        first = self.given_steps
        return sequences.inputs[..., :first, :], sequences.targets[..., first - 1 :, :]

    def measure_generated(self, network: FreeRunner, sequences: Sequences, trials: list[int]) -> list[dict[str, float]]:
        """The `generated_metrics` of each trial of a network.

        sequences: the test sequences of these trials, with a trial axis; trials: their numbers.
        """
        return [{} for _ in trials]

    # For training ---------------------------------------------------------------------------------

    def train_batch(self, first: int, count: int) -> Sequences:
        """Sequences first .. first + count - 1 of every trial's stream, with a trial axis, padded to one length.

        A pure function of (trial seed, position): independent of the model, of the other trials in the stack and of
        earlier calls.
        """
        with ThreadPoolExecutor(self.threads) as pool:
            return stack_trials(list(pool.map(lambda trial: self._train_one(trial, first, count), self.trials)))

    def validation(self) -> Sequences:
        """Every trial's validation sequences, with a trial axis."""
        return stack_trials([self._split(trial, "validation") for trial in self.trials])

    def test(self, trials: Iterable[int] | None = None) -> Sequences:
        """Test sequences of these trials, by default of the whole stack, with a trial axis."""
        trials = self.trials if trials is None else trials
        return stack_trials([self._split(trial, "test") for trial in trials])

    def select_trials(self, index: Sequence[int]) -> None:
        """Reduce the stack to the trials at these positions."""
        self.trials = [self.trials[i] for i in index]
        self._blocks = {trial: block for trial, block in self._blocks.items() if trial in self.trials}
        self._sets = {trial: sets for trial, sets in self._sets.items() if trial in self.trials}

    # Streams -----------------------------------------------------------------------------------

    def _train_one(self, trial: int, first: int, count: int) -> Sequences:
        sets = self._finite(trial)
        length = BLOCK if sets is None else len(sets["train"])
        pieces, position = [], first
        while position < first + count:
            number, start = divmod(position, length)
            stop = min(length, start + first + count - position)
            pieces.append(self._block(trial, number).take(slice(start, stop)))
            position += stop - start
        return join(pieces)

    def _block(self, trial: int, number: int) -> Sequences:
        """Block `number` of a trial's training stream; for finite data, the training set in a new order."""
        newest = self._blocks.get(trial)
        if newest is None or newest[0] != number:
            sets = self._finite(trial)
            if sets is None:
                block = self.draw(random_generator(trial, "train", number), BLOCK, "train")
            else:
                block = sets["train"].take(random_generator(trial, "order", number).permutation(len(sets["train"])))
            # A trial moves forward through its stream, so earlier blocks are not needed again.
            newest = self._blocks[trial] = number, block
        return newest[1]

    def _finite(self, trial: int) -> dict[str, Sequences] | None:
        if trial not in self._sets:
            self._sets[trial] = self.sets(random_generator(trial, "sets"))
        return self._sets[trial]

    def _split(self, trial: int, split: str) -> Sequences:
        sets = self._finite(trial)
        if sets is not None:
            return sets[split]
        size = self.validation_size if split == "validation" else self.test_size
        return self.draw(random_generator(trial, split), size, split)


def join(pieces: list[Sequences]) -> Sequences:
    """Joined along the sequence axis and padded to one length; without a trial axis."""
    if len(pieces) == 1:
        return pieces[0]
    steps = max(piece.inputs.shape[-2] for piece in pieces)
    answers = max(piece.targets.shape[-2] for piece in pieces)
    return Sequences(
        np.concatenate([_fit(piece.inputs, steps) for piece in pieces]),
        np.concatenate([piece.lengths for piece in pieces]),
        np.concatenate([_fit(piece.targets, answers) for piece in pieces]),
    )


def stack_trials(trials: list[Sequences]) -> Sequences:
    """Equal numbers of sequences of every trial, joined along a new first axis and padded to the longest sequence."""
    lengths = np.stack([trial.lengths for trial in trials])
    steps = int(lengths.max())
    # If only the last step is answered, the targets have one step at any length.
    answers = steps if max(trial.targets.shape[-2] for trial in trials) > 1 else 1
    return Sequences(
        np.stack([_fit(trial.inputs, steps) for trial in trials]),
        lengths,
        np.stack([_fit(trial.targets, answers) for trial in trials]),
    )


def _fit(array: np.ndarray, steps: int) -> np.ndarray:
    """(B, steps, _): padded with zeros, or cut; only padding is ever cut."""
    missing = steps - array.shape[-2]
    return array[:, :steps] if missing <= 0 else np.pad(array, [(0, 0), (0, missing), (0, 0)])


def one_hot(classes: np.ndarray, size: int) -> np.ndarray:
    """float32 rows of an identity matrix, one for each class number: (...,) -> (..., size)."""
    return np.eye(size, dtype=np.float32)[classes]


def check_section(key: str, sections: Mapping, name: str):
    """The section of a yaml mapping for a variant of the task; ConfigurationError if there is none."""
    named = {str(section): content for section, content in sections.items()}
    if name not in named:
        raise ConfigurationError(f"task.{key} has no section for {name}; it has {', '.join(named)}")
    return named[name]


def random_generator(trial: int, stream: str, number: int = 0) -> np.random.Generator:
    """The only source of a trial's random numbers: a generator for each stream and each block of it."""
    return np.random.Generator(np.random.SFC64([trial, _STREAMS[stream], number]))
