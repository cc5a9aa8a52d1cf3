"""The Python interface: `run` trains, `load_results` reads stored trials, `load_network` rebuilds a trained network.

    from amu_experiments import load_network, load_results, run

    results = run("task=adding", "model=lstm", trials=10)  # train the trials that are missing
    results.trials.groupby("status").size()  # a row for each trial
    network = load_network(results, trial=3)  # a torch module
    network.measure(network.data("test"))  # the stored test metrics

Everything is read from and written to the same store as by amu-run. This module imports torch only when it trains or
builds a network.
"""

from __future__ import annotations

import functools
import json
import shlex
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from amu_experiments import numerics
from amu_experiments.console import quiet
from amu_experiments.files import UnusableError
from amu_experiments.options import ConfigurationError, format_error
from amu_experiments.selection import select, settings_of
from amu_experiments.stack_files import read_provenance, read_stack_weights, trials_of
from amu_experiments.store import Result, read_results

if TYPE_CHECKING:
    from amu_experiments.trained import TrainedNetwork


@dataclass(frozen=True, eq=False, repr=False)
class Results(Sequence):
    """Stored trials of one or more configurations: a sequence of `Result`, and two tables of all of them.

    configurations: each a `Result`, with its task, model, identity, config (nested dict), trials and history, folder.
    """

    configurations: tuple[Result, ...]

    @functools.cached_property
    def trials(self) -> pd.DataFrame:
        """A row for each trial: task, model, identity, the keys of the configuration, then the columns of trials.csv.

        A column of the configuration is named as on the command line, such as training.learning_rate. It is missing
        (NaN or None) for a configuration without this key. Floats in trials.csv are rounded to seven significant
        digits.
        """
        return self._table("trials")

    @functools.cached_property
    def history(self) -> pd.DataFrame:
        """A row for each trial and evaluation: the same first columns, then the columns of history.csv."""
        return self._table("history")

    def _table(self, name: str) -> pd.DataFrame:
        if not self.configurations:
            return pd.DataFrame(columns=["task", "model", "identity", "trial"])
        tables = [getattr(result, name) for result in self.configurations]
        settings = pd.DataFrame([_cells(settings_of(result)) for result in self.configurations])
        rows = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        parts = [settings.iloc[rows].reset_index(drop=True), pd.concat(tables, ignore_index=True)]
        return pd.concat(parts, axis=1)

    def __getitem__(self, index):
        found = self.configurations[index]
        return Results(found) if isinstance(index, slice) else found

    def __len__(self) -> int:
        return len(self.configurations)

    def __iter__(self) -> Iterator[Result]:
        return iter(self.configurations)

    def __repr__(self) -> str:
        rows = [f"\n  {r.task}/{r.model}/{r.identity}: {len(r.trials)} trials" for r in self.configurations[:20]]
        rows += [f"\n  and {len(self) - 20} more"] if len(self) > 20 else []
        return f"Results({len(self)} configurations){''.join(rows)}"


def run(
    *overrides: str,
    config_dir: str | Path | None = None,
    sweep: bool = False,
    progress: bool = False,
    **keys: Any,
) -> Results:
    """Train the requested trials that are not stored yet, and return all requested trials.

    >>> results = run("task=adding", "model=lstm", trials=2, **{"task.T": 8, "training.max_sequences": 2000})
    >>> results[0].model, len(results.trials)
    ('lstm', 2)

    Args:
        overrides: as on the command line of amu-run: "task=adding", "model=lstm", "training.learning_rate=0.01".
        config_dir: a folder of your own with task/, model/, training/ or experiment/ in it.
        sweep: whether overrides may have several values, "model=amu,lstm": every combination is trained.
        progress: whether a bar shows the progress of training. Messages go to the logger "amu_experiments".
        keys: more overrides, such as trials=10, seed=5, results_dir="runs" or **{"model.units": 8}.

    Returns:
        A configuration for each combination of the sweep, without a sweep one. It has the requested trials only.

    Raises:
        ConfigurationError: a mistake in the overrides, or the data or this machine do not allow the run; then nothing
            is trained.
        OSError: a result cannot be written.

    Interrupted training (KeyboardInterrupt) resumes when `run` is called again. The number of threads of torch is set
    to the key `threads`.
    """
    from amu_experiments.overrides import load_all

    if config_dir is not None and not Path(config_dir).is_dir():
        raise ConfigurationError(f"config_dir={config_dir}: no such folder")
    lines = [*overrides, *(f"{key}={_override_value(value)}" for key, value in keys.items())]
    if chosen := [line for line in lines if line.startswith("launcher=")]:
        raise ConfigurationError(f"{chosen[0]}: only amu-run -m starts jobs through a launcher")
    configs = load_all(lines, sweep, None if config_dir is None else str(config_dir))
    _check_instructions(configs[0]["instructions"])

    from amu_experiments import training

    with quiet(bar=progress):
        runs = [training.prepare(config) for config in configs]  # all of them before anything is trained
        words = ["amu-run", *(["-m"] if sweep else []), *(["--config-dir", str(config_dir)] if config_dir else [])]
        token = training.command.set(shlex.join([*words, *lines]))
        try:
            results = [_only(training.run(config), run.trials) for config, run in zip(configs, runs, strict=True)]
        finally:
            training.command.reset(token)
    return Results(tuple(results))


def load_results(results_dir: str | Path = "results/runs", where: str | Sequence[str] = ()) -> Results:
    """All finished trials of a store, sorted by folder.

    >>> results = load_results("results/runs", where="model == lstm")
    >>> results.trials[["task.T", "trial", "sequences"]]
       task.T  trial  sequences
    0       8      0       2000
    1       8      1       2000

    Args:
        results_dir: the folder that amu-run calls results_dir.
        where: conditions that a configuration must meet, such as "training.max_sequences >= 50000", or
            ["task == adding", "model == lstm,gru"]. `selection.select` explains them.

    Warns (RuntimeWarning) about each file that cannot be used, and leaves it out. Raises FileNotFoundError if there is
    no such folder, ConfigurationError for a wrong condition.
    """
    if not Path(results_dir).is_dir():
        raise FileNotFoundError(2, "no such folder", str(results_dir))
    left_out: list[UnusableError | OSError] = []
    found = read_results(results_dir, left_out)
    for error in left_out:
        warnings.warn(f"Left out: {format_error(error)}", RuntimeWarning, stacklevel=2)
    return Results(tuple(select(found, [where] if isinstance(where, str) else where)))


def load_network(result: Result | Results, trial: int) -> TrainedNetwork:
    """The trained network of one trial, with the final weights that the store has.

    >>> results = run("task=adding", "model=lstm", trials=2, **{"task.T": 8, "training.max_sequences": 2000})
    >>> network = load_network(results, trial=1)
    >>> {name: tuple(p.shape) for name, p in network.named_parameters() if name.startswith("readout")}
    {'readout_weight': (1, 4), 'readout_bias': (1,)}
    >>> measured = network.measure(network.data("test"))
    >>> f"{measured['loss']:.7g}" == f"{results.trials.loc[1, 'test_loss']:.7g}"
    True

    Args:
        result: a configuration, or `Results` with only one.
        trial: the number of a trial.

    Raises:
        ValueError: there are several configurations, or no such trial.
        UnusableError: its weights are missing or damaged, as in a copy of a store for git.
        ConfigurationError: its class or its data are missing or have changed.
    """
    if isinstance(result, Results):
        if len(result) != 1:
            raise ValueError(f"there are {len(result)} configurations; give one of them, such as results[0]")
        (result,) = result
    stacks = [stack for stack in result.stacks if trial in trials_of(stack)]
    if trial not in set(result.trials["trial"]) or not stacks:
        known = ", ".join(map(str, result.trials["trial"]))
        raise ValueError(f"trial={trial}: {result.folder} has no such trial; it has {known}")
    weights = read_stack_weights(stacks[0])[trial]
    made = read_provenance(stacks[0])
    instructions = made.get("numerics", {}).get("instructions")
    on_cpu = instructions and numerics.device_of(instructions) == "cpu"
    choice = numerics.choice_of(instructions) if on_cpu else "portable"
    try:
        numerics.fix(choice)
    except ConfigurationError:
        warnings.warn(
            f"{stacks[0]} was trained with instructions={choice}, unlike this process: last digits may differ",
            RuntimeWarning,
            stacklevel=2,
        )
    _check_instructions(choice)

    import torch

    from amu_experiments.network import build
    from amu_experiments.tasks import make_task
    from amu_experiments.trained import TrainedNetwork

    config, backend = result.config, "torch" if made.get("backend") == "torch" else "auto"
    task = make_task(config["task"], [trial])
    network = build(config["model"], task, backend, "cpu", config["training"]["batch_size"])
    network.load_flat(torch.tensor(weights[None]))
    return TrainedNetwork(network, task)


def _only(result: Result, trials: list[int]) -> Result:
    tables = {name: getattr(result, name) for name in ("trials", "history")}
    return replace(
        result, **{name: table[table["trial"].isin(trials)].reset_index(drop=True) for name, table in tables.items()}
    )


def _cells(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as single cells of a table: a list becomes text."""
    return {key: json.dumps(value) if isinstance(value, list) else value for key, value in settings.items()}


def _override_value(value: Any) -> str:
    """A Python value as it stands in an override."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return f"[{','.join(map(_override_value, value))}]" if isinstance(value, list | tuple) else str(value)


def _check_instructions(instructions: str) -> None:
    """Warn if torch computed before its instructions could be set: it chooses them once, at its first operation."""
    import torch

    late = numerics.portable_name() == "x86-64-v3" and torch.backends.cpu.get_cpu_capability() != "AVX2"
    if instructions == "portable" and late:
        warnings.warn(
            "torch was used before amu_experiments, and has chosen other processor instructions than amu-run: last "
            "digits may differ. Call amu_experiments first, or give instructions=native",
            RuntimeWarning,
            stacklevel=3,
        )
