"""Learning from consecutive sequences of a stream: loss, gradient, clipping and optimiser, separately for each trial.

`learn` has two implementations of the same computation: the compiled drivers of scans/, and plain torch. Torch works
for every cell on every device; tests compare the compiled driver with it.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from amu_experiments.network import Network, squashed, to_torch
from amu_experiments.tasks.task import Sequences, Task


@dataclass
class Optimizer:
    """Adam, RMSprop or SGD with momentum on a stack of flat parameters (R, P), as torch.optim defines them.

    moments: (R, 2P): first the running mean of the gradients, or the momentum; then the running mean of their squares.
    updates: number of updates so far.
    """

    kind: str
    learning_rate: float
    momentum: float
    clip_norm: float
    moments: Tensor
    updates: int = 0

    def step(self, parameters: Tensor, gradient: Tensor) -> None:
        """One update, in place; `gradient` (R, P) is already clipped."""
        first, second = self.moments.chunk(2, dim=1)
        if self.kind == "adam":
            first.lerp_(gradient, 0.1)
            second.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
            correction = (1 - 0.999**self.updates) ** 0.5
            rate = self.learning_rate / (1 - 0.9**self.updates)
            parameters.addcdiv_(first, second.sqrt().div_(correction).add_(1e-8), value=-rate)
        elif self.kind == "rmsprop":
            second.mul_(0.99).addcmul_(gradient, gradient, value=0.01)
            first.mul_(self.momentum).addcdiv_(gradient, second.sqrt().add_(1e-8))
            parameters.add_(first, alpha=-self.learning_rate)
        else:
            first.mul_(self.momentum).add_(gradient)
            parameters.add_(first, alpha=-self.learning_rate)


@dataclass(frozen=True)
class Learned:
    """Measurements while learning from n sequences in n / batch updates.

    losses: (R, n) loss of each sequence, before the update.
    errors: (R, n) largest absolute error of its outputs.
    norms: (R, n / batch) norm of the gradient before clipping.
    updates: (R,) number of updates made. It is less than n / batch if a loss or gradient was not finite. Such a trial
        has diverged: its parameters are from before that update, and its later entries have no meaning.
    """

    losses: np.ndarray
    errors: np.ndarray
    norms: np.ndarray
    updates: np.ndarray


def learn(network: Network, optimizer: Optimizer, task: Task, sequences: Sequences, batch_size: int) -> Learned:
    """Update every trial on consecutive batches of its sequences (R, n, ...); n is a multiple of batch_size.

    The numbers do not depend on how many sequences one call learns from. In torch, rounding depends on the number of
    trials computed together. So learning in torch stops at the update in which a trial diverges, and the caller takes
    that trial out.
    """
    R, n = sequences.lengths.shape
    learned = Learned(
        np.zeros((R, n), np.float32),
        np.zeros((R, n), np.float32),
        np.zeros((R, n // batch_size), np.float32),
        np.full(R, n // batch_size),
    )
    scans = network.scans(batch_size)
    if scans is None:
        return _learn_in_torch(network, optimizer, task, sequences, batch_size, learned)
    return _learn_compiled(scans, network, optimizer, task, sequences, batch_size, learned)


def _learn_compiled(scans, network, optimizer, task, sequences, batch_size, learned):
    from amu_experiments.scans.updates import LOSSES, OPTIMIZERS, SQUASHES

    scans.train(
        network.flat.numpy(),
        optimizer.moments.numpy(),
        sequences.inputs,
        sequences.lengths,
        sequences.targets,
        batch_size,
        task.answer == "every",
        LOSSES[task.loss],
        SQUASHES[task.squash],
        OPTIMIZERS[optimizer.kind],
        np.float32(optimizer.learning_rate),
        np.float32(optimizer.momentum),
        np.float32(optimizer.clip_norm),
        optimizer.updates,
        learned.losses,
        learned.errors,
        learned.norms,
        learned.updates,
    )
    optimizer.updates += learned.norms.shape[1]
    return learned


def _learn_in_torch(network, optimizer, task, sequences, batch_size, learned):
    every = task.answer == "every"
    for update in range(learned.norms.shape[1]):
        part = np.s_[:, update * batch_size : (update + 1) * batch_size]
        inputs, lengths, targets = to_torch(sequences.take(part).trimmed(), network.flat.device)
        losses, errors = loss_and_error(network(inputs, lengths, every), targets, lengths, task)
        gradient = network.gradient(losses.mean(dim=1).sum())
        norms = gradient.norm(dim=1)
        learned.losses[part] = losses.detach().cpu().numpy()
        learned.errors[part] = errors.cpu().numpy()
        learned.norms[:, update] = norms.cpu().numpy()

        diverged = ~(losses.isfinite().all(dim=1) & norms.isfinite())
        before = network.flat[diverged]
        gradient *= (optimizer.clip_norm / norms).clamp(max=1.0).unsqueeze(1)
        optimizer.updates += 1
        optimizer.step(network.flat, gradient)
        if len(before):
            network.flat[diverged] = before
            learned.updates[:] = update + 1
            learned.updates[diverged.cpu().numpy()] = update
            seen = (update + 1) * batch_size
            return Learned(
                learned.losses[:, :seen], learned.errors[:, :seen], learned.norms[:, : update + 1], learned.updates
            )
    return learned


def loss_and_error(net: Tensor, targets: Tensor, lengths_RB: Tensor, task: Task) -> tuple[Tensor, Tensor]:
    """Each sequence's loss and largest absolute output error, both (R, B), from the readout (R, B, T or 1, O).

    The loss of an answer is the squared error summed over outputs, the cross-entropy between the target probabilities
    and the softmax, or the binary cross-entropy summed over outputs. The loss of a sequence is the mean over its
    answers. With half_squared_error it is half the squared error, summed over outputs and answers.
    """
    answers = lengths_RB if task.answer == "every" else torch.ones_like(lengths_RB)
    counts = torch.arange(net.shape[2], device=net.device) < answers.unsqueeze(-1)
    # Use the answers only: if lengths differ, most entries can be padding.
    given, wanted = net[counts], targets[counts]
    losses = _of_sequences(_losses_of_answers(given, wanted, task), counts, answers, task)
    with torch.no_grad():
        errors = _in_place(counts, (_outputs(given, task) - wanted).abs().amax(dim=-1)).amax(dim=-1)
    return losses, errors


def loss_and_outputs(net: np.ndarray, sequences: Sequences, task: Task) -> tuple[float, np.ndarray]:
    """The mean loss of one trial's sequences, and their outputs from the readout `net`, both (B, T or 1, O).

    Outputs after the end of a sequence are those of the readout.
    """
    answers = sequences.lengths if task.answer == "every" else np.ones_like(sequences.lengths)
    counts = np.arange(net.shape[1]) < answers[:, None]
    given, wanted = net[counts], sequences.targets[counts]
    outputs = net.copy()
    outputs[counts] = squashed(given, task.squash)
    given, wanted, counts, answers = map(torch.from_numpy, (given, wanted, counts, answers))
    losses = _of_sequences(_losses_of_answers(given, wanted, task), counts, answers, task)
    return float(losses.mean()), outputs


def _losses_of_answers(given: Tensor, wanted: Tensor, task: Task) -> Tensor:
    """The loss of each answer (N,) from readout and targets (N, O), as `loss_and_error` describes it."""
    if task.loss == "cross_entropy":
        return -(wanted * F.log_softmax(given, dim=-1)).sum(dim=-1)
    if task.loss == "binary_cross_entropy":
        return F.binary_cross_entropy_with_logits(given, wanted, reduction="none").sum(dim=-1)
    return ((_outputs(given, task) - wanted) ** 2).sum(dim=-1)


def _outputs(given: Tensor, task: Task) -> Tensor:
    """The outputs (N, O) from the readout (N, O)."""
    if task.loss == "cross_entropy":
        return given.softmax(dim=-1)
    return torch.sigmoid(given) if task.loss == "binary_cross_entropy" or task.squash == "logistic" else given


def _of_sequences(each: Tensor, counts: Tensor, answers: Tensor, task: Task) -> Tensor:
    """The loss of each sequence from the losses `each` of its answers; `counts` marks their places."""
    losses = _in_place(counts, each).sum(dim=-1)
    return losses / 2 if task.loss == "half_squared_error" else losses / answers


def _in_place(counts: Tensor, values: Tensor) -> Tensor:
    """The values where `counts` is true, in order, and 0 elsewhere."""
    return values.new_zeros(counts.shape).index_put((counts,), values)
