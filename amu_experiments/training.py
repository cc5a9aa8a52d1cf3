"""The loop: trains the missing trials of a configuration, one stack at a time, and keeps what happened.

It knows no model's and no task's name. Everything of a running stack is in `Stack`, which a checkpoint keeps whole:
a run interrupted at any point and started again gives the rows of an uninterrupted one.
"""

import importlib.metadata
import io
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from amu_experiments import store
from amu_experiments.learning import Optimizer, learn, loss_and_error
from amu_experiments.memory import check_memory
from amu_experiments.network import build, count_parameters, settled, squashed
from amu_experiments.options import ConfigurationError, in_a_line, spell
from amu_experiments.progress import Progress, say
from amu_experiments.tasks import make_task
from amu_experiments.tasks.task import Sequences, Task

SECONDS_BETWEEN_LOOKS = 0.5
"""How long a stretch of learning may take: signals, the clock and the progress bar are looked at in between."""

SECONDS_TO_STOP = 1.2
"""How long a step may still take after Ctrl-C, SIGTERM or SIGHUP; if it takes longer, what it did is given up."""

BYTES_AT_ONCE = 64 * 2**20
"""Of training inputs, for all trials of a stretch."""


def run(config: dict) -> None:
    """Train what is missing of the trials asked for, and print a table of all of them."""
    config = prepare(config)
    wanted = wanted_trials(config)
    folder = store.folder_of(config)
    missing = len(set(wanted) - store.finished_trials(folder))
    if missing == 0:
        say(f"All {len(wanted)} trials asked for exist already: nothing to train.")
    elif missing < len(wanted):
        say(f"{len(wanted) - missing} of {len(wanted)} trials exist already; training {missing}.")
    try:
        result = train_missing(config)
    except OSError:
        # A store that cannot be put in order, but has what is wanted.
        if missing:
            raise
        result = store.read_result(folder, left_out=[])
    from amu_experiments.analysis.tables import run_table

    say(run_table(result))
    say(f"Kept in {folder}")


def wanted_trials(config: dict) -> range:
    return range(config["seed"], config["seed"] + config["trials"])


def prepare(config: dict) -> dict:
    """The configuration with nothing left open, its number of units for one, and this process set up to run it.

    Raises ConfigurationError for what only a look at the data or the machine can tell, before anything is written.
    """
    try:
        return _prepared(config)
    except (OSError, ValueError) as error:
        raise ConfigurationError(in_a_line(error)) from error


def _prepared(config: dict) -> dict:
    if config["device"] != "cpu":
        try:
            torch.empty(0, device=config["device"])
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0].split(". ")[0][:200]
            raise ValueError(f"device={config['device']}: not to be had here ({reason}); take device=cpu") from None
        if config["backend"] == "fused":
            raise ValueError(f"backend=fused runs on the CPU only; device={config['device']} takes torch or auto")
    threads = config["threads"] or os.cpu_count()
    torch.set_num_threads(threads)
    if config["backend"] != "torch" and config["device"] == "cpu":
        from amu_experiments.cells.kernels import set_threads

        set_threads(threads)
    task = make_task(config["task"], [0])
    model = settled(config["model"], task)
    config = config | {"model": model, "task": config["task"] | task.contents}
    config |= {"results_dir": str(_usable(config))}
    check_memory(config, task, count_parameters(model, task, model["units"]))
    return config


def _usable(config: dict) -> Path:
    """The folder of results, ~ replaced; ValueError where it could not be made, or not be written to and has to be."""
    results_dir = config["results_dir"]
    try:
        folder = Path(results_dir).expanduser()
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"results_dir={spell(results_dir)}: no name for a folder ({reason})") from None
    if not nearest.is_dir():
        raise ValueError(f"results_dir={spell(results_dir)}: {nearest} is a file; give a folder, which may be new")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            return folder
    except OSError as error:
        reason = error.strerror
    found = store.finished_trials(store.folder_of(config | {"results_dir": folder}))
    if not found.issuperset(wanted_trials(config)):
        told = f"{nearest} is not to be written to ({reason}); give another folder"
        raise ValueError(f"results_dir={spell(results_dir)}: {told}")
    return folder


def train_missing(config: dict) -> store.Result:
    """Train those of the wanted trials that are not there, and return all that are; `config` must be prepared.

    However many processes ask for the same trials at a time, each trial is trained by one of them: what another one is
    training is waited for, after everything else.
    """
    folder = store.folder_of(config)
    while True:
        with store.claim(folder, config, wanted_trials(config)) as claim:
            for line in claim.set_aside:
                say(f"Damaged: {line}")
            if claim.trials:
                train_stack(config, folder, claim.trials)
                continue
        if not claim.elsewhere:
            return store.read_result(folder)
        say(f"{claim.elsewhere[0].name} is being trained by another process: waiting for it.")
        store.wait_for(claim.elsewhere[0])


def train_stack(config: dict, folder: Path, trials: list[int]) -> None:
    """Train a stack of trials that was claimed to its end, from its checkpoint if there is one, and write its results.

    Where a checkpoint cannot be written, training ends with that error: to go on would put ever more at stake.
    """
    path = store.stack_folder(folder, trials)
    with postponed_signals() as interrupted:
        stack = taken_up(config, path, trials)
        made = provenance() | {"backend": stack.network.backend}
        store.write_text(path / "provenance.json", json.dumps(made, indent=1) + "\n")
        train(stack, path, f"{folder.parent.parent.name} {folder.parent.name}", interrupted)
    if stack.active:
        store.write_checkpoint(path, stack.dump())
        say(f"Stopped at {stack.sequences:,} sequences; the same command goes on from there.")
    if interrupted:
        raise KeyboardInterrupt


def train(stack: "Stack", path: Path, title: str, interrupted: list[int]) -> None:
    """Train until no trial is left, and write the results; or until there is an entry in `interrupted`."""
    every, saved = 60 * stack.training["checkpoint_minutes"], time.monotonic()
    progress = Progress(title, len(stack.trials), stack.maximum, stack.sequences, stack.training["stop"])
    with closing(progress):
        while stack.active and not interrupted:
            count = stack.learn_some()
            progress.advance(count, len(stack.active))
            if stack.evaluation_is_due():
                stack.evaluate()
                progress.tell(stack.sequences, stack.solved)
            if time.monotonic() - saved > every:
                store.write_checkpoint(path, stack.dump())
                saved = time.monotonic()
    if not stack.active:
        store.finish_stack(path, stack.history_table(), stack.trials_table(), *stack.weights_table())


def taken_up(config: dict, path: Path, trials: list[int]) -> "Stack":
    """A stack as its checkpoint has it, or at its beginning where there is none that can be used.

    Raises ConfigurationError where it would go on with another backend, and so with other roundings, than it began.
    """
    stack = Stack(config, trials)
    checkpoint = path / "checkpoint.pt"
    if not checkpoint.exists():
        return stack
    try:
        backend = stack.load(store.read_checkpoint(path))
    except ValueError as error:
        say(f"Damaged: {checkpoint}: {error}; set aside as {store.set_aside(checkpoint).name}. Starting anew.")
        return Stack(config, trials)
    if backend != stack.network.backend:
        raise ConfigurationError(
            f"backend={config['backend']}: this is {stack.network.backend} here, and {checkpoint} was made with "
            f"{backend}; go on with backend={backend}, or remove the checkpoint to start anew"
        )
    say(f"Going on from the checkpoint at {stack.sequences:,} sequences.")
    return stack


class Stack:
    """Trials in training, and what became of those that have ended.

    Arrays with a leading trial axis have a row for each trial still in training, in the order of `active`.
    """

    def __init__(self, config: dict, trials: list[int]):
        training = config["training"]
        self.config, self.training, self.trials, self.active = config, training, trials, list(trials)
        self.batch_size = training["batch_size"]
        self.maximum = training["max_sequences"]
        self.evaluate_every = training["evaluate_every"]
        self.task: Task = make_task(config["task"], trials)
        self.task.threads = torch.get_num_threads()
        self.network = build(config["model"], self.task, config["backend"], config["device"])
        flat = self.network.flat
        self.parameters = flat.shape[1]
        self.optimizer = Optimizer(
            training["optimizer"],
            training["learning_rate"],
            training["momentum"],
            training["clip_norm"] or float("inf"),
            torch.zeros(flat.shape[0], 2 * flat.shape[1], device=flat.device),
        )
        self.validation = self.task.validation()
        self.sequences = 0
        self.seconds = 0.0
        self.solved = 0
        self.per_sequence = None  # seconds, of the whole stack
        R = len(trials)
        # Since the last evaluation: losses of sequences, norms of updates.
        self.losses, self.norms = np.zeros((R, 0), np.float32), np.zeros((R, 0), np.float32)
        self.window = np.full((R, self.task.window), np.inf, np.float32)
        self.met = np.full((R, len(self.task.criteria)), -1)
        self.best = flat.clone()
        self.best_value = np.full(R, np.inf)
        self.metrics = np.full((R, len(self.metric_names())), np.nan)
        # For each evaluation an array with a row for every trial: small enough for a million evaluations.
        self.history: list[np.ndarray] = []
        self.results: list[dict] = []
        self.ended: list[torch.Tensor] = []
        self.weights: list[torch.Tensor] = []

    def metric_names(self) -> list[str]:
        return ["loss", *self.task.metrics, *self.task.recent_metrics]

    # Learning ---------------------------------------------------------------------------------------------------

    def learn_some(self) -> int:
        """Learn from the next sequences of the stream, up to the next evaluation; returns how many."""
        count = min(self._to_next_evaluation(), self._affordable())
        began = time.monotonic()
        batch = self.task.train_batch(self.sequences, count)
        learned = learn(self.network, self.optimizer, self.task, batch, self.batch_size)
        took = time.monotonic() - began
        self.per_sequence = took / count
        self.seconds += took
        self.losses = np.hstack([self.losses, learned.losses])
        self.norms = np.hstack([self.norms, learned.norms])
        if self.task.window:
            self.window = np.hstack([self.window, learned.errors])[:, -self.task.window :]
        diverged = learned.updates < count // self.batch_size
        if diverged.any():
            self._end(diverged, "diverged", self.sequences + (learned.updates + 1) * self.batch_size)
        self.sequences += count
        return count

    def _to_next_evaluation(self) -> int:
        return min(self.evaluate_every - self.sequences % self.evaluate_every, self.maximum - self.sequences)

    def _affordable(self) -> int:
        bytes_each = self.validation.inputs[0, 0].nbytes * len(self.active)
        # The first stretch is short, since nothing is known yet of its pace.
        in_time = SECONDS_BETWEEN_LOOKS / self.per_sequence if self.per_sequence else 16
        count = min(BYTES_AT_ONCE // bytes_each, in_time)
        return max(int(count) // self.batch_size, 1) * self.batch_size

    # Evaluation -------------------------------------------------------------------------------------------------

    def evaluation_is_due(self) -> bool:
        return bool(self.active) and (self.sequences % self.evaluate_every == 0 or self.sequences == self.maximum)

    def evaluate(self) -> None:
        """Look at the validation data: a history row for every trial, criteria, the best weights, who is done."""
        began = time.monotonic()
        metrics = self._measure(self.validation)
        for r, measured in enumerate(metrics):
            measured |= self.task.measure_recent(self.window[r]) if self.task.window else {}
            for c, criterion in enumerate(self.task.criteria):
                if self.met[r, c] < 0 and criterion.met(measured):
                    self.met[r, c] = self.sequences
        values = np.array([[measured[name] for name in self.metric_names()] for measured in metrics])
        self._keep_best(values)
        self.seconds += time.monotonic() - began
        rows = np.empty((len(self.active), 5 + values.shape[1]))
        rows[:, 0], rows[:, 1], rows[:, 2], rows[:, 5:] = self.active, self.sequences, self.seconds, values
        for r in range(len(rows)):
            rows[r, 3:5] = self.losses[r].mean(dtype=np.float64), self.norms[r].mean(dtype=np.float64)
        self.history.append(rows)
        self.losses, self.norms = self.losses[:, :0], self.norms[:, :0]
        stop = [criterion.name == self.training["stop"] for criterion in self.task.criteria]
        solved = (self.met[:, stop] >= 0).any(axis=1)
        broken = ~self.network.flat.isfinite().all(dim=1).cpu().numpy()
        self._end(broken, "diverged", self.sequences)
        self._end(solved[~broken], "solved", self.sequences)
        if self.sequences == self.maximum:
            self._end(np.ones(len(self.active), bool), "finished", self.sequences)

    def _measure(self, sequences: Sequences) -> list[dict[str, float]]:
        """The loss and the task's metrics, trial by trial, so that none depends on which others are there."""
        net = self.network.predict(sequences, self.task.answer == "every")
        measured = []
        for r in range(len(net)):
            one = Sequences(sequences.inputs[r], sequences.lengths[r], sequences.targets[r])
            losses, _ = loss_and_error(
                *map(torch.from_numpy, (net[r : r + 1], one.targets[None], one.lengths[None])), self.task
            )
            outputs = squashed(net[r], self.task.squash)
            measured.append({"loss": float(losses.mean())} | self.task.measure(outputs, one))
        return measured

    def _keep_best(self, values: np.ndarray) -> None:
        better = np.ones(len(values), bool)
        if self.training["select"] == "best":
            metric, end = self.task.select
            value = values[:, self.metric_names().index(metric)] * (1 if end == "min" else -1)
            better = value < self.best_value
            self.best_value[better] = value[better]
        self.best[better] = self.network.flat[better]
        self.metrics[better] = values[better]

    # Leaving ----------------------------------------------------------------------------------------------------

    def _end(self, which: np.ndarray, status: str, sequences) -> None:
        """Take trials out of the stack; a trial that did not diverge sees its test data, now and only now."""
        if not which.any():
            return
        sequences = np.broadcast_to(sequences, which.shape)
        index = np.flatnonzero(which)
        tests = self._test(index) if status != "diverged" else [{}] * len(index)
        for r, test in zip(index, tests, strict=True):
            met = {
                f"{criterion.name}_sequences": self.met[r, c] if self.met[r, c] >= 0 else np.nan
                for c, criterion in enumerate(self.task.criteria)
            }
            final = dict(zip(self.metric_names(), self.metrics[r], strict=True))
            self.results.append(
                {
                    "trial": self.active[r],
                    "status": status,
                    "sequences": int(sequences[r]),
                    "seconds": self.seconds,
                    "parameters": self.parameters,
                    **met,
                    **(final if status != "diverged" else {}),
                    **{f"test_{name}": value for name, value in test.items()},
                }
            )
        self.ended.append(torch.tensor([self.active[r] for r in index]))
        self.weights.append(self.best[index].cpu() if status != "diverged" else self.network.flat[index].cpu())
        self.solved += len(index) * (status == "solved")
        self._keep(np.flatnonzero(~which))

    def _test(self, index: np.ndarray) -> list[dict[str, float]]:
        """Test metrics of the trials at these places, with the weights that `training.select` says."""
        flat = self.network.flat
        self.network.hold(self.best[index].clone())
        metrics = self._measure(self.task.test([self.active[r] for r in index]))
        self.network.hold(flat)
        return metrics

    def _keep(self, index: np.ndarray) -> None:
        self.active = [self.active[r] for r in index]
        self.task.keep(index)
        self.network.hold(self.network.flat[index].clone())
        self.optimizer.memory = self.optimizer.memory[index].clone()
        self.validation = Sequences(
            self.validation.inputs[index], self.validation.lengths[index], self.validation.targets[index]
        )
        self.best = self.best[index].clone()
        for name in ("losses", "norms", "window", "met", "best_value", "metrics"):
            setattr(self, name, getattr(self, name)[index])

    # Tables and checkpoints -------------------------------------------------------------------------------------

    def history_table(self) -> pd.DataFrame:
        columns = ["trial", "sequences", "seconds", "train_loss", "gradient_norm", *self.metric_names()]
        table = pd.DataFrame(self._rows(), columns=columns).astype({"trial": int, "sequences": int})
        return table.sort_values(["trial", "sequences"], ignore_index=True)

    def _rows(self) -> np.ndarray:
        return np.concatenate([np.empty((0, 5 + len(self.metric_names()))), *self.history])

    def trials_table(self) -> pd.DataFrame:
        names = [f"{criterion.name}_sequences" for criterion in self.task.criteria]
        tests = [f"test_{name}" for name in ("loss", *self.task.metrics)]
        columns = [
            "trial",
            "status",
            "sequences",
            "seconds",
            "parameters",
            *names,
            *self.metric_names(),
            *tests,
        ]
        table = pd.DataFrame(self.results).reindex(columns=columns)
        table[names] = table[names].astype("Int64")
        return table.sort_values("trial", ignore_index=True)

    def weights_table(self) -> tuple[np.ndarray, np.ndarray]:
        """The trials (R,) and the flat parameters (R, P) that each was tested with, or diverged at."""
        order = torch.cat(self.ended).argsort()
        return torch.cat(self.ended)[order].numpy(), torch.cat(self.weights)[order].numpy()

    _KEPT = (
        "active",
        "sequences",
        "seconds",
        "solved",
        "losses",
        "norms",
        "window",
        "met",
        "best",
        "best_value",
        "metrics",
        "history",
        "results",
        "ended",
        "weights",
    )

    def dump(self) -> bytes:
        """Everything that the rest of the training depends on."""
        kept = {name: getattr(self, name) for name in self._KEPT}
        kept = {name: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for name, v in kept.items()}
        kept |= {
            "flat": self.network.flat,
            "memory": self.optimizer.memory,
            "updates": self.optimizer.updates,
            "backend": self.network.backend,
        }
        kept["history"] = torch.from_numpy(self._rows())
        kept["results"] = [
            {name: v.item() if isinstance(v, np.generic) else v for name, v in row.items()} for row in self.results
        ]
        file = io.BytesIO()
        torch.save(kept, file)
        return file.getvalue()

    def load(self, data: bytes) -> str:
        """Go on from what `dump` gave, and return the backend that it was made with.

        Raises ValueError for anything else, of which no code is run; the stack is of no use then.
        """
        try:
            kept = torch.load(io.BytesIO(data), weights_only=True, map_location=self.network.flat.device)
        except Exception as error:  # bytes of any kind can make it stumble in any way
            raise ValueError(f"cannot be read as a checkpoint ({type(error).__name__})") from error
        if not isinstance(kept, dict):
            raise ValueError("not a checkpoint")
        # A checkpoint without it is from before it was kept.
        backend = kept.pop("backend", self.network.backend)
        if kept.keys() != {*self._KEPT, "flat", "memory", "updates"}:
            raise ValueError("not a checkpoint of this version")
        try:
            self._take(kept)
        except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"not a checkpoint of these trials ({type(error).__name__})") from error
        return backend

    def _take(self, kept: dict) -> None:
        self._keep(np.array([self.trials.index(trial) for trial in kept["active"]], dtype=int))
        if kept["flat"].shape != self.network.flat.shape:
            raise ValueError("other parameters")
        self.network.hold(kept.pop("flat"))
        self.optimizer.memory, self.optimizer.updates = kept.pop("memory"), kept.pop("updates")
        kept["history"] = [kept["history"].cpu().numpy()]
        for name, value in kept.items():
            was_array = isinstance(getattr(self, name), np.ndarray)
            setattr(self, name, value.cpu().numpy() if was_array else value)


@contextmanager
def postponed_signals():
    """A list that becomes non-empty on Ctrl-C, SIGTERM or SIGHUP, which otherwise do nothing for SECONDS_TO_STOP.

    What takes longer than that, such as compiling, gets a KeyboardInterrupt. A second signal acts at once. Signals that
    are ignored stay so, as nohup and a shell's & ask for.
    """
    interrupted: list[int] = []
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {each: handler for each, handler in before.items() if handler not in (signal.SIG_IGN, None)}

    def note(number, frame):
        interrupted.append(number)
        restore()
        # Again and again, should something lose the exception.
        signal.setitimer(signal.ITIMER_REAL, SECONDS_TO_STOP, 0.5)

    def restore():
        for each, handler in before.items():
            signal.signal(each, handler)

    if threading.current_thread() is not threading.main_thread():
        yield interrupted  # whoever runs this as a part handles signals
        return
    alarm = signal.signal(signal.SIGALRM, signal.default_int_handler)
    for each in before:
        signal.signal(each, note)
    try:
        yield interrupted
    except KeyboardInterrupt:
        signal.setitimer(signal.ITIMER_REAL, 0)
        say("Stopped in the middle of a step; the same command goes on from the last checkpoint, if there is one.")
        raise
    except Exception as error:
        if not interrupted:
            raise
        signal.setitimer(signal.ITIMER_REAL, 0)
        say(f"Stopped, and besides: {in_a_line(error)}")
        raise KeyboardInterrupt from error
    finally:
        restore()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)


def provenance() -> dict:
    """What a stack was made with; none of it changes a trial's identity."""
    packages = ("amu-experiments", "torch", "numpy", "numba", "hydra-core")
    try:
        folder = str(Path(__file__).parent)
        git = subprocess.run(["git", "-C", folder, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        commit = git.stdout.strip()
    except (OSError, subprocess.CalledProcessError):  # no git, or not in a checkout
        commit = None
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        "commit": commit,
    }
