"""A stack, trials trained together: its state, its records and its checkpoint."""

import io
import time
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from amu_experiments import numerics
from amu_experiments.learning import Optimizer, learn, loss_and_outputs
from amu_experiments.network import build
from amu_experiments.plan import Run
from amu_experiments.stack_files import STATUSES
from amu_experiments.tasks import make_task
from amu_experiments.tasks.task import Sequences, Task

BYTES_AT_ONCE = 64 * 2**20
"""Maximum size in bytes of the training inputs of one call of `learn`, for all trials together."""


@dataclass
class TrialState:
    """Arrays with a row for each trial that is still in training, in ascending order.

    trial: (R,) numbers of the trials.
    flat: (R, P) parameters of the network; moments: (R, 2P) of the optimiser.
    best: (R, P) parameters selected so far by training.select; best_value: (R,) their value, lower is better;
        metrics: (R, M) their validation metrics.
    met: (R, C) sequences after which each criterion was met, -1 if not met yet.
    window: (R, W) output errors of the latest training sequences, oldest first.
    losses: (R, n) of the n sequences since the last evaluation; norms: (R, n / batch) of their gradients.
    """

    trial: np.ndarray
    flat: Tensor
    moments: Tensor
    best: Tensor
    best_value: np.ndarray
    metrics: np.ndarray
    met: np.ndarray
    window: np.ndarray
    losses: np.ndarray
    norms: np.ndarray

    def take(self, index: np.ndarray) -> "TrialState":
        """Copies of the rows at these positions."""
        return TrialState(**{each.name: getattr(self, each.name)[index] for each in fields(self)})


@dataclass
class Records:
    """Rows of the final tables, in pieces that are joined at the end. They are small enough for a million evaluations.

    history: pieces (rows, 5 + M) of float64: trial, sequences, seconds, training loss, gradient norm, metrics.
    results: pieces (rows, columns of trials.csv) of float64, nan for a missing value; status is an index in STATUSES.
    weights: pieces (rows, P) of float32: the tested parameters of the trials in `results`; the last parameters of a
        diverged trial.
    """

    history: list[np.ndarray] = field(default_factory=list)
    results: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)


class Stack:
    """Trials in training, with records of their evaluations and of the trials that have ended.

    A training loop calls `learn`, and `evaluate` whenever `evaluation_is_due`, until no trial is `active`.
    """

    def __init__(self, run: Run):
        config, training, self.trials = run.config, run.config["training"], run.trials
        self.training = training
        self.batch_size = training["batch_size"]
        self.maximum = training["max_sequences"]
        self.evaluate_every = training["evaluate_every"]
        self.task: Task = make_task(config["task"], run.trials)
        self.task.threads = torch.get_num_threads()
        self.validation = self.task.validation()
        self.network = build(config["model"], self.task, config["backend"], config["device"], self.batch_size)
        self.metric_names = ["loss", *self.task.metrics, *self.task.recent_metrics]
        self.met_names = [f"{criterion.name}_sequences" for criterion in self.task.criteria]
        self.test_names = [f"test_{name}" for name in ("loss", *self.task.metrics, *self.task.generated_metrics)]
        flat = self.network.flat
        R, self.parameters = flat.shape
        kind, rate, momentum, clip = (training[key] for key in ("optimizer", "learning_rate", "momentum", "clip_norm"))
        self.optimizer = Optimizer(kind, rate, momentum, clip or float("inf"), flat.new_zeros(R, 2 * self.parameters))
        self.state = TrialState(
            trial=np.array(run.trials),
            flat=flat,
            moments=self.optimizer.moments,
            best=flat.clone(),
            best_value=np.full(R, np.inf),
            metrics=np.full((R, len(self.metric_names)), np.nan),
            met=np.full((R, len(self.met_names)), -1),
            window=np.full((R, self.task.window), np.inf, np.float32),
            losses=np.zeros((R, 0), np.float32),
            norms=np.zeros((R, 0), np.float32),
        )
        self.records = Records()
        self.sequences = 0
        self.seconds = 0.0

    @property
    def active(self) -> list[int]:
        """The trials still in training."""
        return self.state.trial.tolist()

    @property
    def solved(self) -> int:
        """Number of trials that ended because they met the criterion training.stop."""
        return sum(int((rows[:, 1] == STATUSES.index("solved")).sum()) for rows in self.records.results)

    # Learning ---------------------------------------------------------------------------------------------------

    def learn(self, most: int) -> int:
        """Learn from the next sequences of each trial's stream, and return their number.

        The number is at most `most`, at least one batch, and never goes past the next evaluation. Results do not depend
        on `most`: cutting the stream into other stretches changes no number.
        """
        began, state = time.monotonic(), self.state
        fitting = BYTES_AT_ONCE // (self.validation.inputs[0, 0].nbytes * len(state.trial))
        batches = max(min(most, fitting) // self.batch_size, 1)
        left = min(self.evaluate_every - self.sequences % self.evaluate_every, self.maximum - self.sequences)
        batch = self.task.train_batch(self.sequences, min(batches * self.batch_size, left))
        learned = learn(self.network, self.optimizer, self.task, batch, self.batch_size)
        count = learned.losses.shape[1]
        state.losses = np.hstack([state.losses, learned.losses])
        state.norms = np.hstack([state.norms, learned.norms])
        if self.task.window:
            state.window = np.hstack([state.window, learned.errors])[:, -self.task.window :]
        self.seconds += time.monotonic() - began
        diverged = learned.updates < count // self.batch_size
        self._end(diverged, "diverged", self.sequences + (learned.updates + 1) * self.batch_size)
        self.sequences += count
        return count

    # Evaluation -------------------------------------------------------------------------------------------------

    def evaluation_is_due(self) -> bool:
        return bool(self.active) and (self.sequences % self.evaluate_every == 0 or self.sequences == self.maximum)

    def evaluate(self) -> None:
        """Evaluate on the validation data: add history rows, check criteria, select weights, end trials."""
        began, state = time.monotonic(), self.state
        metrics = self._measure(self.validation)
        for r, measured in enumerate(metrics):
            measured |= self.task.measure_recent(state.window[r]) if self.task.window else {}
            for c, criterion in enumerate(self.task.criteria):
                if state.met[r, c] < 0 and criterion.met(measured):
                    state.met[r, c] = self.sequences
        values = np.array([[measured[name] for name in self.metric_names] for measured in metrics])
        self._select_best(values)
        self.seconds += time.monotonic() - began
        rows = np.empty((len(values), 5 + values.shape[1]))
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 5:] = state.trial, self.sequences, self.seconds, values
        for r in range(len(rows)):
            rows[r, 3:5] = state.losses[r].mean(dtype=np.float64), state.norms[r].mean(dtype=np.float64)
        self.records.history.append(rows)
        state.losses, state.norms = state.losses[:, :0], state.norms[:, :0]
        stop = [criterion.name == self.training["stop"] for criterion in self.task.criteria]
        solved = (state.met[:, stop] >= 0).any(axis=1)
        broken = ~state.flat.isfinite().all(dim=1).cpu().numpy()
        self._end(broken, "diverged", self.sequences)
        self._end(solved[~broken], "solved", self.sequences)
        if self.sequences == self.maximum:
            self._end(np.ones(len(self.active), bool), "finished", self.sequences)

    def _measure(self, sequences: Sequences) -> list[dict[str, float]]:
        """The loss and the task's metrics, computed trial by trial, so that no trial depends on the others."""
        net = self.network.predict(sequences, self.task.answer == "every")
        measured = []
        for r in range(len(net)):
            # Remove padding to the longest sequence of another trial: the size of a sum affects its rounding.
            one = sequences.take(r).trimmed()
            loss, outputs = loss_and_outputs(net[r, :, : one.targets.shape[1]], one, self.task)
            measured.append({"loss": loss} | self.task.measure(outputs, one))
        return measured

    def _select_best(self, values: np.ndarray) -> None:
        state, better = self.state, np.ones(len(values), bool)
        if self.training["select"] == "best":
            metric, end = self.task.select
            value = values[:, self.metric_names.index(metric)] * (1 if end == "min" else -1)
            better = value < state.best_value
            state.best_value[better] = value[better]
        state.best[better] = state.flat[better]
        state.metrics[better] = values[better]

    # Ending -----------------------------------------------------------------------------------------------------

    def _end(self, which: np.ndarray, status: str, sequences) -> None:
        """Take trials out of the stack. Unless it diverged, a trial is tested here, the only use of its test data."""
        if not which.any():
            return
        ended = self.state.take(np.flatnonzero(which))
        rows = np.full((len(ended.trial), len(self._result_columns())), np.nan)
        rows[:, 0], rows[:, 1] = ended.trial, STATUSES.index(status)
        rows[:, 2] = np.broadcast_to(sequences, which.shape)[which]
        rows[:, 3], rows[:, 4] = self.seconds, self.parameters
        values = rows[:, 5:]  # a view
        C, M = len(self.met_names), len(self.metric_names)
        values[:, :C] = np.where(ended.met >= 0, ended.met, np.nan)
        if status != "diverged":
            values[:, C : C + M] = ended.metrics
            values[:, C + M :] = self._test(ended)
        self.records.results.append(rows)
        self.records.weights.append((ended.flat if status == "diverged" else ended.best).cpu().numpy())
        self._select(np.flatnonzero(~which))

    def _test(self, ended: TrialState) -> np.ndarray:
        """Test metrics of trials, a row each, with their selected weights."""
        self.network.load_flat(ended.best)
        trials = ended.trial.tolist()
        sequences = self.task.test(trials)
        metrics = self._measure(sequences)
        if self.task.generated_metrics:
            generated = self.task.measure_generated(self.network, sequences, trials)
            metrics = [each | more for each, more in zip(metrics, generated, strict=True)]
        self.network.load_flat(self.state.flat)
        return np.array([[each[name.removeprefix("test_")] for name in self.test_names] for each in metrics])

    def _select(self, index: np.ndarray) -> None:
        self.task.select_trials(index)
        self.validation = self.validation.take(index)
        self._set_state(self.state.take(index))

    def _set_state(self, state: TrialState) -> None:
        self.state = state
        self.network.load_flat(state.flat)
        self.optimizer.moments = state.moments

    # Tables -----------------------------------------------------------------------------------------------------

    def _history_columns(self) -> list[str]:
        return ["trial", "sequences", "seconds", "train_loss", "gradient_norm", *self.metric_names]

    def _result_columns(self) -> list[str]:
        names = ["trial", "status", "sequences", "seconds", "parameters"]
        return [*names, *self.met_names, *self.metric_names, *self.test_names]

    def _recorded(self) -> dict[str, np.ndarray]:
        """The records, each as one array."""
        widths = {"history": len(self._history_columns()), "results": len(self._result_columns())}
        empty = {name: np.empty((0, width)) for name, width in widths.items()}
        empty["weights"] = np.empty((0, self.parameters), np.float32)
        return {name: np.concatenate([piece, *getattr(self.records, name)]) for name, piece in empty.items()}

    def history_table(self) -> pd.DataFrame:
        table = pd.DataFrame(self._recorded()["history"], columns=self._history_columns())
        table = table.astype({"trial": int, "sequences": int})
        return table.sort_values(["trial", "sequences"], ignore_index=True)

    def trials_table(self) -> pd.DataFrame:
        table = pd.DataFrame(self._recorded()["results"], columns=self._result_columns())
        counts = ("trial", "sequences", "parameters")
        table = table.astype(dict.fromkeys(counts, int) | dict.fromkeys(self.met_names, "Int64"))
        table["status"] = [STATUSES[int(code)] for code in table["status"]]
        return table.sort_values("trial", ignore_index=True)

    def weights_table(self) -> tuple[np.ndarray, np.ndarray]:
        """The trials (R,) and their flat parameters (R, P): the tested ones, or the last of a diverged trial."""
        recorded = self._recorded()
        trials = recorded["results"][:, 0].astype(int)
        order = trials.argsort()
        return trials[order], recorded["weights"][order]

    # Checkpoints ------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """A checkpoint: everything that the rest of the training depends on. At least one trial must be active."""
        arrays, backend = vars(self.state) | self._recorded(), self.network.backend
        checkpoint = {name: torch.as_tensor(value) for name, value in arrays.items()}
        checkpoint |= {"sequences": self.sequences, "seconds": self.seconds, "backend": backend}
        checkpoint |= numerics.used(backend, self.network.flat.device)
        file = io.BytesIO()
        torch.save(checkpoint, file)
        return file.getvalue()

    def load(self, data: bytes) -> dict[str, str | None]:
        """Set this stack, which must be new, to a checkpoint of the same run.

        Returns the checkpoint's "backend", and its "version" and "instructions" as in numerics.used; these two are None
        in an older checkpoint, which does not name them. Raises ValueError for any other data, and then leaves the
        stack unchanged. Code in the data is never run.
        """
        try:
            checkpoint = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        except Exception as error:  # damaged bytes raise errors of any kind
            raise ValueError(f"cannot be read as a checkpoint ({type(error).__name__})") from error
        checkpoint = self._converted(checkpoint)
        arrays = self._checked(checkpoint)
        self._select(np.flatnonzero(np.isin(self.trials, arrays["trial"])))
        for name, ours in vars(self.state).items():
            value = arrays.pop(name)
            # A copy is aligned by torch, as in an uninterrupted run: alignment may change how products are rounded.
            value = torch.tensor(value, device=ours.device) if isinstance(ours, Tensor) else value
            setattr(self.state, name, value)
        self._set_state(self.state)
        self.records = Records(**{name: [rows] for name, rows in arrays.items()})
        self.sequences, self.seconds = checkpoint["sequences"], checkpoint["seconds"]
        self.optimizer.updates = self.sequences // self.batch_size
        return {name: checkpoint[name] for name in ("backend", "version", "instructions")}

    def _converted(self, checkpoint):
        """The checkpoint in the layout of `dump`, converted if it has an older one.

        The first layout has results in dictionaries; it is older than the class TrialState. The second lacks
        "version" and "instructions".
        """
        if not isinstance(checkpoint, dict):
            return checkpoint
        if "ended" not in checkpoint:
            return {"version": None, "instructions": None} | checkpoint
        try:
            results = pd.DataFrame(checkpoint["results"]).reindex(columns=self._result_columns())
            results["status"] = [STATUSES.index(status) for status in results["status"]]
            same = ("flat", "best", "best_value", "metrics", "met", "window", "losses", "norms", "history")
            return {name: checkpoint[name] for name in (*same, "sequences", "seconds")} | {
                "trial": torch.tensor(checkpoint["active"]),
                "moments": checkpoint["memory"],
                "results": torch.from_numpy(results.to_numpy(float)),
                "weights": torch.cat([torch.empty(0, self.parameters), *checkpoint["weights"]]),
                "backend": checkpoint.get("backend", self.network.backend),
                "version": None,
                "instructions": None,
            }
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError("not a checkpoint of this version") from error

    def _checked(self, checkpoint) -> dict[str, np.ndarray]:
        """Copies of the arrays in a checkpoint; ValueError names an entry that cannot belong to this run."""
        ours = vars(self.state) | self._recorded()
        scalars = ("sequences", "seconds", "backend", "version", "instructions")
        if not isinstance(checkpoint, dict) or checkpoint.keys() != {*ours, *scalars}:
            raise ValueError("not a checkpoint of this version")
        sequences, seconds, backend, version, instructions = (checkpoint[name] for name in scalars)
        _require(type(sequences) is int and 0 <= sequences < self.maximum, "sequences")
        _require(sequences % self.batch_size == 0, "sequences")
        _require(type(seconds) is float and 0 <= seconds < float("inf"), "seconds")
        _require(type(backend) is str and backend in ("fused", "torch"), "backend")
        _require(version is None or (type(version) is int and 1 <= version < 10**6), "version")
        _require(isinstance(instructions, str | None), "instructions")

        since = sequences % self.evaluate_every
        widths = {"losses": since, "norms": since // self.batch_size}
        rows = {"history": len(self.trials) * (sequences // self.evaluate_every)}
        arrays = {}
        for name, like in ours.items():
            width = (widths[name],) if name in widths else like.shape[1:]
            arrays[name] = _array(
                checkpoint[name], torch.as_tensor(like[:0]).dtype, width, rows.get(name, len(self.trials))
            )
            _require(arrays[name] is not None, name)

        trial, results, history, met = (arrays[name] for name in ("trial", "results", "history", "met"))
        _require(len(trial) > 0 and (np.diff(trial) > 0).all(), "trial")
        _require(np.isfinite(results[:, :5]).all(), "results")
        _require(sorted([*trial, *results[:, 0]]) == self.trials, "trial, results")
        _require(np.isin(results[:, 1], range(len(STATUSES))).all(), "results")
        ends = results[:, 2]
        _require(((ends > 0) & (ends <= sequences) & (ends % self.batch_size == 0)).all(), "results")
        _require((results[:, 3] >= 0).all() and (results[:, 4] == self.parameters).all(), "results")
        for name in ("weights", *vars(self.state)):
            _require(len(arrays[name]) == len(results if name == "weights" else trial), name)
        _require(((met == -1) | ((met > 0) & (met <= sequences))).all(), "met")
        _require(np.isfinite(arrays["losses"]).all() and np.isfinite(arrays["norms"]).all(), "losses, norms")
        _require(np.isin(history[:, 0], self.trials).all(), "history")
        for number in self.trials:
            # A trial that diverged in the last update before an evaluation has no row of that evaluation.
            (end,) = ends[results[:, 0] == number] if number not in trial else (sequences,)
            evaluations = history[history[:, 0] == number, 1]
            least = (end - (number not in trial)) // self.evaluate_every
            _require(least <= len(evaluations) <= end // self.evaluate_every, "history")
            _require((evaluations == self.evaluate_every * np.arange(1, len(evaluations) + 1)).all(), "history")
        return arrays


def _require(fact: bool, names: str) -> None:
    if not fact:
        raise ValueError(f"not a checkpoint of these trials ({names})")


def _array(value, dtype: torch.dtype, width: tuple[int, ...], most: int) -> np.ndarray | None:
    """A copy of a tensor with this type, rows of this shape and at most `most` rows; None for anything else."""
    if type(value) is not Tensor or value.dtype != dtype or value.layout != torch.strided:
        return None
    if value.dim() != 1 + len(width) or tuple(value.shape[1:]) != tuple(width) or len(value) > most:
        return None
    try:
        return np.array(value.numpy(), order="C")
    except (RuntimeError, TypeError):  # a tensor without storage, or a view that numpy lacks
        return None
