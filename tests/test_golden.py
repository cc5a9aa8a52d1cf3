"""Exact rows of small stacks, and checksums of data. Any change of the arithmetic fails here and must be on purpose.

`python tests/test_golden.py` writes those of this machine: rows of compiled stacks, rows in torch for its maker's
processors, and data. A commit with new rows says why the numbers changed, and increases
numerics.VERSION if numbers of the compiled backend changed.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import llvmlite.binding as llvm
import numpy as np
import pandas as pd
import pytest
import yaml
from llvmlite.binding.targets import FeatureMap

from amu_experiments import numerics
from amu_experiments.cli import main
from amu_experiments.conf_files import choices
from amu_experiments.tasks import make_task

ROWS = Path(__file__).with_name("golden.json")
CELLS = ("amu", "amu_tframe", "gru", "lstm", "lstm97", "rnn")
TASKS = {
    "adding": ["task=adding", "task.T=8", "task.validation_size=16", "task.test_size=16"],
    "embedded_reber": ["task=embedded_reber", "task.strings=16"],
    "two_sequence": ["task=two_sequence", "task.T=10", "task.validation_size=16", "task.test_size=16"],
}
STACKS = [f"{task} {cell} {backend}" for task in TASKS for cell in CELLS for backend in ("fused", "torch")]

# Settings that make the compiler, numpy and torch believe in other processors; PROCESSOR is this file's own.
# They cannot change the maker's name, so MKL computes as it does on this processor.
HOSTS = {
    "with AVX-512": {
        "PROCESSOR": "skylake-avx512",
        "OPENBLAS_CORETYPE": "SkylakeX",
        "ATEN_CPU_CAPABILITY": "avx512",
        "MKL_CBWR": "AVX512",
    },
    "of AMD": {
        "PROCESSOR": "znver3",
        "OPENBLAS_CORETYPE": "Zen",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_CBWR": "AVX2",
    },
    "of 2013": {
        "PROCESSOR": "haswell",
        "OPENBLAS_CORETYPE": "Haswell",
        "NPY_DISABLE_CPU_FEATURES": "AVX512F AVX512CD AVX512_SKX AVX512_CLX AVX512_CNL AVX512_ICL",
        "ATEN_CPU_CAPABILITY": "default",
        "MKL_CBWR": "COMPATIBLE",
    },
}


def rows(stack: str) -> dict:
    """History, trials and the weights' checksum of a stack, trained as amu-run trains it."""
    task, cell, backend = stack.split()
    with tempfile.TemporaryDirectory() as folder:
        run = ["training.max_sequences=60", "training.evaluate_every=20", "training.stop=null", "trials=2"]
        model = [f"model={cell}", "model.parameters=null", "model.units=4", f"backend={backend}"]
        if cell == "amu_tframe":  # as the unit was before it had other readings
            model += ["model.gradient=full", f"model.output={'neuron' if task == 'embedded_reber' else 'memory'}"]
        assert main([*TASKS[task], *model, *run, "threads=1", f"results_dir={folder}"]) == 0
        (made,) = Path(folder).rglob("trials-0-1")
        with np.load(made / "weights.npz") as weights:
            digest = hashlib.sha256(b"".join(weights[name].tobytes() for name in sorted(weights))).hexdigest()
        tables = {name: pd.read_csv(made / f"{name}.csv", dtype=str) for name in ("history", "trials")}
    return {
        name: [",".join(map(str, row)) for row in table.drop(columns="seconds").itertuples(index=False)]
        for name, table in tables.items()
    } | {"weights": digest}


def data() -> dict[str, str]:
    """A checksum of the data of one trial of every task that computes them; the others read files."""
    found = {}
    for task, path in choices("task").items():
        options = yaml.safe_load(path.read_bytes()).get("task", {})
        if options.get("problem", "time_series") in ("time_series", "chorales"):
            continue
        made = make_task(options, [0])
        parts = [made.train_batch(0, 20), made.validation(), made.test()]
        arrays = [array for part in parts for array in (part.inputs, part.lengths, part.targets)]
        found[task] = hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]
    return found


def golden() -> dict:
    """The rows for this portable processor, and those in torch for processors of its maker, if the file has any."""
    rows = json.loads(ROWS.read_text())
    return rows[numerics.portable_name()] | rows.get(str(numerics.maker_name()), {})


@pytest.mark.parametrize("stack", STACKS)
def test_a_stack_gives_its_rows(stack):
    assert stack in golden(), f"no rows for processors of {numerics.maker_name()}; python {__file__} writes them"
    assert rows(stack) == golden()[stack]


def test_the_data_of_a_task_are_known():
    assert data() == golden()["data"]


@pytest.mark.parametrize("host", HOSTS)
def test_another_processor_gives_the_same_rows_and_data(host):
    stacks = ["two_sequence amu fused", "two_sequence lstm torch"]
    environment = os.environ | HOSTS[host]
    done = subprocess.run(
        [sys.executable, __file__, *stacks], env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == {name: golden()[name] for name in ("data", *stacks)}


if __name__ == "__main__":
    if processor := os.environ.get("PROCESSOR"):
        llvm.get_host_cpu_name, llvm.get_host_cpu_features = lambda: processor, FeatureMap
    asked = sys.argv[1:]
    made = {"data": data()} | {stack: rows(stack) for stack in asked or STACKS}
    if asked:
        print(json.dumps(made))
    else:
        kept = json.loads(ROWS.read_text()) if ROWS.exists() else {}
        torch = {stack: made.pop(stack) for stack in STACKS if stack.endswith("torch")}
        kept |= {numerics.portable_name(): made, str(numerics.maker_name()): torch}
        ROWS.write_text(json.dumps(kept, indent=1) + "\n")
