"""A real Slurm with two nodes on this machine, each with its own mount of one folder; and a fake Slurm."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from amu_experiments import files

CONFIGURATION = """
ClusterName=scratch
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CryptoType=crypto/munge
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={ports[0]}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd-%n.pid
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool-%n
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
MailProg=/bin/true
InactiveLimit=0
KillWait=5
MinJobAge=300
SlurmctldTimeout=60
SlurmdTimeout=60
Waittime=0
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=2000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=2000 State=UNKNOWN
PartitionName=debug Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP
"""

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch")


def lacking() -> str | None:
    """Why no Slurm can be started here; None if it can."""
    missing = [name for name in NEEDED if shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    return "Slurm is started by root only" if os.geteuid() != 0 else None


@contextmanager
def bind_mounts(folder: Path, places: list[Path]) -> Iterator[None]:
    """Mount a folder in other places: what is locked in one is not locked in the others. Skips if it cannot."""
    if not shutil.which("bindfs"):
        pytest.skip("bindfs is not installed")
    mounted = []
    try:
        for place in (folder, *places):
            place.mkdir(exist_ok=True)
        for place in places:
            done = subprocess.run(["bindfs", str(folder), str(place)], capture_output=True, text=True)
            if done.returncode != 0:
                pytest.skip(f"bindfs cannot mount here: {done.stderr.strip()}")
            mounted.append(place)
        yield
    finally:
        for place in mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def slurm(root: Path) -> Iterator[dict[str, str]]:
    """Start Slurm; yields the variables that its commands need. The path of `root` is short, for munge's socket."""
    ports = _free_ports(3)
    host = socket.gethostname().partition(".")[0]
    (root / "state").mkdir()
    (root / "slurm.conf").write_text(CONFIGURATION.format(root=root, ports=ports, host=host))
    key = root / "munge.key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o400)
    root.chmod(0o755)
    variables = {"SLURM_CONF": str(root / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    environment = os.environ | variables
    munge = ["--force", f"--socket={root}/munge.socket", f"--key-file={key}", f"--pid-file={root}/munged.pid"]
    munge += [f"--log-file={root}/munged.log", f"--seed-file={root}/munged.seed"]
    try:
        for command in (
            ["munged", *munge],
            ["slurmctld", "-f", variables["SLURM_CONF"]],
            *(["slurmd", "-N", node, "-f", variables["SLURM_CONF"]] for node in ("n1", "n2")),
        ):
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, (command, done.stderr)
        end = time.monotonic() + 120
        while (
            subprocess.run(
                ["sinfo", "--noheader", "--states=idle", "--format=%D"], env=environment, capture_output=True, text=True
            ).stdout.strip()
            != "2"
        ):
            assert time.monotonic() < end, "the nodes do not come up"
            time.sleep(0.5)
        yield variables
    finally:
        subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=environment, capture_output=True)
        for name in ("slurmd-n1", "slurmd-n2", "slurmctld", "munged"):
            with suppress(FileNotFoundError, ValueError, ProcessLookupError):
                process = int((root / f"{name}.pid").read_text())
                os.kill(process, signal.SIGTERM)
                while files.is_running(process):
                    time.sleep(0.05)


def fake_slurm(place: Path, answers: list[str]) -> str:
    """Make a folder with the commands of a fake Slurm; returns the variable PATH. The number of each array is 17.

    squeue gives one of the answers after the other, and the last one again and again; "" is a failure. sbatch copies
    its script to the folder, and files from the subfolder `results` to the jobs' folder, as if jobs ended at once.
    """
    place.mkdir()
    for number, answer in enumerate(answers):
        (place / f"answer-{number:03}").write_text(answer)
    scripts = {
        "srun": "",
        "sbatch": f'cp "$1" {place}/script\ncp {place}/results/* "$(dirname "$1")"\necho Submitted batch job 17',
        "squeue": f'cd {place}; set -- answer-*; [ $# = 1 ] || trap "rm $1" EXIT\n[ -s $1 ] && cat $1',
    }
    for name, text in scripts.items():
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    (place / "results").mkdir()
    return f"{place}:{os.environ['PATH']}"


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()
