"""A waveform from memory: the input is constant, and the targets are 320 samples of a wave.

After the sequence generation of Koutnik, Greff, Gomez & Schmidhuber 2014 (Clockwork RNN), section 4.1, whose waves were
cut from music; here the wave is synthetic.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np

from amu_experiments.options import whole
from amu_experiments.tasks.task import Sequences, Task, read_criteria

PERIODS = (8, 32, 80, 160)
"""Periods of the sines, in samples. Their sum repeats after 160 samples."""


class Waveform(Task):
    """The input is 1 at every step; the target is a wave in [-1, 1], T samples. One sequence, the same in every trial.

    form `sines`: the mean of sines with periods 8, 32, 80 and 160 samples, divided by its largest absolute value.
    form `composed`: f(t) = 0.5 sin 2t - 0.05 cos(17t + 0.8) + 0.05 sin(25t + 10) - 0.02 cos(45t + 0.3) with t = 0.01 i
    for sample i, less its mean over T samples, divided by its largest absolute value.

    A worked sequence (sines):

        input    1      1      1      1      1
        target   0.000  0.338  0.537  0.535  0.389

    A network is judged on the sequence that it learned: there is nothing to generalise to, and validation and test use
    the same sequence. All it can do is to keep the wave in its weights. Metrics:
        nmse            mean squared error divided by the variance of the wave; 1 for the answer "the mean"
        mse             mean squared error
    and at the test:
        continued_nmse  as nmse, in the next T samples after the sequence, against the wave's own continuation
    """

    input_size = 1
    output_size = 1
    answer = "every"
    feedback = "none"
    fixed = True
    metrics = ("nmse", "mse")
    media = ("png", "wav")
    generated_metrics = ("continued_nmse",)
    training_size, validation_size, test_size = 2, 1, 1

    def __init__(
        self,
        trials,
        *,
        form: Literal["sines", "composed"],
        T: Annotated[int, whole(2, 10**5)],
        criteria: Mapping,
    ):
        super().__init__(trials)
        self.T = self.steps = T
        self.wave = (sines if form == "sines" else composed)(T)
        self.criteria = read_criteria(criteria, self.metrics)

    def sets(self, rng):
        sequence = self._sequences(self.wave[: self.T])
        return {"train": sequence, "validation": sequence, "test": sequence}

    def start(self, rng, count):
        return np.ones((count, 1, 1))

    def measure(self, outputs, sequences):
        mse = float(np.mean((outputs - sequences.targets) ** 2))
        return {"nmse": mse / float(sequences.targets.var()), "mse": mse}

    def measure_generated(self, network, sequences, trials):
        rng = [np.random.default_rng(0)] * len(trials)  # nothing is random
        waves = self.generate(network, rng, 1, 2 * self.T)[:, :, self.T :]
        further = self._sequences(self.wave[self.T :])
        return [{"continued_nmse": self.measure(wave, further)["nmse"]} for wave in waves]

    def _sequences(self, wave: np.ndarray) -> Sequences:
        inputs = np.ones((1, len(wave), 1), np.float32)
        return Sequences(inputs, np.array([len(wave)]), wave[None, :, None].astype(np.float32))


def sines(T: int) -> np.ndarray:
    """2 T samples, scaled so that the largest absolute value of the first T is 1."""
    t = np.arange(2 * T)
    wave = sum(np.sin(2 * np.pi * t / period) for period in PERIODS)
    return wave / np.abs(wave[:T]).max()


def composed(T: int) -> np.ndarray:
    """2 T samples, of which the first T have mean 0 and a largest size of 1."""
    t = 0.01 * np.arange(2 * T)
    wave = 0.5 * np.sin(2 * t) - 0.05 * np.cos(17 * t + 0.8) + 0.05 * np.sin(25 * t + 10) - 0.02 * np.cos(45 * t + 0.3)
    wave = wave - wave[:T].mean()
    return wave / np.abs(wave[:T]).max()
