"""Runs of users' own cells and tasks: changed code is another run, and a changed comment is not."""

import importlib
import sys
import types

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
    return code_of(importlib.import_module("own_cells").Mine, "own_cells.Mine")


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


@pytest.mark.parametrize("new", ["return -h, (h,)", "return h, (2 * h,)"])
def test_a_file_that_changed_after_its_import_is_an_error(folder, new):
    forget()
    kind = importlib.import_module("own_cells").Mine
    (folder / "own_cells.py").write_text(CELL.replace("return h, (h,)", new))
    with pytest.raises(
        ConfigurationError, match=r"own_cells\.py has changed since it was imported; start Python again"
    ):
        code_of(kind, "own_cells.Mine")


@pytest.mark.parametrize(
    ("name", "text"), [("own_cells", CELL.replace("tanh", "sigmoid")), ("own_helpers", "SCALE = 1\n")]
)
def test_a_reloaded_module_has_the_digest_of_its_new_code(folder, name, text):
    before = digest()
    (folder / f"{name}.py").write_text(text)
    importlib.reload(sys.modules[name])
    assert code_of(sys.modules["own_cells"].Mine, "own_cells.Mine") != before


@pytest.mark.parametrize(
    "text",
    [
        CELL.replace("import own_helpers", "import own_helpers\n\nFACTOR = 2"),
        CELL.replace("states = ", "factor = 2\n\n    states = "),
        CELL + "\n\ndef helper():\n    return 2\n",
        CELL.replace("h = own", "f = lambda: 2\n        h = own"),
    ],
    ids=["constant", "attribute", "function", "lambda"],
)
def test_a_changed_number_anywhere_in_the_file_is_an_error_until_it_is_imported_again(folder, text):
    path = folder / "own_cells.py"
    path.write_text(text)
    forget()
    kind = importlib.import_module("own_cells").Mine
    before = code_of(kind, "own_cells.Mine")
    path.write_text(text.replace("2", "33"))
    with pytest.raises(ConfigurationError, match=r"own_cells\.py has changed since it was imported"):
        code_of(kind, "own_cells.Mine")
    assert digest() != before


@pytest.mark.parametrize("place", ["import own_helpers", "states = "])
def test_a_constant_that_changed_before_the_first_run_is_an_error(folder, place):
    path = folder / "own_cells.py"
    path.write_text(CELL.replace(place, f"FACTOR = 2\n{'' if place[0] == 'i' else '    '}{place}"))
    forget()
    kind = importlib.import_module("own_cells").Mine
    path.write_text(path.read_text().replace("2", "33"))
    with pytest.raises(ConfigurationError, match="has changed since it was imported"):
        code_of(kind, "own_cells.Mine")


def test_a_counter_is_no_changed_constant(folder):
    path = folder / "own_cells.py"
    path.write_text(f"CALLS = 0\n\ndef count():\n    global CALLS\n    CALLS += 1\n\ncount()\n{CELL}")
    assert digest()


def test_a_changed_helper_is_an_error_until_it_is_imported_again(folder):
    before = digest()
    kind = sys.modules["own_cells"].Mine
    for text, words in (("SCALE = 0.125\n", "has changed since it was imported"), ("SCALE = (\n", "cannot be read")):
        (folder / "own_helpers.py").write_text(text)
        with pytest.raises(ConfigurationError, match=rf"own_helpers\.py:? {words}"):
            code_of(kind, "own_cells.Mine")
    (folder / "own_helpers.py").write_text("SCALE = 0.125\n")
    assert digest() != before


def test_the_module_that_the_name_names_counts_even_if_the_class_is_made_elsewhere(folder):
    (folder / "own_helpers.py").write_text(
        "def make(base, number):\n    return type('Made', (base,), {'number': number, '__module__': __name__})\n"
    )
    text = CELL.replace("own_helpers.SCALE * ", "") + "\n\nMade = own_helpers.make(Mine, 1)\n"
    digests = []
    for number in ("1", "-30"):
        (folder / "own_cells.py").write_text(text.replace("Mine, 1", f"Mine, {number}"))
        forget()
        digests.append(code_of(importlib.import_module("own_cells").Made, "own_cells.Made"))
    assert digests[0] != digests[1]


def test_a_module_counts_whether_or_not_it_is_loaded_yet(folder):
    (folder / "own_cells.py").write_text(
        CELL.replace("import own_helpers\n", "").replace("(h,) = state", "(h,) = state\n        import own_helpers\n")
    )
    before = digest()
    assert "own_helpers" not in sys.modules
    importlib.import_module("own_helpers")
    assert code_of(sys.modules["own_cells"].Mine, "own_cells.Mine") == before


@pytest.mark.parametrize("encoding", ["utf-8-sig", "latin-1"])
def test_files_in_other_encodings_are_read_as_python_reads_them(folder, encoding):
    declared = "# coding: latin-1\n" if encoding == "latin-1" else ""
    (folder / "own_cells.py").write_bytes(f"{declared}NAME = 'Größe'\n{CELL}".encode(encoding))
    before = digest()
    (folder / "own_cells.py").write_bytes(f"{declared}NAME = 'größer'\n{CELL}".encode(encoding))
    assert digest() != before


def test_imports_that_fail_at_import_are_passed_over(folder):
    text = CELL.replace(
        "import own_helpers\n",
        "try:\n    from .own_helpers import SCALE\nexcept ImportError:\n    import own_helpers\n",
    )
    (folder / "own_cells.py").write_text(text)
    before = digest()
    (folder / "own_helpers.py").write_text("SCALE = 0.125\n")
    assert digest() != before


def test_a_class_without_a_file_has_the_digest_of_its_methods(monkeypatch):
    def made(number):
        space = {"__name__": "own_notebook", "SCALE": number}
        module = types.ModuleType("own_notebook")
        vars(module).update(space)
        exec(
            "def helper(h):\n    return SCALE * h\nclass Mine:\n    def step(self, h):\n        return helper(h)",
            vars(module),
        )
        monkeypatch.setitem(sys.modules, "own_notebook", module)
        return code_of(module.Mine, "own_notebook.Mine")

    assert made(1.0) == made(1.0) != made(2.0)


@pytest.mark.parametrize("kind", [LSTM, Adding, torch.nn.GRUCell])
def test_classes_whose_version_is_in_the_provenance_have_none(kind):
    assert code_of(kind, kind.__name__) == {}
