"""A trained network of one trial, as a torch module that predicts, with the task that made its data."""

from typing import Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call

from amu_experiments.confusion import confusion_counts
from amu_experiments.learning import loss_and_outputs
from amu_experiments.network import Network
from amu_experiments.tasks.task import Sequences, Task


class TrainedNetwork(nn.Module):
    """The network of one trial with its final weights, those that the trial's test used.

    `network(inputs, lengths)` computes outputs in torch, with derivatives. `predict` and `measure` use the code of
    training instead: the metrics of a compiled cell equal the stored ones to the bit, those of a cell that was trained
    in torch up to rounding. Parameters have no trial axis: cell.weight_ih_l0 is (K, I), readout_weight (O, A). All
    three methods use the parameters as they are now, so they show the effect of a change.

    Shapes: B sequences, T time steps, I input features, O readout outputs, A units, K rows of the weight matrices.

    task: the task, for this trial alone. trial: its number.
    """

    def __init__(self, network: Network, task: Task):
        super().__init__()
        (self.trial,) = task.trials
        self.task = task
        self._stacked = (network,)  # in a tuple, so that torch does not register its parameters (1, ...) here
        self._names = network.parameter_names()
        for own, name in self._names.items():
            *path, last = name.split(".")
            place: nn.Module = self
            for part in path:
                if part not in place._modules:
                    place.add_module(part, nn.Module())
                place = place.get_submodule(part)
            place.register_parameter(last, nn.Parameter(network.get_parameter(own).detach()[0].clone()))

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The outputs of sequences, in torch.

        Args:
            inputs: (B, T, I) float32.
            lengths: (B,) whole numbers from 1 to T; None: all sequences have T steps.

        Returns:
            (B, T, O) for a task that answers at every step, otherwise (B, 1, O), at each sequence's own last step.
            Numbers, or probabilities if the task has those.
        """
        if lengths is None:
            lengths = torch.full(inputs.shape[:1], inputs.shape[1], device=inputs.device)
        parameters = {own: self.get_parameter(name).unsqueeze(0) for own, name in self._names.items()}
        arguments = inputs.transpose(0, 1).unsqueeze(0), lengths.unsqueeze(0), self.task.answer == "every"
        net = functional_call(self._stacked[0], parameters, arguments)[0]
        if self.task.squash == "logistic":
            return net.sigmoid()
        return net.softmax(dim=-1) if self.task.squash == "softmax" else net

    def data(self, split: Literal["train", "validation", "test"]) -> Sequences:
        """The trial's validation or test sequences, or the first sequences of its training data."""
        if split == "train":
            return self.task.train_batch(0, self.task.training_size).take(0)
        if split not in ("validation", "test"):
            raise ValueError(f"split={split!r}: must be train, validation or test")
        return (self.task.validation() if split == "validation" else self.task.test()).take(0)

    def predict(self, sequences: Sequences) -> np.ndarray:
        """The outputs of sequences (B, T, I), without trial axis, in the shape of their targets; 0 after their end."""
        _, outputs = self._answered(sequences)
        if self.task.answer == "every":
            outputs[np.arange(outputs.shape[1]) >= sequences.lengths[:, None]] = 0
        return outputs

    def measure(self, sequences: Sequences) -> dict[str, float]:
        """The loss and the metrics of sequences, by name. For data("test"), trials.csv has them as test_NAME."""
        loss, outputs = self._answered(sequences)
        return {"loss": loss} | self.task.measure(outputs, sequences.trimmed())

    def confusion(self, sequences: Sequences) -> pd.DataFrame:
        """The confusion matrix of sequences: a row for each true class, a column for each answered class, by name.

        Sums of the matrices of several trials are matrices, too. Raises ValueError if the task has no classes.
        """
        if self.task.classes is None:
            raise ValueError("the task has no classes; a confusion matrix needs a data set with classes")
        counts = confusion_counts(sequences.trimmed(), self.predict(sequences))
        names = [pd.Index(self.task.classes, name=name) for name in ("true class", "answered class")]
        return pd.DataFrame(counts, *names)

    def _answered(self, sequences: Sequences) -> tuple[float, np.ndarray]:
        """The loss, and the outputs up to the end of the longest sequence."""
        network, one = self._stacked[0], sequences.trimmed()
        with torch.no_grad():
            flat = [self.get_parameter(name).flatten() for name in self._names.values()]
            network.load_flat(torch.cat(flat).unsqueeze(0))
        stacked = Sequences(one.inputs[None], one.lengths[None], one.targets[None])
        net = network.predict(stacked, self.task.answer == "every")[0]
        return loss_and_outputs(net, one, self.task)

    def extra_repr(self) -> str:
        return f"trial={self.trial}, {self._stacked[0].cell}"
