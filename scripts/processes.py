"""Other processes that benchmark.py measures: training steps of other programs, and whole commands."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path


class Peer:
    """A training step in a separate process, which reads settings and answers with times; each is one line of JSON."""

    def __init__(self, command: list, **options):
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options
            )
        except OSError as error:
            sys.exit(f"{command[0]}: {error.strerror}")
        self.first = self._answer()

    def asked(self, setting) -> dict:
        return asdict(setting)

    def burst(self, setting) -> Callable[[float], float]:
        def burst(seconds):
            self.process.stdin.write(json.dumps(self.asked(setting) | {"seconds": seconds}) + "\n")
            self.process.stdin.flush()
            return self._answer()["seconds_per_sequence"]

        return burst

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(map(str, self.process.args))} failed (error above)")
        return json.loads(line)


class JaxPeer(Peer):
    """The step in JAX, by jax_peer.py; it needs jax and optax."""

    def __init__(self, python: str, inputs: int):
        self.inputs = inputs
        super().__init__([python, Path(__file__).with_name("jax_peer.py")])
        self.version = self.first["jax"]

    def asked(self, setting) -> dict:
        asked = asdict(setting) | {
            "cell": "amu full" if setting.gradient == "full" else setting.cell,
            "inputs": self.inputs,
        }
        del asked["gradient"]
        return asked


class CheckoutPeer(Peer):
    """The step of another checkout of this project, by step_peer.py."""

    def __init__(self, path: str):
        command = [sys.executable, Path(__file__).with_name("step_peer.py")]
        super().__init__(command, env=os.environ | {"PYTHONPATH": str(Path(path).resolve())})


def run_command(*arguments: str, status: int = 0) -> float:
    """Run amu-run, delete its results, and return its seconds. Exits if its status is not `status`."""
    with tempfile.TemporaryDirectory() as folder:
        results = [] if "--help" in arguments else [f"results_dir={folder}"]
        command = [sys.executable, "-c", "import sys; from amu_experiments.cli import main; sys.exit(main())"]
        began = time.perf_counter()
        done = subprocess.run([*command, *arguments, *results], capture_output=True, text=True)
        took = time.perf_counter() - began
    if done.returncode != status:
        sys.exit(f"amu-run {' '.join(arguments)} ended with status {done.returncode}:\n{done.stderr}")
    return took
