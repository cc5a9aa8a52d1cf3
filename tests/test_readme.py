"""What the README tells a newcomer to write and to type is tried as it stands there."""

import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from amu_experiments import store
from amu_experiments.analysis.comparison import compare
from amu_experiments.analysis.report import main as report
from amu_experiments.cells import cell_class
from amu_experiments.cli import main
from amu_experiments.conf_files import conf_dir
from amu_experiments.overrides import load_all
from amu_experiments.scans.__main__ import main as print_source
from amu_experiments.tasks import criteria_of, make_task, task_class

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text()


def code_after(heading: str) -> str:
    """The fenced block below a line that names a file."""
    return re.search(rf"^`{re.escape(heading)}`\n\n```\w+\n(.*?)^```$", TEXT, re.M | re.S)[1]


@pytest.fixture
def conf(tmp_path, monkeypatch):
    """The README's cell and task in a folder, which is the current one."""
    for name in ("atr.py", "parity.py", "my/conf/model/atr.yaml", "my/conf/task/parity.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code_after(name))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path / "my/conf"
    for name in ("atr", "parity"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A folder with the files that the wheel installs, made from the sdist, without the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    pack = [sys.executable, "-m", "hatchling", "build", "--target", "sdist", "--directory", str(folder)]
    subprocess.run(pack, cwd=README.parent, check=True, capture_output=True)
    (source,) = folder.glob("*.tar.gz")
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    zipfile.ZipFile(file).extractall(folder / "site")
    return folder / "site"


TYPED = """
import shlex, sys
import amu_experiments
from amu_experiments.cli import main
from amu_experiments.conf_files import conf_dir
print(amu_experiments.__file__)
sys.exit(any([main(shlex.split(command)[1:]) for command in sys.argv[1:]]))
"""
"""A process that runs the commands in its arguments."""


def test_the_cell_and_the_task_of_the_readme_train_as_typed_with_the_wheel(conf, tmp_path, wheel, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(wheel))
    sizes = "training.max_sequences=40 training.evaluate_every=20 trials=2 backend=torch task.T=20"
    own = [f"{each} {sizes}" for each in commands() if "task=parity" in each or "task=adding model=atr" in each]
    # As for an installed command, the path has no current folder (-P).
    process = [sys.executable, "-P", "-c", TYPED, *own, "amu-run --config-dir my/conf --help"]
    ended = subprocess.run(process, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert Path(ended.stdout.splitlines()[0]).is_relative_to(wheel)
    results = store.read_results(tmp_path / "results" / "runs")
    assert {(result.task, result.model) for result in results} == {
        ("parity", "amu"),
        ("parity", "atr"),
        ("adding", "atr"),
    }
    assert {result.config["model"]["cell"] for result in results} == {"amu", "atr.ATR"}
    assert {result.config["task"]["problem"] for result in results} == {"adding", "parity.Parity"}
    assert all(len(result.trials) == 2 for result in results)
    labels = [label for comparison in compare(results) for label in comparison.labels]
    assert sorted(labels) == ["amu", "atr", "atr"]
    listed = ended.stdout.partition("Usage: ")[2]
    assert "  atr " in listed
    assert "  parity " in listed


def test_the_compiled_form_of_the_readmes_cell_is_printed(conf, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["amu_experiments.scans", "atr.ATR"])
    print_source()
    assert "def " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("model.initial_range=-1", "model.initial_range=-1: must be a number above 0"),
        ("model.initial_range=0", "model.initial_range=0: must be a number above 0"),
        ("task.T=1", "task.T=1: must be a whole number from 2 to 1000"),
        ("task.T=2.5", "task.T=2.5: must be a whole number from 2 to 1000"),
    ],
)
def test_the_cell_and_the_task_of_the_readme_are_checked_like_any_other(conf, tmp_path, capsys, wrong, words):
    before = sorted(tmp_path.iterdir())
    assert main([f"--config-dir={conf}", "task=parity", "model=mgu", wrong]) == 2
    assert capsys.readouterr().err.startswith(f"amu-run: {words}")
    assert sorted(tmp_path.iterdir()) == before


def test_the_task_of_the_readme_is_parity(conf):
    """The numbers of ones in the strings, counted here, are odd where the target is 1."""
    (config,) = load_all(["task=parity"], config_dir=str(conf))
    parity = make_task(config["task"], [0])
    batch = parity.train_batch(0, 50)
    for bits, length, target in zip(batch.inputs[0], batch.lengths[0], batch.targets[0], strict=True):
        assert int(bits[:length].sum()) % 2 == int(target[0, 0])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("atrr.ATR", "atrr.ATR: no module atrr, neither installed nor in the current folder"),
        ("atr.sub.ATR", "atr.sub.ATR: no module atr.sub, neither"),
        ("atr.ATRR", "atr.ATRR: module atr has no class ATRR; it defines ATR"),
        ("atr.torch", "atr.torch: torch is not a subclass of amu_experiments.cells.cell.Cell"),
        ("atr.Cell", "atr.Cell: Cell is not a subclass of"),
        ("parity.Parity", "parity.Parity: Parity is not a subclass of"),
        ("parity.ATR", "parity.ATR: module parity has no class ATR; it defines no Cell"),
        ("lacks.A", "lacks.A: ModuleNotFoundError: No module named 'not_there' ({folder}/lacks.py, line 2)"),
        ("wrong.A", "wrong.A: ZeroDivisionError: division by zero ({folder}/wrong.py, line 1)"),
        ("shape.A", "shape.A: ValueError: need at least one array to stack ({folder}/shape.py, line 3)"),
        ("syntax.A", "syntax.A: SyntaxError: invalid syntax ({folder}/syntax.py, line 1)"),
        ("leaves.A", "leaves.A: SystemExit: 3 ({folder}/leaves.py, line 2)"),
        ("..A", "'..A' is not a cell; choose one of amu"),
        ("atrr", "'atrr' is not a cell; choose one of amu"),
    ],
)
def test_a_wrong_name_of_a_cell_is_an_error_in_one_line(conf, tmp_path, capsys, name, words):
    files = {
        "lacks": "\nimport not_there\n",
        "wrong": "1 / 0\n",
        "shape": "import numpy\n\nnumpy.stack([])\n",
        "syntax": "def = 3\n",
        "leaves": "import sys\nsys.exit(3)\n",
    }
    for module, text in files.items():
        (tmp_path / f"{module}.py").write_text(text)
    (conf / "model" / "own.yaml").write_text(f"cell: {name}\n")
    assert main([f"--config-dir={conf}", "task=parity", "model=own"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"amu-run: model.cell: {words.format(folder=tmp_path)}")
    assert error.count("\n") == 1


def test_an_installed_package_names_its_cells_and_tasks_by_entry_points(conf, tmp_path):
    metadata = tmp_path / "more_cells-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: more_cells\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text(
        "[amu_experiments.cells]\ngated = atr:ATR\n[amu_experiments.tasks]\nodd = parity:Parity\n"
    )
    sys.path.append(str(tmp_path))
    assert cell_class("gated").__name__ == "ATR"
    assert task_class("odd").__name__ == "Parity"
    with pytest.raises(ValueError, match="ugrnn, gated, or write"):
        cell_class("gate")


def test_reading_results_runs_no_code_of_the_current_folder(conf):
    assert criteria_of({"problem": "parity.Parity", "criteria": {"a": {"b": "< 1"}}}) == {"a": {"b": "< 1"}}
    assert "parity" not in sys.modules


def test_the_data_of_the_readme_train_as_typed_and_are_reported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    for part in ("TRAIN", "TEST"):
        (tmp_path / "my" / f"DATA_{part}.ts").write_text(code_after("my/DATA_TRAIN.ts"))
    (command,) = (each for each in commands() if "task.path=my/" in each)
    sizes = ["training.max_sequences=40", "training.evaluate_every=20", "backend=torch"]
    assert main([*shlex.split(command)[1:], *sizes]) == 0
    (result,) = store.read_results(tmp_path / "results" / "runs")
    assert (result.task, result.model, len(result.trials)) == ("data", "gru", 10)
    assert report([]) == 0
    assert (tmp_path / "results" / "report" / "index.html").exists()


def test_the_layer_of_the_readme_has_the_shape_that_its_comment_states():
    names = {}
    (code,) = re.findall(r"^```python\n(import torch\nfrom amu_experiments import AMU\n.*?)^```$", TEXT, re.M | re.S)
    exec(code, names)
    assert names["output"].shape == (4, 100, 8)
    assert names["h"].numel() == 4 * 3 * 8
    assert names["s"].numel() == 4 * 8


def test_the_layer_of_the_readme_goes_to_torch_and_back():
    names = {}
    (code,) = re.findall(r"^```python\n(import torch\nfrom amu_experiments import LSTM\n.*?)^```$", TEXT, re.M | re.S)
    exec(code, names)
    x = names["torch"].randn(5, 2, 10)
    layers = [names[name].eval() for name in ("layer", "reference")]
    names["torch"].testing.assert_close(*(layer(x) for layer in layers), rtol=0, atol=1e-5)


def test_the_first_commands_of_the_readme_are_those_that_are_tried_on_a_fresh_machine():
    tried = re.findall(r"^pip install .*$", (README.parent / ".ci" / "run").read_text(), re.M)
    assert re.findall(r"^    (pip install .*)$", TEXT, re.M) == tried


def commands() -> list[str]:
    typed = re.findall(r"^    (?:pip install \S+ && )?(amu-run .*)$", TEXT, re.M)
    return typed + re.findall(r"`(amu-run (?:--config-dir \S+ )?(?:-m )?(?:task|experiment)=[^`]*)`", TEXT)


@pytest.mark.parametrize("command", commands())
def test_every_command_of_the_readme_is_a_valid_one(conf, command):
    words = shlex.split(command, comments=True)[1:]
    if {"--help", "--cfg"} & set(words):
        assert main(words) == 0
        return
    sweep, config_dir = "-m" in words, str(conf) if "my/conf" in words else None
    words = [word for word in words if word not in ("-m", "--config-dir", "my/conf")]
    configs = load_all(words, sweep, config_dir)
    assert len(configs) > 1 or not sweep


def test_the_files_that_the_readme_points_to_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
        assert (README.parent / target).exists(), target


def test_every_promise_of_the_readme_names_the_test_that_proves_it():
    promises = re.search(r"^## Promises\n(.*?)^## ", TEXT, re.M | re.S)[1].split("\n- ")[1:]
    assert len(promises) > 10
    for promise in promises:
        assert re.search(r"\[(test_\w+)\]\(tests/\1\.py\)", promise), promise


def test_the_numbers_of_the_search_are_those_of_the_plan():
    plan = yaml.safe_load((conf_dir() / "tuning.yaml").read_text())
    words = {3: "three", 8: "eight", 12: "twelve"}
    section = " ".join(README.read_text().partition("## Tuning\n")[2].partition("\n## ")[0].split())
    assert f"the best {words[plan['finalists']]} get {words[plan['final_trials']]} trials" in section
    assert (
        f": {plan['configurations']} with {words[plan['trials']]} trials each, and up to {plan['most']} while"
        in section
    )
