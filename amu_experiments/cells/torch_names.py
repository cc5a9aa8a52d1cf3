"""State dicts of torch.nn.LSTM, GRU and RNN, which have two biases where our cells have their sum.

For each layer and direction l, torch has weight_ih_l, weight_hh_l, bias_ih_l and bias_hh_l. We have weight_ih_l,
weight_hh_l and bias_l = bias_ih_l + bias_hh_l. The candidate of a GRU has two biases: its rows of bias_hh_l are
bias_hn_l.
"""

from collections.abc import MutableMapping

import torch
from torch import Tensor


def from_torch(cell, state_dict: MutableMapping[str, Tensor], prefix: str) -> None:
    """Replace the two biases of torch's layers in a state_dict by ours; without any, nothing is changed."""
    if not cell.torch_name:
        return
    for suffix in _suffixes(cell):
        first, second = (f"{prefix}bias_{which}{suffix}" for which in ("ih", "hh"))
        if first not in state_dict or second not in state_dict:
            continue
        bias, recurrent = state_dict.pop(first), state_dict.pop(second)
        if cell.torch_name == "GRU":
            rows = 2 * len(recurrent) // 3
            state_dict[f"{prefix}bias_hn{suffix}"] = recurrent[rows:]
            recurrent = torch.cat([recurrent[:rows], torch.zeros_like(recurrent[rows:])])
        state_dict[f"{prefix}bias{suffix}"] = bias + recurrent


def to_torch(cell) -> dict[str, Tensor]:
    """A cell's state_dict with torch's names; the second bias is zero, except for the candidate of a GRU."""
    if not cell.torch_name:
        raise TypeError(f"{type(cell).__name__}: torch.nn has no such layer; it has LSTM, GRU and RNN")
    if cell.trials is not None:
        raise TypeError(f"trials={cell.trials}: must be None; torch.nn has no stacks of trials")
    ours = cell.state_dict()
    theirs = {}
    for suffix in _suffixes(cell):
        theirs |= {name: ours[name] for name in (f"weight_ih{suffix}", f"weight_hh{suffix}")}
        if cell.biased:
            bias = ours[f"bias{suffix}"]
            recurrent = torch.zeros_like(bias)
            if cell.torch_name == "GRU":
                recurrent[-cell.hidden_size :] = ours[f"bias_hn{suffix}"]
            theirs |= {f"bias_ih{suffix}": bias, f"bias_hh{suffix}": recurrent}
    return theirs


def _suffixes(cell) -> list[str]:
    directions = ("", "_reverse") if cell.bidirectional else ("",)
    return [f"_l{number}{reverse}" for number in range(cell.num_layers) for reverse in directions]
