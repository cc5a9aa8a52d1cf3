"""Whole runs: their results, the trials that are trained again, and independence of a trial's rows."""

import signal
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from amu_experiments import stack_files, store, training
from amu_experiments.learning import loss_and_error
from amu_experiments.network import to_torch
from amu_experiments.options import ConfigurationError
from amu_experiments.overrides import load
from amu_experiments.plan import prepare
from amu_experiments.stack import Stack

SMALL = (
    "task=two_sequence",
    "model=rnn",
    "task.T=11",
    "task.test_size=20",
    "task.validation_size=20",
    "model.units=3",
    "training.max_sequences=60",
    "training.evaluate_every=20",
    "backend=torch",
    "threads=1",
)


def config_of(results_dir, *overrides):
    chosen = {line.partition("=")[0]: line for line in (*SMALL, f"results_dir={results_dir}", *overrides)}
    return load(*chosen.values())


def run(results_dir, *overrides):
    config = config_of(results_dir, *overrides)
    training.run(config)
    return store.read_result(prepare(config).folder)


def without_times(result, trials=None):
    tables = [table.drop(columns="seconds") for table in (result.trials, result.history)]
    if trials is not None:
        tables = [table[table["trial"].isin(trials)].reset_index(drop=True) for table in tables]
    return tables


def assert_same(first, second, trials=None):
    for a, b in zip(without_times(first, trials), without_times(second, trials), strict=True):
        pd.testing.assert_frame_equal(a, b, check_exact=True, check_dtype=False)


def learned(run, stretch, interrupted_after=None):
    """For each trial of a run with stretches of this size: its rows as text, without seconds, and its weights."""
    stack = Stack(run)
    while stack.active:
        stack.learn(stretch)
        if stack.evaluation_is_due():
            stack.evaluate()
        if interrupted_after is not None and stack.sequences >= interrupted_after and stack.active:
            checkpoint, interrupted_after = stack.dump(), None
            stack = Stack(run)
            stack.load(checkpoint)
    tables = [table.drop(columns="seconds") for table in (stack.history_table(), stack.trials_table())]
    return {
        trial: ([t[t["trial"] == trial].to_csv(index=False, float_format="%.17g") for t in tables], weights.tobytes())
        for trial, weights in zip(*stack.weights_table(), strict=True)
    }


def test_the_same_command_gives_the_same_files(tmp_path):
    results = [run(tmp_path / name, "trials=3") for name in "ab"]
    assert_same(*results)
    weights = [next((tmp_path / name).rglob("weights.npz")).read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    assert [set(result.trials["trial"]) for result in results] == [{0, 1, 2}] * 2


def test_only_missing_trials_are_trained(tmp_path, capsys, monkeypatch):
    first = run(tmp_path, "trials=2")
    trained = []
    original = training.train_stack
    monkeypatch.setattr(
        training,
        "train_stack",
        lambda run, lease: trained.append(run.trials) or original(run, lease),
    )
    capsys.readouterr()
    again = run(tmp_path, "trials=2")
    assert "nothing to train" in capsys.readouterr().out
    pd.testing.assert_frame_equal(first.trials, again.trials)
    more = run(tmp_path, "trials=4")
    assert "2 of 4 trials already exist; training 2" in capsys.readouterr().out
    run(tmp_path, "seed=8", "trials=1")
    run(tmp_path, "seed=1", "trials=9")
    assert trained == [[2, 3], [8], [4, 5, 6, 7], [9]]
    pd.testing.assert_frame_equal(more.trials.head(2), first.trials)


@pytest.mark.parametrize("backend", ["fused", "torch"])
def test_a_trial_trained_alone_equals_the_trial_in_a_stack(tmp_path, backend):
    """Equal to the bit for the compiled scans; in torch the size of a product may change the order of its sums."""
    settings = (f"backend={backend}", "training.learning_rate=0.02")
    stack = run(tmp_path / "stack", *settings, "trials=10")
    alone = run(tmp_path / "alone", *settings, "trials=1", "seed=7")
    if backend == "fused":
        assert_same(stack, alone, trials=[7])
    for a, b in zip(without_times(stack, [7]), without_times(alone, [7]), strict=True):
        pd.testing.assert_frame_equal(a, b, rtol=1e-4)


def test_no_number_of_a_trial_depends_on_longer_sequences_of_others(tmp_path):
    """To the bit, its losses too: they are sums over steps, of which those after a sequence's end count nothing."""
    kept = [line for line in SMALL if not line.startswith("task")]
    settings = ("task=embedded_reber", "task.strings=6", *kept, f"results_dir={tmp_path}")
    chosen = {line.partition("=")[0]: line for line in (*settings, "backend=fused")}
    run = prepare(load(*chosen.values(), "trials=6"))
    together = learned(run, 10)
    runs = [replace(run, trials=[trial]) for trial in run.trials]
    assert len({Stack(alone).validation.inputs.shape[2] for alone in runs}) > 1
    for alone in runs:
        assert learned(alone, 10) == {trial: together[trial] for trial in alone.trials}


ANOTHER_TASK = (
    "task=adding_1997",
    "task.T=20",
    "task.test_size=20",
    "model=gru",
    "model.units=2",
    "training.max_sequences=60",
    "training.evaluate_every=20",
    "training.select=best",
    "backend=torch",
)


@pytest.mark.parametrize("settings", [SMALL, ANOTHER_TASK])
@pytest.mark.parametrize("stretches", [2, 5])
def test_interrupted_and_started_again_gives_the_rows_of_an_uninterrupted_run(
    tmp_path, monkeypatch, capsys, settings, stretches
):
    monkeypatch.setattr("test_training.SMALL", (*settings, "trials=3", "training.learning_rate=0.05"))
    whole = run(tmp_path / "whole")

    learn, learned = Stack.learn, []

    def learn_and_be_interrupted(self, most):
        learned.append(learn(self, 7))
        if len(learned) == stretches:
            signal.raise_signal(signal.SIGINT)
        return learned[-1]

    monkeypatch.setattr(Stack, "learn", learn_and_be_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    assert "run the same command to resume" in capsys.readouterr().out
    monkeypatch.setattr(Stack, "learn", learn)
    resumed = run(tmp_path / "parts")
    assert "Resuming from the checkpoint" in capsys.readouterr().out
    assert_same(whole, resumed)
    assert not list((tmp_path / "parts").rglob("checkpoint*"))
    for trial, weights in store.read_weights(whole.folder).items():
        np.testing.assert_array_equal(weights, store.read_weights(resumed.folder)[trial])


WILD = ("training.optimizer=sgd", "training.learning_rate=0.46", "training.clip_norm=null", "training.stop=null")
"""A learning rate at which some trials of SMALL diverge."""

STREAMS = {
    "unequal lengths": ("task=embedded_reber", "task.strings=6"),
    "batches of three": ("task=embedded_reber", "task.strings=6", "training.batch_size=3"),
    "diverging trials": (*WILD, "task.T=11", "training.max_sequences=60"),
    "latest errors": ("task=adding_1997", "task.T=11", "training.select=best"),
}
"""Streams in which stretches of learning might matter: padding, batches, ending trials, and the latest errors."""


@pytest.mark.parametrize(
    ("model", "backend", "stream"),
    [
        *((model, "torch", "unequal lengths") for model in ("amu", "lstm", "gru", "rnn", "lstm97")),
        *(("rnn", "torch", stream) for stream in list(STREAMS)[1:]),
        *(("rnn", "fused", stream) for stream in STREAMS),
    ],
)
def test_no_number_depends_on_how_learning_is_cut_into_stretches_or_interrupted(model, backend, stream, tmp_path):
    settings = ("training.optimizer=sgd", "training.max_sequences=18", "training.evaluate_every=9")
    kept = [line for line in SMALL if not line.startswith("task")]
    chosen = ("task=two_sequence", *kept, "training.stop=null", "trials=3", *settings, *STREAMS[stream])
    chosen = {line.partition("=")[0]: line for line in (*chosen, f"model={model}", f"backend={backend}")}
    if model == "lstm97":
        chosen["model.units"] = "model.units=4"
    run = prepare(load(*chosen.values(), f"results_dir={tmp_path}"))
    whole = learned(run, 10**6)
    assert learned(run, 1) == whole
    assert learned(run, 7, interrupted_after=14) == whole
    ends = {status for status in ("finished", "diverged") for rows, _ in whole.values() if status in rows[1]}
    assert ends == {"finished", *(["diverged"] if stream == "diverging trials" else [])}


@pytest.fixture(scope="module")
def longer(tmp_path_factory):
    """Six trials that are long enough for some to solve the task."""
    settings = ("backend=fused", "training.max_sequences=4000", "training.learning_rate=0.02")
    return run(tmp_path_factory.mktemp("longer"), "trials=6", *settings)


def test_a_trial_that_meets_the_stop_criterion_ends_and_is_tested(longer):
    solved = longer.trials[longer.trials["status"] == "solved"]
    assert len(solved) > 0
    assert (solved["sequences"] == solved["st2_sequences"]).all()
    assert (solved["st1_sequences"] <= solved["st2_sequences"]).all()
    assert solved["test_mean_error"].notna().all()
    unsolved = longer.trials[longer.trials["status"] == "finished"]
    assert unsolved["st2_sequences"].isna().all()
    assert (unsolved["sequences"] == 4000).all()


def test_a_criterion_is_recorded_at_the_first_row_where_it_holds(longer):
    for trial, rows in longer.history.groupby("trial"):
        met = rows[(rows["wrong"] == 0) & (rows["mean_error"] < 0.01)]["sequences"]
        recorded = longer.trials.set_index("trial").loc[trial, "st2_sequences"]
        assert recorded == met.iloc[0] if len(met) else np.isnan(recorded)


def test_diverged_trials_are_recorded_and_do_not_change_the_others(tmp_path):
    """At a high learning rate without clipping some trials diverge; the others are the same as alone, to the bit."""
    result = run(tmp_path / "stack", *WILD, "trials=6", "backend=fused")
    status = result.trials.groupby("status")
    diverged, finished = (status.get_group(name) for name in ("diverged", "finished"))
    assert (len(diverged), len(finished)) == (4, 2)
    assert diverged["st2_sequences"].isna().all()
    assert diverged["test_mean_error"].isna().all()
    assert ((diverged["sequences"] > 20) & (diverged["sequences"] < 60)).all()
    assert (finished["sequences"] == 60).all()
    assert finished["test_mean_error"].notna().all()
    for trial in finished["trial"]:
        alone = run(tmp_path / f"alone {trial}", *WILD, "trials=1", f"seed={trial}", "backend=fused")
        assert_same(result, alone, trials=[trial])


def test_the_best_weights_on_validation_are_selected(tmp_path):
    settings = ("trials=3", "training.select=best", "training.learning_rate=0.3", "training.stop=null")
    result = run(tmp_path, *settings)
    best = result.history.groupby("trial")["loss"].min()
    assert (best < result.history.groupby("trial")["loss"].last()).any()
    assert result.trials.set_index("trial")["loss"].tolist() == pytest.approx(best.tolist(), rel=1e-6)
    stack = Stack(prepare(config_of(tmp_path, *settings)))
    weights = store.read_weights(result.folder)
    stack.network.load_flat(torch.from_numpy(np.stack([weights[trial] for trial in range(3)])))
    inputs, lengths, targets = to_torch(stack.validation, "cpu")
    losses, _ = loss_and_error(stack.network(inputs, lengths, every=False), targets, lengths, stack.task)
    assert losses.mean(dim=1).tolist() == pytest.approx(best.tolist(), rel=1e-5)


def test_checkpoints_are_written_at_intervals(tmp_path, monkeypatch):
    written = []
    write = stack_files.write_bytes
    monkeypatch.setattr(stack_files, "write_bytes", lambda path, data: written.append(path.name) or write(path, data))
    run(tmp_path, "trials=1", "training.checkpoint_minutes=1e-9")
    assert written.count("checkpoint.pt") >= 3


def test_all_columns_that_scripts_rely_on(tmp_path):
    result = run(tmp_path, "trials=1")
    assert list(result.history)[:5] == ["trial", "sequences", "seconds", "train_loss", "gradient_norm"]
    assert {"trial", "status", "sequences", "seconds", "parameters"} <= set(result.trials)
    assert {"st1_sequences", "st2_sequences", "mean_error", "test_accuracy"} <= set(result.trials)
    # 3 units of an RNN with one input, and a readout: 3 * (1 + 3 + 1) + 3 + 1.
    assert result.trials["parameters"].tolist() == [19]
    assert result.history["sequences"].tolist() == [20, 40, 60]


def test_matched_sizes_come_as_near_as_units_allow(tmp_path):
    """An LSTM of 3 units with one input and one output has 4 * 3 * (1 + 3 + 1) + 3 + 1 = 64 parameters, one of
    4 units 101: 82 is nearer to 64 (18 against 19), 83 nearer to 101."""
    for wanted, units in ((82, 3), (83, 4), (1, 1)):
        config = config_of(tmp_path, "model=lstm", "model.units=null", f"model.parameters={wanted}")
        assert prepare(config).config["model"]["units"] == units


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("task=time_series", "task.path=nowhere_TRAIN.ts"), "nowhere_TRAIN.ts"),
        (("device=cuda:7",), "device=cuda:7"),
    ],
)
def test_mistakes_that_only_data_or_machine_show(tmp_path, overrides, words):
    kept = [line for line in SMALL if not line.startswith("task.") or "task=time_series" not in overrides]
    chosen = {line.partition("=")[0]: line for line in (*kept, *overrides, f"results_dir={tmp_path}/runs")}
    with pytest.raises(ConfigurationError, match=words):
        training.run(load(*chosen.values()))
    assert not (tmp_path / "runs").exists()
