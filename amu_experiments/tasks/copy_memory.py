"""Copy memory: read ten symbols, and output them in the same order after many blanks.

Arjovsky, Shah & Bengio 2016, section 4.1, after Hochreiter & Schmidhuber 1997.
"""

from collections.abc import Mapping
from typing import Annotated

import numpy as np

from amu_experiments.options import Count, whole
from amu_experiments.tasks.task import Sequences, Task, one_hot, read_criteria


class CopyMemory(Task):
    """Symbols to remember, then T - 1 blanks, a delimiter, and one blank for each remembered symbol.

    The answer is the blank at every step but the last ones, and the remembered symbols at these. A worked sequence with
    3 of 4 symbols and T = 5 (blank _, delimiter |):

        read    c  a  d  _  _  _  _  |  _  _  _
        answer  _  _  _  _  _  _  _  _  c  a  d

    With `remembered` = 10 and `symbols` = 8, a sequence has T + 20 steps. A network that remembers nothing can at best
    give all symbols the same probability at each of the last ten steps. Its cross-entropy, the mean over all steps, is
    10 ln 8 / (T + 20), its accuracy 1/8. Some authors repeat the delimiter to the end, which shows when to answer;
    here, as in the source, the delimiter comes once.

    Inputs are one-hot: the symbols, the blank, the delimiter. Targets are one-hot: the symbols, the blank.

    Metrics:
        accuracy          share of remembered symbols whose output is the most active at the step of their answer
        sequences_right   share of sequences with all remembered symbols right
    """

    answer = "every"
    loss = "cross_entropy"
    squash = "softmax"
    metrics = ("accuracy", "sequences_right")

    def __init__(
        self,
        trials,
        *,
        T: Count,
        remembered: Count,
        symbols: Annotated[int, whole(2, 10**6)],
        validation_size: Count,
        test_size: Count,
        criteria: Mapping,
    ):
        super().__init__(trials)
        self.T = T
        self.remembered = remembered
        self.symbols = symbols
        self.steps = self.T + 2 * self.remembered
        self.input_size = self.symbols + 2
        self.output_size = self.symbols + 1
        self.validation_size = validation_size
        self.test_size = test_size
        self.criteria = read_criteria(criteria, self.metrics)

    def draw(self, rng, count, split):
        blank, delimiter = self.symbols, self.symbols + 1
        steps = self.T + 2 * self.remembered
        symbols = rng.integers(self.symbols, size=(count, self.remembered))
        read, answers = np.full((2, count, steps), blank)
        read[:, : self.remembered] = answers[:, -self.remembered :] = symbols
        read[:, -self.remembered - 1] = delimiter
        inputs, targets = one_hot(read, self.input_size), one_hot(answers, self.output_size)
        return Sequences(inputs, np.full(count, steps), targets)

    def measure(self, outputs, sequences):
        due = np.s_[:, -self.remembered :]
        right = outputs[due].argmax(axis=-1) == sequences.targets[due].argmax(axis=-1)
        return {"accuracy": float(right.mean()), "sequences_right": float(right.all(axis=1).mean())}
