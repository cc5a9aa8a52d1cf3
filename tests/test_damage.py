"""Random damage to a small store: reports are made of the rest, and name what was damaged."""

import random
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from handmade import TASK, write

from amu_experiments import stack_files
from amu_experiments.analysis.mechanism_tables import PHASES
from amu_experiments.analysis.report import ReportError, write_report

KEYS = ("trial", "status", "sequences", "seconds", "parameters", "identity", "unit", "step", "lag")
"""Columns in which every value of `WRONG` is one that no training and no measurement gives."""

WRONG = ("inf", "-1", "", "many", "-inf", "nan")


def seal(stack: Path) -> None:
    """Give a stack the checksums that one trained today has."""
    names = ("weights.npz", "confusion.csv", "history.csv", "trials.csv")
    stack_files.write_stack(stack, {name: (stack / name).read_bytes() for name in names})


def make(root: Path) -> None:
    """A store with two tasks, stacks with and without checksums and an unfinished one; studies beside its report."""
    runs, out = root / "runs", root / "out"
    identities = {}
    for cell, ends in (("amu", [300, 400, None]), ("lstm", [700, None, "diverged"]), ("gru", [500, 600, 700])):
        for variant in ("noise_free", "noisy_input"):
            folder = write(runs, cell, ends, task={"variant": variant}).folder
            identities[cell] = folder.name
            weights = {"trial": np.arange(3), "parameters": np.zeros((3, 42), np.float32)}
            np.savez(folder / "trials-0-2" / "weights.npz", **weights)
            confusion = {"trial": [0, 0, 1], "true_class": "no", "answered_class": ["no", "yes", "no"], "answers": 7}
            pd.DataFrame(confusion).to_csv(folder / "trials-0-2" / "confusion.csv", index=False)
            if cell != "gru":
                seal(folder / "trials-0-2")
    begun = folder / "trials-3-5"
    begun.mkdir()
    shutil.copy(folder / "trials-0-2" / "provenance.json", begun)
    (begun / "checkpoint.pt").write_bytes(b"half way")
    for name, table in mechanism(identities).items():
        (out / "mechanism").mkdir(parents=True, exist_ok=True)
        table.to_csv(out / "mechanism" / f"{name}.csv.gz", index=False)
    (out / "tuning").mkdir()
    for path in ("tuning/adding-amu", "tuning/adding-lstm", "readings", "speed"):
        (out / f"{path}.csv").write_text("rate,trials,note\n0.01,3,slow\n0.1,3,fast\n")
    (out / "speed.json").write_text('{"caption": "How fast it is."}\n')


def mechanism(identities: dict[str, str]) -> dict[str, pd.DataFrame]:
    flow, trials, traces = [], [], []
    for model, identity in identities.items():
        row = {"task": TASK["problem"], "model": model, "identity": identity}
        for phase in PHASES:
            phased = row | {"phase": phase, "flow": "full"}
            flow += [phased | {"lag": lag} | {f"relative_{q}": 0.9**lag for q in QUARTILES} for lag in (1, 9, 99)]
            trials += [phased | {"trial": n, "quantity": "conflict", "value": 0.1 + n / 10} for n in range(3)]
        steps = [(step, unit) for step in range(3) for unit in range(2)]
        own = row | {"trial": 0, "sequence": 0}
        traces += [own | {"step": step, "unit": unit, "memory": 0.5, "output": 0.25} for step, unit in steps]
    return {"flow": pd.DataFrame(flow), "trials": pd.DataFrame(trials), "traces": pd.DataFrame(traces)}


QUARTILES = ("low", "median", "high")


def damage(path: Path, chance: random.Random, files: list[Path]) -> bool:
    """Damage a file, or put something else in its place; whether that must show whatever the file is."""
    before = path.read_bytes()
    kind = chance.choice(("cut", "flip", "remove", "twice", "row", "folder", "link", "empty", "other", "number"))
    sure = False
    if kind == "cut":
        path.write_bytes(before[: chance.randrange(len(before))])
        sure = path.suffix == ".gz" or path.suffix == ".csv" and not path.read_bytes().endswith(b"\n")
    elif kind == "flip":
        place = chance.randrange(len(before))
        path.write_bytes(before[:place] + bytes([before[place] ^ chance.randrange(1, 256)]) + before[place + 1 :])
    elif kind == "remove":
        path.unlink()
        sure = (
            path.name not in ("sums.json", "weights.npz", "confusion.csv", "checkpoint.pt")
            and path.parent.name != "out"
        )
        sure = sure and path.parent.name != "tuning"
    elif kind == "twice":
        path.write_bytes(before * 2)
        sure = path.name in (
            "trials.csv",
            "history.csv",
            "confusion.csv",
            "provenance.json",
            "flow.csv.gz",
            "traces.csv.gz",
            "trials.csv.gz",
        )
    elif kind == "row":
        lines = before.splitlines(keepends=True)
        place = chance.randrange(len(lines))
        path.write_bytes(b"".join([*lines[:place], lines[place], *lines[place:]]))
        sure = path.name in ("trials.csv", "history.csv", "confusion.csv") and path.parent.name == "trials-0-2"
    elif kind == "folder":
        path.unlink()
        path.mkdir()
        sure = True
    elif kind == "link":
        path.unlink()
        path.symlink_to(chance.choice([Path("nowhere"), path.name, "/dev/zero"]))
        sure = True
    elif kind == "empty":
        path.write_bytes(b"")
        sure = True
    elif kind == "other":
        path.write_bytes(chance.choice([bytes(range(256)), b"\x1f\x8b" + before, b"[" * 9999, b"{}"]))
        sure = True
    elif path.suffix in (".csv", ".gz"):
        table = pd.read_csv(path, dtype=str)
        row, column = chance.randrange(len(table)), chance.randrange(len(table.columns))
        value = chance.choice(WRONG)
        table.iloc[row, column] = value
        table.to_csv(path, index=False)
        sure = table.columns[column] in KEYS and path.parent.name in ("trials-0-2", "mechanism")
        # As text, an identity can be anything but nothing, and a status is one of three.
        sure = sure and not (table.columns[column] == "identity" and value not in ("", "nan"))
    if path.name == "checkpoint.pt":
        return False  # which reports do not read: they name its stack in any case
    return sure or (_sealed(path) and _differs(path, before))


def _sealed(path: Path) -> bool:
    stack = path.parent
    if path.name == "config.yaml":
        return True
    return path.name in ("trials.csv", "history.csv", "confusion.csv", "weights.npz") and (stack / "sums.json").exists()


def _differs(path: Path, before: bytes) -> bool:
    if path.name == "config.yaml" and path.is_file():
        try:
            return yaml.safe_load(path.read_bytes()) != yaml.safe_load(before)
        except (yaml.YAMLError, ValueError):
            return True
    return not path.is_file() or path.read_bytes() != before


def attempt(root: Path, seed: int, parts: list[str]) -> None:
    """Damage some files of a fresh store, and report it."""
    make(root)
    chance = random.Random(seed)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    surely = [path for path in chance.sample(files, chance.choice((1, 1, 2, 4))) if damage(path, chance, files)]
    folders = sorted((root / "runs").glob("*/*/*")) + sorted((root / "runs").glob("*/*/*/trials-*"))
    if chance.random() < 0.1:
        folder = chance.choice(folders)
        shutil.rmtree(folder)
        chance.choice([folder.touch, lambda: folder.symlink_to("nowhere")])()
        surely.append(folder)
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*") if not path.is_relative_to(root / "out")}
    outside = set(root.parent.iterdir())
    try:
        lines = write_report(root / "runs", root / "out", parts=parts)
    except ReportError as error:
        lines = str(error).splitlines()
    assert set(root.parent.iterdir()) == outside
    assert before == {path: path.lstat().st_mtime_ns for path in before}
    told = [line for line in lines if line.startswith(("Left out: ", "Not finished: "))]
    if root / "out" / "speed.csv" in surely:  # then its caption is not read
        surely = [path for path in surely if path.name != "speed.json"]
    for path in surely:
        # A line may also name a folder of the file, or the config.yaml there: without that, the folder is not read.
        names = [str(path), *(str(folder) for folder in folders if folder in path.parents)]
        names += [f"{name}/config.yaml" for name in names]
        assert any(line.partition(": ")[2].partition(": ")[0] in names for line in told), (seed, path, told)


@pytest.mark.filterwarnings("error")
def test_whatever_is_damaged_is_named_and_the_rest_is_reported(tmp_path, number):
    for seed in range(number(8, 500)):
        # Figures take most of the time.
        parts = ["tables", "figures"] if seed % 8 == 0 else ["tables"]
        attempt(tmp_path / str(seed), seed, parts)
