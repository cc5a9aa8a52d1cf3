"""The embedded Reber grammar: predict the next symbol of a string, and remember its second symbol to the end.

Hochreiter & Schmidhuber 1997, section 5.1, after Fahlman 1991 and Smith & Zipser 1989. The criteria rc and erc are
from the third-party reimplementation WilliamRo/tframe, which labels them "AMU, 2018".
"""

from collections.abc import Container, Mapping
from typing import Annotated, Literal

import numpy as np

from amu_experiments.options import Added, ConfigurationError, Count, whole
from amu_experiments.tasks.task import Sequences, Task, one_hot, random_generator, read_criteria

SYMBOLS = "BTPSXVE"

REBER = ({"T": 1, "P": 2}, {"S": 1, "X": 3}, {"T": 2, "V": 4}, {"X": 2, "S": 5}, {"P": 3, "V": 5}, {"E": 6})
"""The Reber grammar after its B: for each node, the possible next symbols and their nodes."""

LONGEST = 100
"""Symbols after which a sampled string is cut off. The grammar's own strings are longer with probability 4e-13."""


class EmbeddedReber(Task):
    r"""Strings of the embedded Reber grammar, read symbol by symbol; the answer to each is the next symbol.

    The Reber grammar and its embedding; every fork has probability 0.5:

                   S
                  .-.
            T     \ v   X        S
          .------>[1]----->[3]-------.                    T  Reber  T
      B   |               / ^        v    E           B .---> string --->. E
      --->[0]           X/  |P      [5]--->          -->|                |-->
          |             v   |        ^                  '---> string --->'
          '------>[2]----->[4]-------'                    P  Reber  P
            P     / ^   V        V
                  '-'
                   T

    A worked string, BT(BTXSE)TE, with the legal next symbols below each symbol of the input:

        read   B   T   B   T   X   S   E   T
        next   T   B   T   S   X   E   T   E
               P       P   X   S

    The last two answers (T and E here) belong to the embedding; of these, only the first needs the second symbol.

    Inputs are one-hot in the order BTPSXVE. Targets, at every step, are the actual next symbol, one-hot, or with
    targets="legal" all legal next symbols, which removes the random choice from the target. A trial draws its own
    `strings` training strings, with repetition, and as many validation strings, none of which is a training string.
    Training goes through the training strings again and again, each time in a new random order. The criteria refer to
    the validation strings, which the source calls test strings. The validation data are these strings, followed by the
    training strings, to which l97 also refers; the validation loss is the mean over both. A further set without
    training strings is the test data, used once at the end.

    A position is right if the legal next symbols are the most active outputs. Metrics:
        wrong_positions        wrong positions in all validation strings
        wrong_positions_rc     the same without the last two positions of each string
        train_wrong_positions  wrong positions in all training strings; nan if the data have none
        illegal_choices        positions of all strings, of both kinds, whose most active output is an illegal symbol;
                               a weaker demand, since a second legal symbol need not be active
        strings_right          share of validation strings with every position right

    With `samples` above 0, each trial's network also writes this many strings at the test. It begins with B, reads each
    symbol that it draws from its softmax, and ends with the second E, after `LONGEST` symbols at the latest. A string
    is judged symbol by symbol, and the first wrong symbol counts:

        BPBTSXSEPE     grammatical
        BPBTSXSET...   wrong at the ninth symbol: the second one was P

    Then there are also these metrics; all but the first belong to the test alone:
        excess_nats            mean over symbols of the strings: -ln p(symbol), less that of the grammar's own p
        grammatical            share of the sampled strings that the grammar allows
        right_last_but_one     share that end in the second symbol and E
        length_distance        largest difference between the distribution functions of their lengths and of the
                               grammar's lengths (Kolmogorov-Smirnov); a string without an end is longer than any other
    """

    input_size = len(SYMBOLS)
    output_size = len(SYMBOLS)
    answer = "every"
    metrics = ("wrong_positions", "wrong_positions_rc", "train_wrong_positions", "illegal_choices", "strings_right")
    given_steps = 2
    shown = 10
    media = ("txt",)

    def __init__(
        self,
        trials,
        *,
        strings: Count,
        targets: Literal["next", "legal"],
        loss: Literal["cross_entropy", "squared_error", "half_squared_error"],
        criteria: Mapping,
        samples: Annotated[int, whole(0, 10**5), Added(0)],
    ):
        super().__init__(trials)
        self.targets = targets
        self.strings = strings
        # Training strings are in RAM twice: as drawn, and in the order of the current pass.
        self.training_size, self.validation_size, self.test_size = 2 * self.strings, 2 * self.strings, self.strings
        # Twice as many strings make the longest about two symbols longer.
        self.steps = 8 + 2 * self.strings.bit_length()
        self.loss = loss
        self.squash = "softmax" if self.loss == "cross_entropy" else "logistic"
        self.samples = samples
        if loss == "cross_entropy":
            self.feedback = "symbol"
        if samples:
            if (loss, targets) != ("cross_entropy", "next"):
                raise ConfigurationError(
                    f"task.samples={samples}: needs task.loss=cross_entropy and task.targets=next, the probabilities "
                    "of the next symbol"
                )
            self.metrics = (*self.metrics, "excess_nats")
            self.generated_metrics = ("grammatical", "right_last_but_one", "length_distance")
        self.criteria = read_criteria(criteria, self.metrics)

    def sets(self, rng):
        training = [draw_string(rng) for _ in range(self.strings)]
        seen = set(training)
        validation = [draw_string(rng, seen) for _ in range(self.strings)]
        test = [draw_string(rng, seen) for _ in range(self.strings)]
        sets = {"train": encode(training), "validation": encode(validation + training), "test": encode(test)}
        if self.targets == "legal":
            sets = {split: self._aim_at_legal(sequences) for split, sequences in sets.items()}
        return sets

    def _aim_at_legal(self, sequences: Sequences) -> Sequences:
        """The same strings with all legal symbols as targets: 1 each, or equal probabilities for the cross-entropy."""
        legal = legal_next(sequences.inputs).astype(np.float32)
        if self.loss == "cross_entropy":
            legal /= np.maximum(legal.sum(axis=-1, keepdims=True), 1)
        running = np.arange(legal.shape[1]) < sequences.lengths[:, None]
        return Sequences(sequences.inputs, sequences.lengths, legal * running[..., None])

    def measure(self, outputs, sequences):
        steps = np.arange(outputs.shape[1])
        lengths = sequences.lengths[:, None]
        wrong = steps < lengths
        given, legal = outputs[wrong], _LEGAL[_nodes(sequences.inputs)[wrong]]
        chosen_legal = np.take_along_axis(legal, given.argmax(axis=-1)[:, None], axis=-1)
        wrong[wrong] = ~_legal_most_active(given, legal)
        test, training = wrong[: self.strings], wrong[self.strings :]
        more = {"excess_nats": self._excess_nats(outputs, sequences)} if self.samples else {}
        return {
            "wrong_positions": int(test.sum()),
            "wrong_positions_rc": int((test & (steps < lengths[: self.strings] - 2)).sum()),
            "train_wrong_positions": int(training.sum()) if len(training) else float("nan"),
            "illegal_choices": int((~chosen_legal).sum()),
            "strings_right": float(np.mean(~test.any(axis=1))),
        } | more

    def _excess_nats(self, outputs: np.ndarray, sequences: Sequences) -> float:
        test = slice(self.strings)
        drawn = sequences.targets[test] > 0
        ways = legal_next(sequences.inputs[test]).sum(axis=-1)[drawn.any(axis=-1)]
        with np.errstate(divide="ignore"):
            nats = -np.log(outputs[test][drawn].astype(np.float64))
        return float(np.mean(nats - np.log(ways)))

    def start(self, rng, count):
        return np.tile(one_hot([SYMBOLS.index("B")], len(SYMBOLS)), (count, 1, 1))

    def measure_generated(self, network, sequences, trials):
        rng = [random_generator(trial, "samples") for trial in trials]
        start = self.start(rng[0], self.samples)
        generated = self.generate(network, rng, self.samples, self.longest_generated(), None)
        return [measure_strings(self.texts(start, each)) for each in generated]

    def longest_generated(self):
        return LONGEST - 1

    def texts(self, prime, generated):
        return decode(np.concatenate([prime, generated], axis=1))

    def first_wrong(self, text):
        return first_wrong(text)


def decode(symbols: np.ndarray) -> list[str]:
    """One-hot symbols (B, T, 7) as strings, each up to its second E."""
    texts = ["".join(SYMBOLS[symbol] for symbol in row) for row in symbols.argmax(axis=-1)]
    return [text[: text.find("E", text.find("E") + 1) + 1 or None] for text in texts]


def first_wrong(string: str) -> int | None:
    """The place of the first symbol that the grammar does not allow, or the length of a string without an end."""
    node = 0
    for place, symbol in enumerate(string):
        if symbol not in _GRAMMAR[node]:
            return place
        node = _GRAMMAR[node][symbol]
    return len(string) if _GRAMMAR[node] else None


def length_distribution(longest: int) -> np.ndarray:
    """The probability of each length from 0 to `longest` among the grammar's strings."""
    at, ended = np.zeros(len(_GRAMMAR)), np.zeros(longest + 1)
    at[0] = 1
    for length in range(1, longest + 1):
        following = np.zeros_like(at)
        for node, ways in enumerate(_GRAMMAR):
            for way in ways.values():
                following[way] += at[node] / len(ways)
        ended[length], following[-1] = following[-1], 0
        at = following
    return ended


def measure_strings(strings: list[str]) -> dict[str, float]:
    """The metrics of sampled strings (see EmbeddedReber)."""
    ended = [string for string in strings if string.count("E") == 2]
    lengths = np.bincount([len(string) for string in ended], minlength=LONGEST + 1) / len(strings)
    return {
        "grammatical": float(np.mean([first_wrong(string) is None for string in strings])),
        "right_last_but_one": sum(string[1] == string[-2] for string in ended) / len(strings),
        "length_distance": float(np.abs(np.cumsum(lengths - length_distribution(LONGEST))).max()),
    }


def draw_string(rng: np.random.Generator, excluded: Container[str] = ()) -> str:
    """A random string of the embedded Reber grammar, without the excluded strings."""
    while True:
        node, string = 0, ""
        while ways := _WAYS[node]:
            symbol, node = ways[rng.integers(2)] if len(ways) == 2 else ways[0]
            string += symbol
        if string not in excluded:
            return string


def encode(strings: list[str]) -> Sequences:
    """Inputs (B, T, 7) and next symbols, both one-hot; T is one less than the length of the longest string."""
    counts = np.array([len(string) for string in strings])
    symbols = np.zeros((len(strings), counts.max(), len(SYMBOLS)), np.float32)
    symbols[np.arange(counts.max()) < counts[:, None]] = one_hot([*map(SYMBOLS.index, "".join(strings))], len(SYMBOLS))
    targets = symbols[:, 1:].copy()
    symbols[np.arange(len(strings)), counts - 1] = 0  # the last symbol is only a target
    return Sequences(symbols[:, :-1].copy(), counts - 1, targets)


def legal_next(inputs: np.ndarray) -> np.ndarray:
    """The legal next symbols at each step of one-hot strings: (B, T, 7) bool, arbitrary after a string's end."""
    return _LEGAL[_nodes(inputs)]


def _nodes(inputs: np.ndarray) -> np.ndarray:
    """The node of the grammar after each step of one-hot strings (B, T, 7): (B, T), arbitrary after a string's end."""
    symbols = (inputs @ np.arange(len(SYMBOLS), dtype=np.float32)).astype(np.intp)
    node = np.zeros(len(inputs), np.intp)
    nodes = np.empty(symbols.shape, np.intp)
    for step in range(symbols.shape[1]):
        node = nodes[:, step] = _NEXT[node, symbols[:, step]]
    return nodes


def _legal_most_active(outputs: np.ndarray, legal: np.ndarray) -> np.ndarray:
    """Whether every legal output is above every illegal one (false for nan): two (N, 7) -> (N,) bool."""
    # numpy finds the smallest of a few numbers much faster if their axis comes first.
    outputs, legal = np.ascontiguousarray(outputs.T), np.ascontiguousarray(legal.T)
    least_legal = np.where(legal, outputs, np.inf).min(axis=0)
    most_illegal = np.where(legal, -np.inf, outputs).max(axis=0)
    return least_legal > most_illegal


def _embed() -> list[dict[str, int]]:
    """The embedded grammar in the form of REBER: node 0 is the start, the last node the end."""
    branches = {"T": 2, "P": 2 + len(REBER) + 2}
    before_end = branches["P"] + len(REBER) + 2
    grammar = [{"B": 1}, dict(branches)]
    for symbol, start in branches.items():
        grammar.append({"B": start + 1})
        grammar += [{way: start + 1 + node for way, node in ways.items()} for ways in REBER]
        grammar.append({symbol: before_end})
    return [*grammar, {"E": before_end + 1}, {}]


_GRAMMAR = _embed()
_WAYS = [list(_ways.items()) for _ways in _GRAMMAR]

_NEXT = np.full((len(_GRAMMAR), len(SYMBOLS)), len(_GRAMMAR) - 1)
_LEGAL = np.zeros((len(_GRAMMAR), len(SYMBOLS)), bool)
for _node, _ways in enumerate(_GRAMMAR):
    for _symbol, _follower in _ways.items():
        _NEXT[_node, SYMBOLS.index(_symbol)] = _follower
        _LEGAL[_node, SYMBOLS.index(_symbol)] = True
