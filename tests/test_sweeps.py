"""Sweeps: finished jobs are skipped, shards divide the others, and processes here or nodes of a cluster run them."""

import os
import pickle
import re
import signal
import subprocess
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import bind_mounts, fake_slurm, lacking, slurm
from commands import Command, fake_job, wait_until
from hydra.core.utils import JobReturn, JobStatus

from amu_experiments import store, sweeps, training
from amu_experiments.cli import job_alone, main
from amu_experiments.options import ConfigurationError
from amu_experiments.overrides import load, load_jobs

SETTINGS = (
    *("task=two_sequence", "model=rnn", "task.T=11", "task.test_size=20", "task.validation_size=20", "model.units=3"),
    *("training.max_sequences=60", "training.evaluate_every=10", "training.stop=null", "backend=torch"),
    "trials=2",
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
    shards = [sweeps.shard(f"{number}/16", count) for number in range(1, 17)]
    assert sorted(job for each in shards for job in each) == list(range(count))
    assert max(map(len, shards)) - min(map(len, shards)) <= 1
    assert sweeps.shard(None, count) == list(range(count))


@pytest.mark.parametrize("text", ["0/16", "17/16", "3", "3/", "a/b", "-1/2", "1/0", "1.5/2"])
def test_a_shard_that_is_none_is_an_error(text):
    with pytest.raises(ConfigurationError, match="must be NUMBER/COUNT"):
        sweeps.shard(text, 100)


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


def test_finished_jobs_are_skipped_and_jobs_keep_their_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["-m", *SETTINGS, "seed=0,2", "--shard", "2/2"]) == 0
    assert capsys.readouterr().out.startswith("[1] ")
    assert main(["-m", *SETTINGS, "seed=0,2"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("1 of 2 jobs are finished already.\n[0] ")
    assert "[1] " not in told
    assert main(["-m", *SETTINGS, "seed=0,2", "launcher=local"]) == 0
    assert capsys.readouterr().out == "2 of 2 jobs are finished already.\n"


def jobs_with(results_dir, *overrides):
    """Jobs of a sweep, left to do."""
    loaded = load_jobs([*SETTINGS, f"results_dir={results_dir}", *overrides], sweep=True)
    return sweeps.unfinished((number, *each) for number, each in enumerate(loaded))


def test_processes_share_the_jobs_and_a_job_that_dies_is_named(tmp_path, capsys, monkeypatch):
    jobs = jobs_with(tmp_path, "launcher=local", "processes=2", "seed=0,1,2,3")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    failures = sweeps.run(jobs, "mine", None, fake_job, None)
    (logs,) = (tmp_path / ".jobs").iterdir()
    assert failures == {2: f"ended with signal 9, {logs}/2.log", 3: f"ended with status 3, {logs}/3.log"}
    told = capsys.readouterr().out
    assert told.startswith(f"4 jobs in 2 processes; logs in {logs}\n")
    assert told.endswith("4 jobs: 2 done, 2 failed\n")
    arguments = ["--config-dir=mine", *SETTINGS, f"results_dir={tmp_path}", "seed=0", "threads=2"]
    assert (logs / "0.log").read_text() == " ".join(arguments)


def test_a_signal_stops_the_jobs_and_a_second_one_stops_them_at_once(tmp_path, monkeypatch):
    jobs = jobs_with(tmp_path, "launcher=local", "processes=2", "seed=4,5")
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)

    def send_signals():
        for word in ("seed=4", "first signal"):
            wait_until(lambda word=word: any(word in path.read_text() for path in tmp_path.rglob("0.log")))
            os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send_signals)
    sender.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            sweeps.run(jobs, None, None, fake_job, None)
    finally:
        sender.join()
        signal.signal(signal.SIGTERM, before)
    (log,) = tmp_path.rglob("0.log")
    wait_until(lambda: log.read_text() == "second signal")


def test_the_logs_of_jobs_that_succeed_are_removed_and_their_results_are_those_of_one_process(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main(["-m", *SETTINGS, "seed=0,2", "launcher=local", "processes=2"]) == 0
    assert capsys.readouterr().out.endswith("2 jobs: 2 done\n")
    assert jobs_folders(tmp_path) == []
    (two,) = store.read_results(tmp_path / "results/runs")
    one = training.run(load(*SETTINGS[:-1], "trials=4", "results_dir=one"))
    assert two.trials.drop(columns="seconds").equals(one.trials.drop(columns="seconds"))


def test_a_job_in_a_process_of_its_own_stops_with_a_checkpoint_and_gets_no_signal_of_the_terminal(tmp_path):
    lines = [*with_max_sequences(ENDLESS), f"results_dir={tmp_path}"]
    job = Command(tmp_path / "out", job_alone, lines, str(tmp_path / "log"))
    try:
        wait_until(lambda: list(tmp_path.rglob("checkpoint.pt")))
        assert os.getsid(job.process.pid) == job.process.pid
        job.signal(signal.SIGTERM)
        assert job.end() == 130
    finally:
        Command.kill_all()
    assert "sequences; run the same command to resume." in (tmp_path / "log").read_text()


# Slurm ------------------------------------------------------------------------------------------------------------


def test_jobs_of_slurm_that_fail_are_named_with_the_reason(tmp_path, monkeypatch, capsys):
    """Slurm is down at first. Job 3 is cancelled, Slurm forgets job 4, and job 5 ends without a result."""
    submitit = pytest.importorskip("submitit", reason="hydra-submitit-launcher is not installed")
    for name, seconds in (("SECONDS_BETWEEN_POLLS", (0.01, 0.01)), ("SECONDS_OF_A_FILE", (0.1, 0.2))):
        monkeypatch.setattr(sweeps, name, seconds)
    begun, ended = "".join(f"17_{n} COMPLETED\n" for n in range(3)) + "17_3 CANCELLED\n", "17_5 COMPLETED\n"
    answers = ["", f"{begun}17_4 PENDING\n17_5 RUNNING\n", *[begun + ended] * 100, "it ends"]
    place = tmp_path / "slurm"
    monkeypatch.setenv("PATH", fake_slurm(place, answers))
    done, failed = JobReturn(status=JobStatus.COMPLETED), JobReturn(status=JobStatus.FAILED)
    results = ("success", done), ("success", failed), ("error", "Traceback (most recent call last):\nOSError: no disk")
    for number, result in enumerate(results):
        (place / "results" / f"17_{number}_0_result.pkl").write_bytes(pickle.dumps(result))
    jobs = jobs_with(tmp_path / "runs", "launcher=slurm", "hydra.launcher.partition=long", "seed=0,1,2,3,4,5")
    assert {(job.run.config["threads"], job.run.config["stop_seconds"]) for job in jobs} == {(1, 60)}
    failures = sweeps.run(jobs, None, None, fake_job, pickle.dumps)
    (logs,) = (tmp_path / "runs" / ".jobs").iterdir()
    reasons = ["it ended with an error", "OSError: no disk", "Slurm says CANCELLED"]
    reasons += ["it is gone from Slurm's queue", "Slurm says COMPLETED"]
    assert failures == {n: f"job 17_{n}: {why}, {logs}/17_{n}_0_log.err" for n, why in enumerate(reasons, 1)}
    told = capsys.readouterr().out
    assert told.startswith(f"6 jobs submitted to Slurm as 17; logs in {logs}\n")
    assert told.endswith("6 jobs: 1 done, 5 failed\n")
    script = (place / "script").read_text()
    for line in ("array=0-5%6", "partition=long", "time=60", "signal=USR2@120", "cpus-per-task=1"):
        assert f"#SBATCH --{line}\n" in script
    task = submitit.core.utils.DelayedSubmission.load(logs / "17_3_submitted.pkl")
    assert "++seed=3" in task.args[0]
    assert [line for line in task.args[0] if "hydra" in line] == []


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


@pytest.mark.long_only
def test_an_array_of_slurm_trains_in_two_mounts_and_a_cancelled_job_is_named_and_done_by_the_same_command(cluster):
    variables, root = cluster
    folder, count = root / "store" / "array", 8
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
