"""The command amu-tune: equal budgets, files that amu-run reads, and the same choice however often it is stopped."""

import re
import shlex
import signal
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pytest
from commands import Command, tune

from amu_experiments.cli import main as amu_run
from amu_experiments.conf_files import choices
from amu_experiments.overrides import load, load_all
from amu_experiments.store import read_results
from amu_experiments.studies import tuning
from amu_experiments.tune import main

README = (Path(__file__).parents[1] / "README.md").read_text()

SHORT = ("task=adding", "task.T=8", "task.validation_size=8", "training.max_sequences=40", "backend=torch")

FEW = ("--configurations=2", "--most=3", "--first=2", "--trials=1", "--finalists=1", "--final-trials=2")

NEITHER = """
import torch
from amu_experiments.cells.rnn import RNN


class Plain(RNN):
    def __init__(self, *sizes, slope: float = 1.0, **common):
        self.slope = slope
        super().__init__(*sizes, **common)
"""
"""A module with a cell whose file does not set initial_range."""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my/conf/model").mkdir(parents=True)
    (tmp_path / "my/conf/model/plain.yaml").write_text("# A cell of the user.\ncell: neither.Plain\nslope: 1.0\n")
    (tmp_path / "neither.py").write_text(NEITHER)
    return tmp_path


@pytest.fixture
def dry(monkeypatch):
    """Nothing is trained; the plans of the searches."""
    plans = []
    monkeypatch.setattr(tuning, "tune", lambda plan, *_: plans.append(plan))
    return plans


def written(folder: Path) -> dict[str, bytes]:
    """The grids and the experiments."""
    paths = [*folder.glob("results/report/tuning/*"), *folder.glob("my/conf/experiment/*/*")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def changed(point: list[float], other: list[float]) -> int:
    """On how many axes two configurations differ."""
    return sum(one != two for one, two in zip(point, other, strict=True))


def test_killed_again_and_again_it_has_the_same_grid(tmp_path, number):
    arguments = [*SHORT, "model=mgu,lstm", *FEW, "--most=2"]
    kills = [15, 25, 35, 20, 30][: number(2, 5)]
    folders = [tmp_path / name for name in ("whole", "parts")]
    for place in folders:
        place.mkdir()
    assert Command(tmp_path / "out", tune, folders[0], 10**9, *arguments).end() == 0
    for calls in kills:
        assert Command(tmp_path / "out", tune, folders[1], calls, *arguments).end() == -signal.SIGKILL
    assert Command(tmp_path / "out", tune, folders[1], 10**9, *arguments).end() == 0
    whole, parts = map(written, folders)
    assert len(whole) == 5
    assert whole == parts


def test_every_model_gets_as_much_and_a_cell_without_an_axis_of_its_own_too(folder, capsys):
    assert main([*SHORT, "trials=4", "model=plain,mgu", *FEW]) == 0
    said = capsys.readouterr().out
    assert "plain has no initial_range and no file tuning/plain.yaml: it is tuned on two axes, with as many" in said
    assert "At most 2 x 5 trials x 40 sequences = 400 sequences." in said
    assert said.count("sequences/s; at this speed, 5 trials take") == 2
    tables = {path.stem: pd.read_csv(path) for path in (folder / "results/report/tuning").iterdir()}
    assert tables.keys() == {"adding_tuned-plain", "adding_tuned-mgu"}
    assert len({len(table) for table in tables.values()}) == 1
    for table in tables.values():
        assert set(table["trials"]) == {1}
        assert set(table["max_sequences"]) == {40}
        assert table["final_trials"].dropna().tolist() == [2]
        # Half of so few configurations are neighbours of others, although --first asks for all of them.
        points = table.loc[:, :"max_sequences"].iloc[:, :-1].fillna(0).values.tolist()
        assert all(any(changed(point, other) == 1 for other in points) for point in points)
    assert "model.initial_range" in tables["adding_tuned-mgu"]
    assert not any(column.startswith("model.") for column in tables["adding_tuned-plain"])
    # What was tuned is what an experiment trains, on other trials, under the same protocol.
    names = re.search(r"^  (amu-run .*)$", said, re.M)[1]
    configs = load_all(shlex.split(names)[4:], True, "my/conf")
    for config, name in zip(configs, ("plain", "mgu"), strict=True):
        best = tables[f"adding_tuned-{name}"].iloc[0]
        assert config["training"]["learning_rate"] == best["training.learning_rate"]
        assert (config["task"]["T"], config["trials"], config["training"]["max_sequences"]) == (8, 4, 40)
    trials = {trial for result in read_results("results/runs/tuning") for trial in result.trials["trial"]}
    assert trials == {10_000, 10_001}
    assert read_results("results/runs") == []
    assert names.endswith(" trials=4")
    assert not re.search(r"=inf|\d\.\d{8}", said)
    assert "nothing was trained" not in said
    # The same command trains nothing, and says so.
    assert main([*SHORT, "trials=4", "model=plain,mgu", *FEW]) == 0
    assert "adding_tuned: nothing was trained; all trials existed." in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ("task=adding", "task.T=9", "trials=7", "training.stop=null"),
        ("task=adding", "training=sgd", "training.batch_size=4"),
        ("experiment=copy_memory/base", "training.max_sequences=100"),
        ("experiment=two_sequence_3a/base", "training=sgd"),
        ("task=time_series", "task.name=UnitTest", "task.criteria={good: {accuracy: '> 0.9'}}"),
        ("task=embedded_reber", "model.units=4", "task.targets=legal"),
    ],
)
def test_the_base_that_is_written_is_the_protocol_of_the_words(folder, dry, words):
    assert main([*words, "model=mgu", "--name", "mine"]) == 0
    assert load_all(["experiment=mine/base", "model=mgu"], config_dir="my/conf") == [load(*words, "model=mgu")]


def test_a_file_names_the_setting_of_its_own(folder, dry):
    (folder / "my/conf/tuning").mkdir()
    (folder / "my/conf/tuning/plain.yaml").write_text("key: model.slope\nvalues: [0.5, 1.0, 2.0]\n")
    assert main(["task=adding", "model=plain,lstm,cfn"]) == 0
    axes = {name: model["axes"][1] for name, model in dry[0]["models"].items()}
    assert axes["plain"] == {"key": "model.slope", "values": [0.5, 1.0, 2.0], "start": [0.5, 1.0, 2.0]}
    assert axes["lstm"]["key"] == "model.forget_bias"
    assert axes["cfn"]["start"] == pytest.approx([0.0175, 0.035, 0.07, 0.14])  # its default is 0.07
    for axis in (0, 2):
        assert len({str(model["axes"][axis]) for model in dry[0]["models"].values()}) == 1


def test_every_model_can_be_tuned_and_has_an_axis_of_its_own(folder, dry):
    """All values of all axes are allowed."""
    assert main(["task=adding", f"model={','.join(choices('model'))}"]) == 0
    assert dry[0]["models"].keys() == choices("model").keys()
    assert {len(model["axes"]) for model in dry[0]["models"].values()} == {3}
    assert choices("tuning").keys() <= choices("model").keys()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("- 1", "must have key and values, and may have start"),
        ("key: model.slope", "must have key and values"),
        ("{key: model.slope, values: [1.0, 2.0], first: [1.0]}", "must have key and values"),
        ("{key: slope, values: [1.0, 2.0]}", "key=slope: must be a key of the model, such as model.beta"),
        ("{key: model.slope, values: 1.0}", "values=1.0: must be a list of two or more different values"),
        ("{key: model.slope, values: [1.0, 1.0]}", "values=[1.0, 1.0]: must be a list of two or more"),
        ("{key: model.slope, values: [1.0, 2.0], start: [3.0]}", "start=[3.0]: must be a list of some of the values"),
        ("{key: model.slop, values: [1.0, 2.0]}", "model.slop=1.0: no such key"),
        ("{key: model.slope, values: [1.0, steep]}", "model.slope=steep: must be a number"),
        ("key: [", "cannot be read"),
    ],
)
def test_a_wrong_file_of_a_setting_gets_one_line(folder, capsys, text, words):
    (folder / "my/conf/tuning").mkdir()
    (folder / "my/conf/tuning/plain.yaml").write_text(text)
    assert words in told(capsys, "task=adding", "model=plain")


def told(capsys, *words) -> str:
    """The one line that a wrong command gets; it writes nothing."""
    before = sorted(Path().rglob("*.[cy]*"))
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    assert status == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("amu-tune: ")
    assert sorted(Path().rglob("*.[cy]*")) == before
    return line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("task=adding", "no model is given; write model=NAME or model=NAME,NAME"),
        ("model=lstm", "no task is given"),
        ("task=adding model=lsmt", "model=lsmt: no such model"),
        ("task=adding model=lstm,lstm", "names a model twice"),
        ("task=adding,two_sequence model=lstm", "only model= takes several values"),
        ("task=adding model=lstm task.T=10,20", "only model= takes several values"),
        ("task=adding model=lstm task.T=1e9", "task.T=1000000000.0: must be"),
        ("task=adding model=lstm task.TT=1", "task.TT=1: no such key"),
        ("task=adding model.cell=a.B", "needs a file model/NAME.yaml with the line cell: a.B"),
        ("experiment=adding/lstm model=mgu", "has a model of its own; write experiment=adding/base"),
        ("task=adding model=lstm training.clip_norm=1", "training.clip_norm=1: amu-tune tries values of this key"),
        ("task=adding model=gru,lstm model.forget_bias=1", "model.forget_bias=1: no such key; model gru"),
        (
            "task=adding model=lstm model.forget_bias=1",
            "forget_bias=1: amu-tune tries values of this key for lstm",
        ),
        ("task=adding model=lstm hydra/launcher=basic", "amu-tune starts no other processes"),
        ("task=adding model=lstm seed=9995", "seed=9995, trials=10: tuning has the trials 10000 to 10011"),
        ("task=adding model=lstm --name adding", "--name adding: this is an experiment of amu_experiments"),
        ("task=adding model=lstm --name ../x", "--name ../x: must be up to 60 letters, digits and _"),
        ("task=adding model=lstm --trials 0", "--trials: 0: must be a whole number from 1"),
        ("task=adding model=lstm --final-trials 2", "--final-trials 2: must be 3 or more"),
        ("task=adding model=lstm --most 5", "--most 5: must be 20 configurations or more"),
        ("task=adding model=lstm --configurations 900", "--most 904: the axes of lstm have only 840 configurations"),
        ("task=adding model=lstm device=cuda:99", "device=cuda:99: not available here"),
        ("task=adding model=lstm --out neither.py", "--out neither.py: is a file; give a folder"),
        ("task=adding model=lstm --config-dir neither.py", "--config-dir neither.py: is a file; give a folder"),
        ("task=adding model=lstm --nothing", "unrecognized arguments: --nothing"),
    ],
)
def test_a_wrong_command_gets_one_line_and_writes_nothing(folder, capsys, words, line):
    assert line in told(capsys, *words.split())


def test_another_protocol_of_the_same_name_is_refused(folder, dry, capsys):
    assert main(["task=adding", "model=mgu"]) == 0
    assert main(["task=adding", "model=lstm"]) == 0  # more models, one protocol
    capsys.readouterr()
    for other, line in (
        ("task.T=50", "base.yaml: has another protocol; give another --name, or remove this folder"),
        ("--configurations=10", "base.yaml: was tuned with --configurations 20 --most 24; give the same, or another"),
        ("--trials=2", "base.yaml: was tuned with --trials 3; give the same, or another --name"),
    ):
        assert line in told(capsys, "task=adding", "model=mgu", other)


def test_more_configurations_later_end_as_if_all_had_them_from_the_start(tmp_path, monkeypatch, capsys):
    ends = []
    for name, numbers in (("grown", ([], ["--configurations=4", "--most=4"])), ("whole", (["--configurations=4"],))):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        for number in numbers:
            assert main([*SHORT, "model=mgu,lstm", *FEW, "--most=2", *number, *(["--most=4"] if number else [])]) == 0
        ends.append(written(tmp_path / name))
    assert len(ends[0]) == 5
    assert ends[0] == ends[1]
    assert "The best of 4 configurations" in capsys.readouterr().out
    more = [*SHORT, *FEW, "--configurations=5", "--most=5"]
    assert "lstm had at most 4 configurations; for more, name every model" in told(capsys, *more, "model=mgu")
    assert "was tuned with --configurations 4 --most 4; give the same" in told(capsys, *SHORT, *FEW, "model=mgu,lstm")


def test_unequal_numbers_of_configurations_are_said(folder, dry, capsys):
    assert main(["task=adding", "model=mgu"]) == 0
    for name, rows in (("lstm", 20), ("mgu", 24)):
        (folder / f"my/conf/experiment/adding_tuned/{name}.yaml").touch()
        (folder / f"results/report/tuning/adding_tuned-{name}.csv").write_text("a\n" + "1\n" * rows)
    capsys.readouterr()
    assert main(["task=adding", "model=mgu"]) == 0
    assert "Unequal numbers of configurations: lstm 20, mgu 24." in capsys.readouterr().out


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"amu-tune {version('amu-experiments')}\n"


def test_the_commands_of_the_readme_tune_as_typed(tmp_path, monkeypatch):
    conf = (f"my/conf/{name}.yaml" for name in ("model/atr", "task/parity", "tuning/atr"))
    for name in ("atr.py", "parity.py", *conf):
        code = re.search(rf"^`{re.escape(name)}`\n\n```\w+\n(.*?)^```$", README, re.M | re.S)[1]
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    section = README.partition("## Tuning\n")[2].partition("\n## ")[0]
    typed = [shlex.split(line, comments=True)[1:] for line in section.splitlines() if line.startswith("    amu-tune")]
    assert len(typed) == 2
    less = ["task.T=5", "training.max_sequences=4", "training.evaluate_every=2", "trials=2", "backend=torch", *FEW]
    for words in typed:
        assert main([*words, *less]) == 0
    assert amu_run(["--config-dir=my/conf", "-m", "experiment=quick/atr,quick/gru"]) == 0
    assert {result.model for result in read_results("results/runs")} == {"atr", "gru"}
