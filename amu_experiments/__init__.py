"""Experiments that compare the auxiliary memory unit (AMU) with other recurrent cells.

`run` trains networks, `load_results` reads stored trials, `load_network` rebuilds a trained network (library.py). The
cells can be used alone, in the place of torch.nn.LSTM: `from amu_experiments import AMU, LSTM, GRU, RNN`.
"""

import importlib

TYPE_CHECKING = False  # type checkers take it as true; the module typing is slow to import
if TYPE_CHECKING:
    from amu_experiments.cells.amu import AMU
    from amu_experiments.cells.gru import GRU
    from amu_experiments.cells.lstm import LSTM
    from amu_experiments.cells.rnn import RNN
    from amu_experiments.library import Results, load_network, load_results, run

__all__ = ["AMU", "GRU", "LSTM", "RNN", "Results", "load_network", "load_results", "run"]

_LIBRARY = ("Results", "load_network", "load_results", "run")


def __getattr__(name: str):
    # A name is imported when it is first used: importing torch takes seconds, and the command line must answer at once.
    if name in __all__:
        module = "library" if name in _LIBRARY else f"cells.{name.lower()}"
        return getattr(importlib.import_module(f"amu_experiments.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
