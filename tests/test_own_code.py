"""Runs of users' own cells and tasks: changed code is another run, and a changed comment is not."""

import importlib
import sys

import pytest
import torch

from amu_experiments import LSTM, load_network, load_results, run
from amu_experiments.options import ConfigurationError
from amu_experiments.own_code import code_of
from amu_experiments.tasks.adding import Adding

CELL = '''
"""A cell."""

import own_helpers
from amu_experiments.cells.cell import Cell, recur


class Mine(Cell):
    """One product."""

    states = ("h",)

    @staticmethod
    def shapes(input_size, hidden_size):
        return {"weight_ih": (hidden_size, input_size), "weight_hh": (hidden_size, hidden_size), "bias": (hidden_size,)}

    def step(self, net_RBK, state):
        (h,) = state
        h = own_helpers.SCALE * (net_RBK + recur(h, self.weight_hh)).tanh()
        return h, (h,)
'''

SMALL = {"training.max_sequences": 20, "training.evaluate_every": 10, "training.stop": None, "model.units": 2}
WORDS = ("task=adding", "task.T=5", "task.validation_size=4", "task.test_size=4", "model=mine")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a user's cell, which is the current one; what is imported from it is forgotten afterwards."""
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text("cell: own_cells.Mine\nunits: null\nparameters: 30\n")
    (tmp_path / "own_cells.py").write_text(CELL)
    (tmp_path / "own_helpers.py").write_text("SCALE = 0.5\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    forget()


def forget():
    """As a new process."""
    importlib.invalidate_caches()
    for name in ("own_cells", "own_helpers"):
        sys.modules.pop(name, None)


def trained(trials=1):
    forget()
    (result,) = run(*WORDS, trials=trials, config_dir="conf", **SMALL)
    return result


def digest():
    forget()
    return code_of(importlib.import_module("own_cells").Mine)


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("own_cells.py", "return h, (h,)", "return -h, (h,)"),
        ("own_cells.py", ".tanh()", ".sigmoid()"),
        ("own_helpers.py", "0.5", "0.25"),
    ],
)
def test_changed_code_is_another_run(folder, file, old, new):
    before = trained()
    path = folder / file
    path.write_text(path.read_text().replace(old, new))
    after = trained()
    assert before.folder != after.folder
    assert before.trials["loss"][0] != after.trials["loss"][0]
    forget()
    with pytest.raises(ConfigurationError, match="the code of Mine has changed since it trained this run"):
        load_network(before, 0)
    assert len(load_results("results/runs")) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""One product."""', '"""One product, and a tanh.\n\n    See Elman."""'),
        ('"""One product."""', ""),
        ("(h,) = state", "(h,) = state  # of one part"),
        ("\n\n\nclass", "\n\n\n# Mine.\n\n\nclass"),
    ],
)
def test_comments_docstrings_and_layout_change_nothing(folder, old, new):
    before = digest()
    path = folder / "own_cells.py"
    path.write_text(path.read_text().replace(old, new))
    assert digest() == before != {}


def test_the_same_code_trains_only_what_is_missing(folder):
    first, second = trained(), trained(trials=2)
    assert first.folder == second.folder
    assert second.trials["trial"].tolist() == [0, 1]
    network = load_network(second, 1)
    assert network.measure(network.data("test"))["loss"] == pytest.approx(second.trials["test_loss"][1], rel=1e-6)


@pytest.mark.parametrize("new", ["return -h, (h,)", "return h, (2 * h,)", "return h, (h"])
def test_a_file_that_changed_after_its_import_is_an_error(folder, new):
    forget()
    kind = importlib.import_module("own_cells").Mine
    (folder / "own_cells.py").write_text(CELL.replace("return h, (h,)", new))
    with pytest.raises(
        ConfigurationError, match=r"own_cells\.py has changed since it was imported; start Python again"
    ):
        code_of(kind)


def test_a_reloaded_module_has_the_digest_of_its_new_code(folder):
    forget()
    module = importlib.import_module("own_cells")
    before = code_of(module.Mine)
    (folder / "own_cells.py").write_text(CELL.replace("h + 0", "h").replace(".tanh()", ".sigmoid()"))
    assert code_of(importlib.reload(module).Mine) != before


@pytest.mark.parametrize("kind", [LSTM, Adding, torch.nn.GRUCell])
def test_classes_whose_version_is_in_the_provenance_have_none(kind):
    assert code_of(kind) == {}
