"""Long runs need no more RAM at their end than at their beginning, and a large store is reported quickly."""

import json
import os
import subprocess
import sys
import time

import numpy as np
import pandas as pd
from commands import slowness

from amu_experiments import files, leases, stack_files, store, training
from amu_experiments.analysis import report
from amu_experiments.overrides import Composer
from amu_experiments.tasks import make_task

WATCHED = """
import sys
from pathlib import Path
from amu_experiments import cli
from amu_experiments.stack import Stack
evaluate = Stack.evaluate
def noted(self):
    evaluate(self)
    print("at", self.sequences, Path("/proc/self/statm").read_text().split()[1])
Stack.evaluate = noted
sys.exit(cli.main(sys.argv[1:]))
"""
"""amu-run that prints the pages of RAM in use after every evaluation."""

SMALL = ("task.T=11", "task.validation_size=20", "task.test_size=20", "model=rnn", "model.units=3")

RUNS = (
    ("task=two_sequence", "training.batch_size=10", *SMALL),
    ("task=two_sequence", *SMALL),
    ("task=embedded_reber", "task.strings=20", "model=rnn", "model.units=3"),
)


def test_the_ram_in_use_is_steady_from_a_tenth_of_a_run_to_its_end(long, tmp_path):
    """A million sequences with --long, in each of three runs."""
    most = 1_000_000 if long else 5_000
    for number, settings in enumerate(RUNS if long else RUNS[:1]):
        folder = tmp_path / str(number)
        settings += ("trials=2", "training.stop=null", f"training.max_sequences={most}", f"results_dir={folder}")
        command = [sys.executable, "-c", WATCHED, *settings, f"training.evaluate_every={most // 100}"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        printed = [line.split()[1:] for line in done.stdout.splitlines() if line.startswith("at ")]
        pages = {int(sequences): int(count) for sequences, count in printed}
        assert len(pages) == 100
        assert pages[most] < 1.1 * pages[most // 10]
        (result,) = store.read_results(folder)
        assert len(result.history) == 200


def fill(results_dir, tasks, models, rates):
    """A store of 30 trials for every task, model and learning rate, each with 100 evaluations."""
    made = training.provenance()
    composer, rng, trials, looks = Composer(), np.random.default_rng(0), np.arange(30), 1000 * np.arange(1, 101)
    with composer.ready():
        for task, model, rate in ((t, m, r) for t in tasks for m in models for r in rates):
            config = composer.load([f"task={task}", f"model={model}", f"training.learning_rate={rate}"])
            config |= {"results_dir": str(results_dir), "model": config["model"] | {"units": 5}}
            kind = make_task(config["task"], [0])
            metrics = ["loss", *kind.metrics, *kind.recent_metrics]
            history = {"trial": np.repeat(trials, 100), "sequences": np.tile(looks, 30), "seconds": 1.0}
            history |= {name: rng.random(3000) for name in ("train_loss", "gradient_norm", *metrics)}
            met = pd.array(np.where(rng.random(30) < 0.6, rng.choice(looks, 30), 0), dtype="Int64")
            met[met == 0] = pd.NA
            table = {"trial": trials, "status": np.where(met.isna(), "finished", "solved")}
            table |= {"sequences": met.fillna(100_000), "seconds": 1.0, "parameters": 121}
            table |= {f"{criterion.name}_sequences": met for criterion in kind.criteria}
            table |= {
                name: rng.random(30) for name in (*metrics, *(f"test_{name}" for name in ("loss", *kind.metrics)))
            }
            folder, weights = store.folder_of(config), np.zeros((30, 121), np.float32)
            with leases.acquire(folder, config, trials.tolist()) as lease:
                stack = stack_files.stack_folder(folder, lease.trials)
                files.write_text(stack / "provenance.json", json.dumps(made))
                stack_files.finish_stack(stack, pd.DataFrame(history), pd.DataFrame(table), trials, weights)


def test_a_large_store_is_reported_quickly(long, tmp_path):
    """3,000 trials in a hundred configurations with --long, 120 in four without."""
    tasks = ["two_sequence", "adding", "embedded_reber", "temporal_order", "long_lag"][: 5 if long else 1]
    fill(tmp_path / "runs", tasks, ["amu", "lstm", "gru", "rnn"], [0.001, 0.003, 0.01, 0.03, 0.1][: 5 if long else 1])
    limit, began = 20 * slowness(), time.monotonic()
    lines = report.write_report(tmp_path / "runs", tmp_path / "out", processes=os.cpu_count())
    assert time.monotonic() - began < limit
    assert str(tmp_path / "out" / "index.html") in lines[-1]
    assert len(list((tmp_path / "out" / "figures").glob("*.png"))) == 2 * len(tasks)
