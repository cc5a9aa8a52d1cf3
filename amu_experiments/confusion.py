"""Confusion matrices: how often networks took test sequences of one class for another.

The networks are those of a stack, trials trained together.
"""

import numpy as np
import pandas as pd
import torch

from amu_experiments.network import squashed
from amu_experiments.stack import Stack
from amu_experiments.stack_files import CONFUSION
from amu_experiments.tasks.task import Sequences


def confusion_counts(sequences: Sequences, outputs: np.ndarray) -> np.ndarray:
    """The confusion matrix (C, C) of one trial's sequences: rows are true classes, columns answered ones.

    outputs: (B, T, C) or (B, 1, C) like the targets, which are one-hot. The largest output is the answer. Steps after
    the end of a sequence do not count, and neither do steps without a true class.
    """
    answers = np.arange(outputs.shape[1]) < sequences.lengths[:, None]  # one answer: an axis of length 1
    answers &= sequences.targets.any(axis=-1)
    counts = np.zeros((outputs.shape[-1],) * 2, int)
    np.add.at(counts, (sequences.targets[answers].argmax(-1), outputs[answers].argmax(-1)), 1)
    return counts


def stack_confusions(stack: Stack) -> pd.DataFrame | None:
    """The matrices of all trials of a finished stack, except diverged ones; None if its task has no classes.

    Each row has a trial, a true class, an answered class and the number of test answers, 1 or more. Side effect: the
    stack's network then holds the parameters that were tested.
    """
    task, network = stack.task, stack.network
    if task.classes is None:
        return None
    trials, parameters = stack.weights_table()
    tested = (stack.trials_table()["status"] != "diverged").to_numpy()
    rows = []
    if tested.any():
        network.load_flat(torch.from_numpy(parameters[tested]))
        sequences = task.test(trials[tested].tolist())
        nets = network.predict(sequences, task.answer == "every")
        for r, trial in enumerate(trials[tested]):
            counts = confusion_counts(sequences.take(r), squashed(nets[r], task.squash))
            rows += [
                (trial, task.classes[true], task.classes[answered], counts[true, answered])
                for true, answered in np.argwhere(counts)
            ]
    return pd.DataFrame(rows, columns=CONFUSION)
