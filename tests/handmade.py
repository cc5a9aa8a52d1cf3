"""Small results written by hand in the store's files, for tests of the analysis."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import yaml

from amu_experiments.config import SCHEMA_VERSION
from amu_experiments.store import Result, folder_of, read_result

TASK = {
    "problem": "two_sequence",
    "variant": "noise_free",
    "T": 100,
    "N": 3,
    "variance": 0.2,
    "criteria": {
        "noise_free": {"st1": {"wrong": "== 0"}, "st2": {"wrong": "== 0", "mean_error": "< 0.01"}},
        "noisy_input": {"st2": {"wrong": "< 6"}},
    },
}

TRAINING = {
    "max_sequences": 1000,
    "evaluate_every": 100,
    "stop": "st2",
    "select": "last",
    "learning_rate": 0.01,
}


MADE = {
    "started": "2031-02-03T04:05:06+0000",
    "python": "3.11.9",
    "packages": {"torch": "2.13.0", "numpy": "2.3.1"},
    "machine": "x86_64, 2 processors",
    "commit": "abc123",
}


def write(
    root: Path,
    cell: str,
    ends: list,
    *,
    identity: str = "0" * 12,
    task=(),
    model=(),
    training=(),
    first: int = 0,
    tested=(),
    parameters: int = 42,
) -> Result:
    """Write a result and read it back. Each trial is given as it ended:

    a number: sequences after which it met st2 (and st1 100 earlier); None: it met neither in all the
    sequences there were; "diverged": it did so after 300. `tested` has more metrics of the test, each with a value for
    each trial. `identity` is what the result returned calls itself, for tests that match by it; its folder has the name
    that belongs to the configuration.
    """
    training = TRAINING | dict(training)
    config = {
        "schema_version": SCHEMA_VERSION,
        "task": TASK | dict(task),
        "model": {"cell": cell, "units": 3} | dict(model),
        "training": training,
    }
    trials, history = [], []
    for trial, end in enumerate(ends, start=first):
        status = {None: "finished", "diverged": "diverged"}.get(end, "solved")
        seen = {"finished": training["max_sequences"], "diverged": 300}.get(status, end)
        trials.append(
            {
                "trial": trial,
                "status": status,
                "sequences": seen,
                "seconds": seen / 100,
                "parameters": parameters,
                "st1_sequences": max(1, end - 100) if status == "solved" else None,
                "st2_sequences": end if status == "solved" else None,
            }
        )
        if status != "diverged":
            error = 0.005 + trial / 1e4 if status == "solved" else 0.5
            trials[-1] |= {"mean_error": error, "accuracy": 1 - error, "loss": error**2}
            trials[-1] |= {"test_mean_error": error, "test_accuracy": 1 - error, "test_loss": error**2}
        for sequences in range(100, seen, 100):
            row = {"trial": trial, "sequences": sequences, "seconds": sequences / 100, "train_loss": 0.3}
            history.append(row | {"gradient_norm": 1.0, "mean_error": 0.5, "accuracy": 0.5, "loss": 0.25})
        if status != "diverged":
            row = {"trial": trial, "sequences": seen, "seconds": seen / 100, "train_loss": 0.1}
            history.append(row | {"gradient_norm": 1.0} | {key: trials[-1][key] for key in METRICS})
    for metric, values in dict(tested).items():
        for row, value in zip(trials, values, strict=True):
            row[f"test_{metric}"] = value
    folder = folder_of(config | {"results_dir": root})
    stack = folder / f"trials-{first}-{first + len(ends) - 1}"
    stack.mkdir(parents=True)
    made = MADE | {"command": f"amu-run task=two_sequence model={cell} trials={len(ends)}"}
    (stack / "provenance.json").write_text(json.dumps(made))
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    pd.DataFrame(history, columns=HISTORY).to_csv(stack / "history.csv", index=False)
    columns = [*TRIALS, *(f"test_{metric}" for metric in dict(tested))]
    pd.DataFrame(trials, columns=columns).to_csv(stack / "trials.csv", index=False)
    return replace(read_result(folder), identity=identity)


METRICS = ["mean_error", "accuracy", "loss"]
HISTORY = ["trial", "sequences", "seconds", "train_loss", "gradient_norm", *METRICS]
TRIALS = ["trial", "status", "sequences", "seconds", "parameters", "st1_sequences", "st2_sequences"]
TRIALS += [*METRICS, *(f"test_{metric}" for metric in METRICS)]
