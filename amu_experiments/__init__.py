"""Experiments that compare the auxiliary memory unit (AMU) with other recurrent cells.

The cells can be used alone, in the place of torch.nn.LSTM: `from amu_experiments import AMU, LSTM, GRU, RNN`.
"""

import importlib

__all__ = ["AMU", "GRU", "LSTM", "RNN"]


def __getattr__(name: str):
    # A cell is imported when it is first used: importing torch takes seconds, and the command line must answer at once.
    if name in __all__:
        return getattr(importlib.import_module(f"amu_experiments.cells.{name.lower()}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
