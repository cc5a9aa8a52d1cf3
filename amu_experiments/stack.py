"""Trials trained together: their state, what is recorded of them, and their checkpoint."""

import io
import time
from dataclasses import dataclass, field, fields

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from amu_experiments.learning import Optimizer, learn, loss_and_error
from amu_experiments.network import build, squashed
from amu_experiments.plan import Run
from amu_experiments.tasks import make_task
from amu_experiments.tasks.task import Sequences, Task

BYTES_AT_ONCE = 64 * 2**20
"""Of training inputs, for all trials of a stretch."""

STATUSES = ("finished", "solved", "diverged")
"""How a trial ends; records give the place in this tuple."""


@dataclass
class TrialState:
    """Arrays with a row for each trial that is still in training, in ascending order.

    trial: (R,) numbers of the trials.
    flat: (R, P) parameters, the tensor of the network; moments: (R, 2P) the optimiser's.
    best: (R, P) the parameters that training.select chose so far; best_value: (R,) their value, lower is better;
        metrics: (R, M) their validation metrics.
    met: (R, C) sequences after which each criterion was met, -1 if it was not yet.
    window: (R, W) output errors of the latest training sequences, oldest first.
    losses: (R, n) of the sequences, norms: (R, n / batch) of the updates since the last evaluation.
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
        """Copies of the rows at these places."""
        return TrialState(**{each.name: getattr(self, each.name)[index] for each in fields(self)})


@dataclass
class Records:
    """Rows that are kept for good, in pieces that are joined at the end: small enough for a million evaluations.

    history: pieces (rows, 5 + M) of float64: trial, sequences, seconds, training loss, gradient norm, metrics.
    results: pieces (rows, columns of trials.csv) of float64, nan where there is no value; status as its place in
        STATUSES.
    weights: pieces (rows, P) of float32: the parameters that the trials in `results` were tested with, or diverged at.
    """

    history: list[np.ndarray] = field(default_factory=list)
    results: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)


class Stack:
    """Trials in training, and the records of the evaluations and of the trials that have ended.

    Its parts are public for the loop: `learn`, then `evaluate` whenever `evaluation_is_due`, until none is `active`.
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
        self.network = build(config["model"], self.task, config["backend"], config["device"])
        self.metric_names = ["loss", *self.task.metrics, *self.task.recent_metrics]
        self.met_names = [f"{criterion.name}_sequences" for criterion in self.task.criteria]
        self.test_names = [f"test_{name}" for name in ("loss", *self.task.metrics)]
        flat = self.network.flat
        R, P = flat.shape
        self.parameters = P
        self.optimizer = Optimizer(
            training["optimizer"],
            training["learning_rate"],
            training["momentum"],
            training["clip_norm"] or float("inf"),
            flat.new_zeros(R, 2 * P),
        )
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
        """How many trials ended because they met the criterion that ends training."""
        return sum(int((rows[:, 1] == STATUSES.index("solved")).sum()) for rows in self.records.results)

    # Learning ---------------------------------------------------------------------------------------------------

    def learn(self, most: int) -> int:
        """Learn from the next sequences of each trial's stream, and return from how many.

        These are at most `most`, but one batch at least, and none after the next evaluation. Only time depends on
        `most`: how learning is cut into stretches changes no number.
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
        """Look at the validation data: a history row for every trial, criteria, the best weights, who is done."""
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
        """The loss and the task's metrics, trial by trial, so that none depends on which others are there."""
        net = self.network.predict(sequences, self.task.answer == "every")
        measured = []
        for r in range(len(net)):
            one = sequences.take(r)
            losses, _ = loss_and_error(
                *map(torch.from_numpy, (net[r : r + 1], one.targets[None], one.lengths[None])), self.task
            )
            outputs = squashed(net[r], self.task.squash)
            measured.append({"loss": float(losses.mean())} | self.task.measure(outputs, one))
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

    # Leaving ----------------------------------------------------------------------------------------------------

    def _end(self, which: np.ndarray, status: str, sequences) -> None:
        """Take trials out of the stack; a trial that did not diverge sees its test data, now and only now."""
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
        """Test metrics of trials, a row each, with the weights that `training.select` says."""
        self.network.load_flat(ended.best)
        metrics = self._measure(self.task.test(ended.trial.tolist()))
        self.network.load_flat(self.state.flat)
        return np.array([[each[name] for name in ("loss", *self.task.metrics)] for each in metrics])

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
        """The records, each in one piece."""
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
        """The trials (R,) and the flat parameters (R, P) that each was tested with, or diverged at."""
        recorded = self._recorded()
        trials = recorded["results"][:, 0].astype(int)
        order = trials.argsort()
        return trials[order], recorded["weights"][order]

    # Checkpoints ------------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """Everything that the rest of the training depends on; only while a trial is active."""
        arrays = vars(self.state) | self._recorded()
        kept = {name: torch.as_tensor(value) for name, value in arrays.items()}
        kept |= {"sequences": self.sequences, "seconds": self.seconds, "backend": self.network.backend}
        file = io.BytesIO()
        torch.save(kept, file)
        return file.getvalue()

    def load(self, data: bytes) -> str:
        """Go on from what `dump` gave to a stack of the same run; the backend that it was made with.

        Raises ValueError for anything else, and leaves the stack, which must be new, as it was. No code in it is run.
        """
        try:
            kept = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
        except Exception as error:  # bytes of any kind can make it stumble in any way
            raise ValueError(f"cannot be read as a checkpoint ({type(error).__name__})") from error
        arrays = self._checked(self._converted(kept))
        self._select(np.flatnonzero(np.isin(self.trials, arrays["trial"])))
        for name, ours in vars(self.state).items():
            value = arrays.pop(name)
            # Copied into memory that torch aligns, as in a run that was not interrupted.
            value = torch.tensor(value, device=ours.device) if isinstance(ours, Tensor) else value
            setattr(self.state, name, value)
        self._set_state(self.state)
        self.records = Records(**{name: [rows] for name, rows in arrays.items()})
        self.sequences, self.seconds = kept["sequences"], kept["seconds"]
        self.optimizer.updates = self.sequences // self.batch_size
        return kept["backend"]

    def _converted(self, kept):
        """A checkpoint in the layout before TrialState, where results were dictionaries, in that of `dump`."""
        if not isinstance(kept, dict) or "ended" not in kept:
            return kept
        try:
            results = pd.DataFrame(kept["results"]).reindex(columns=self._result_columns())
            results["status"] = [STATUSES.index(status) for status in results["status"]]
            same = ("flat", "best", "best_value", "metrics", "met", "window", "losses", "norms", "history")
            return {name: kept[name] for name in (*same, "sequences", "seconds")} | {
                "trial": torch.tensor(kept["active"]),
                "moments": kept["memory"],
                "results": torch.from_numpy(results.to_numpy(float)),
                "weights": torch.cat([torch.empty(0, self.parameters), *kept["weights"]]),
                "backend": kept.get("backend", self.network.backend),
            }
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError("not a checkpoint of this version") from error

    def _checked(self, kept) -> dict[str, np.ndarray]:
        """Copies of the arrays in a checkpoint; ValueError that names what cannot be of this run."""
        ours = vars(self.state) | self._recorded()
        if not isinstance(kept, dict) or kept.keys() != {*ours, "sequences", "seconds", "backend"}:
            raise ValueError("not a checkpoint of this version")
        sequences, seconds, backend = kept["sequences"], kept["seconds"], kept["backend"]
        _require(type(sequences) is int and 0 <= sequences < self.maximum, "sequences")
        _require(sequences % self.batch_size == 0, "sequences")
        _require(type(seconds) is float and 0 <= seconds < float("inf"), "seconds")
        _require(type(backend) is str and backend in ("fused", "torch"), "backend")

        since = sequences % self.evaluate_every
        widths = {"losses": since, "norms": since // self.batch_size}
        rows = {"history": len(self.trials) * (sequences // self.evaluate_every)}
        arrays = {}
        for name, like in ours.items():
            width = (widths[name],) if name in widths else like.shape[1:]
            arrays[name] = _array(kept[name], torch.as_tensor(like[:0]).dtype, width, rows.get(name, len(self.trials)))
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
            # A trial that ended at an evaluation may have diverged just before it, and has no row of it then.
            (end,) = ends[results[:, 0] == number] if number not in trial else (sequences,)
            looks = history[history[:, 0] == number, 1]
            least = (end - (number not in trial)) // self.evaluate_every
            _require(least <= len(looks) <= end // self.evaluate_every, "history")
            _require((looks == self.evaluate_every * np.arange(1, len(looks) + 1)).all(), "history")
        return arrays


def _require(fact: bool, names: str) -> None:
    if not fact:
        raise ValueError(f"not a checkpoint of these trials ({names})")


def _array(value, dtype: torch.dtype, width: tuple[int, ...], most: int) -> np.ndarray | None:
    """A copy of a tensor that has this type, rows of this width and at most so many; None for anything else."""
    if type(value) is not Tensor or value.dtype != dtype or value.layout != torch.strided:
        return None
    if value.dim() != 1 + len(width) or tuple(value.shape[1:]) != tuple(width) or len(value) > most:
        return None
    try:
        return np.array(value.numpy(), order="C")
    except (RuntimeError, TypeError):  # without memory of its own, or a view that numpy does not have
        return None
