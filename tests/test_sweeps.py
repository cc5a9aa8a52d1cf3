"""Sweeps: finished jobs are left out, shards share them out, and processes here or nodes of a cluster run the rest."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import bind_mounts, lacking, slurm
from commands import wait_until

from amu_experiments import leases, store
from amu_experiments.cli import main
from amu_experiments.options import ConfigurationError
from amu_experiments.sweeps import shard

SETTINGS = (
    *("task=two_sequence", "model=rnn", "task.T=11", "task.test_size=20", "task.validation_size=20", "model.units=3"),
    *("training.max_sequences=60", "training.evaluate_every=10", "training.stop=null", "backend=torch", "trials=2"),
)
"""Two trials that take a fraction of a second."""

ENDLESS = 10**9


@contextmanager
def amu_run(folder, *arguments, **variables):
    """The command in a folder; its output is in the file `out`."""
    with open(folder / "out", "a+") as out:
        command = [sys.executable, "-m", "amu_experiments", *arguments]
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=out, env=os.environ | variables)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(120)


def trained(results_dir):
    return {(each.identity, trial) for each in store.read_results(results_dir) for trial in each.trials["trial"]}


def jobs_folders(folder):
    return list((folder / "results" / "runs" / ".jobs").glob("*"))


def with_max_sequences(count):
    return [line for line in SETTINGS if "max_sequences" not in line] + [f"training.max_sequences={count}"]


@pytest.mark.parametrize("count", [0, 1, 16, 17, 100])
def test_every_job_is_in_one_shard(count):
    shards = [shard(f"{number}/16", count) for number in range(1, 17)]
    assert sorted(job for each in shards for job in each) == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert shard(None, count) == list(range(count))


@pytest.mark.parametrize("text", ["0/16", "17/16", "3", "3/", "a/b", "-1/2", "1/0", "1.5/2"])
def test_a_shard_that_is_none_is_an_error(text):
    with pytest.raises(ConfigurationError, match="must be NUMBER/COUNT"):
        shard(text, 100)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("task=adding --shard 1/2", "--shard: works only with -m"),
        ("-m task=adding seed=0,1 --shard 3/2", "--shard 3/2: must be NUMBER/COUNT"),
        ("task=adding launcher=local", "launcher=local: starts the jobs of a sweep; add -m"),
        ("-m task=adding launcher=cloud", "launcher=cloud: no such launcher; choose one of local, slurm"),
        ("-m task=adding launcher=local processes=0", "processes=0: must be a whole number from 1 to 1024"),
        ("-m task=adding launcher=null", "launcher=null: no such launcher; choose one of local, slurm"),
    ],
)
def test_a_wrong_command_is_one_line_and_starts_nothing(command, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(command.split()) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"amu-run: {words}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_finished_jobs_are_left_out_and_jobs_keep_their_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["-m", *SETTINGS, "seed=0,2,4", "--shard", "2/3"]) == 0
    assert "[1] " in (told := capsys.readouterr().out)
    assert "[0] " not in told
    assert main(["-m", *SETTINGS, "seed=0,2,4"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("1 of 3 jobs are finished already.\n[0] ")
    assert "[1] " not in told
    assert "[2] " in told
    assert main(["-m", *SETTINGS, "seed=0,2,4", "launcher=local"]) == 0
    assert capsys.readouterr().out == "3 of 3 jobs are finished already.\n"


def test_processes_share_the_jobs_and_a_job_that_dies_is_named(tmp_path):
    """Two processes and three jobs, one of them endless. It is killed, and then stopped with the command."""
    endless = [*with_max_sequences(f"60,{ENDLESS},50"), "launcher=local", "processes=2"]

    def stacks_with(name):
        return list((tmp_path / "results" / "runs").glob(f"two_sequence/rnn/*/trials-*/{name}"))

    with amu_run(tmp_path, "-m", *endless) as command:
        wait_until(lambda: len(stacks_with("trials.csv")) == 2 and len(stacks_with(leases.LEASE)) == 1, seconds=300)
        (lease,) = stacks_with(leases.LEASE)
        os.kill(json.loads(lease.read_text())["process"], signal.SIGKILL)
        assert command.wait(300) == 1
    told = (tmp_path / "out").read_text()
    (logs,) = jobs_folders(tmp_path)
    assert told.startswith(f"3 jobs in 2 processes; logs in {logs}\n")
    assert "3 jobs: 2 done, 1 failed\n" in told
    assert "amu-run: 1 of 3 jobs failed:\n  [1] task=two_sequence " in told
    assert told.endswith(f": ended with signal 9, {logs / '1.log'}\n")
    assert "Results are in results/runs/two_sequence/rnn/" in (logs / "0.log").read_text()
    with amu_run(tmp_path, "-m", *endless) as command:
        resumed = "Resuming from the checkpoint"
        wait_until(lambda: any(resumed in path.read_text() for path in tmp_path.rglob("1.log")), seconds=300)
        command.send_signal(signal.SIGTERM)
        assert command.wait(300) == 130
    assert "2 of 3 jobs are finished already.\n" in (tmp_path / "out").read_text()
    assert list((tmp_path / "results").rglob(leases.LEASE)) == []
    assert any("run the same command to resume" in path.read_text() for path in tmp_path.rglob("1.log"))


def test_the_logs_of_jobs_that_succeed_are_removed_and_their_results_are_those_of_one_process(tmp_path):
    with amu_run(tmp_path, "-m", *SETTINGS, "seed=0,2", "launcher=local", "processes=2") as command:
        assert command.wait(300) == 0
    one = store.read_results(tmp_path / "results/runs")
    with amu_run(tmp_path, "-m", *SETTINGS, "seed=0,2", "results_dir=one") as command:
        assert command.wait(300) == 0
    two = store.read_results(tmp_path / "one")
    for first, second in zip(one, two, strict=True):
        assert first.trials.drop(columns="seconds").equals(second.trials.drop(columns="seconds"))
    assert jobs_folders(tmp_path) == []


# Slurm ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster():
    """A Slurm with two nodes, each with a mount of one folder: the variables of its commands, folder and mounts."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="hydra-submitit-launcher is not installed")
    if reason := lacking():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(prefix="amu-") as name:
        root = Path(name)
        (root / "slurm").mkdir()
        with bind_mounts(root / "store", [root / "n1", root / "n2"]), slurm(root / "slurm") as variables:
            yield variables, root


def on_nodes(root, name):
    """Overrides for jobs that work in the mount of their node."""
    return ["launcher=slurm", f"hydra.launcher.setup=['cd {root}/$SLURMD_NODENAME/{name}']"]


def squeue(variables):
    command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T %N"]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def test_an_array_of_slurm_trains_in_two_mounts_and_a_cancelled_job_is_named_and_done_by_the_same_command(
    cluster, number
):
    variables, root = cluster
    folder, count = root / "store" / "array", number(4, 8)
    folder.mkdir()
    seeds = f"seed={','.join(str(2 * job) for job in range(count))}"
    sweep = ["-m", *SETTINGS, seeds, "training.checkpoint_minutes=1e-9", *on_nodes(root, "array")]
    with amu_run(folder, *sweep, **variables) as command:
        wait_until(lambda: len(squeue(variables)) == count, seconds=300)
        last = squeue(variables)[-1][0]
        subprocess.run(["scancel", last], env=os.environ | variables, check=True)
        assert command.wait(600) == 1
    told = (folder / "out").read_text()
    (logs,) = jobs_folders(folder)
    assert f"{count} jobs submitted to Slurm as {last.partition('_')[0]}; logs in {logs}\n" in told
    assert f"amu-run: 1 of {count} jobs failed:\n  [" in told
    assert re.search(rf": job {last}: (it is gone from Slurm's queue|Slurm says CANCELLED), {logs}/", told)
    assert len(trained(folder / "results/runs")) == 2 * (count - 1)
    assert {"n1", "n2"} <= {word for line in squeue(variables) for word in line}
    with amu_run(folder, *sweep, **variables) as command:
        assert command.wait(600) == 0
    assert f"{count - 1} of {count} jobs are finished already.\n" in (folder / "out").read_text()
    assert len(trained(folder / "results/runs")) == 2 * count
    assert jobs_folders(folder) == [logs]
    assert not [path for path in folder.rglob("*") if path.suffix == ".part" or path.name == "checkpoint.pt"]


@pytest.mark.long_only
def test_a_job_over_its_time_limit_goes_on_and_after_its_last_start_has_failed(cluster):
    """Slurm's shortest limit is a minute, and it holds a job back before it starts it again."""
    variables, root = cluster
    folder = root / "store" / "limit"
    folder.mkdir()
    limits = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=60", "hydra.launcher.max_num_timeout=1"]
    with amu_run(
        folder, "-m", *with_max_sequences(f"60,{ENDLESS}"), *on_nodes(root, "limit"), *limits, **variables
    ) as run:
        assert run.wait(1200) == 1
    (logs,) = jobs_folders(folder)
    told = (folder / "out").read_text()
    assert "amu-run: 1 of 2 jobs failed:\n  [1] " in told
    (log,) = logs.glob("*_1_0_log.out")
    assert log.read_text().count("sequences; run the same command to resume.") == 2
    assert log.read_text().count("Resuming from the checkpoint at") == 1
