"""TensorBoard: a run for each trial, with curves against sequences, final metrics, and settings as hparams.

Events are written here, in the record format of TFRecord files, with checksums of many records at once. TensorBoard's
own writer computes each checksum byte by byte in Python, which takes minutes for thousands of trials.
"""

import itertools
import math
import struct
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import summary_v2 as hparams

from amu_experiments.exports.metrics import Trial, trials_in
from amu_experiments.library import Results

FILE = "events.out.tfevents.0.amu"
"""The name of a run's file; a second export replaces it."""

AT_ONCE = 200
"""Trials whose checksums are computed together."""

POLYNOMIAL = 0x82F63B78
"""CRC-32C (Castagnoli), bits reversed."""


def write_tensorboard(results: Results, out: Path) -> list[str]:
    """Write tensorboard/TASK/MODEL/IDENTITY/trial-NUMBER/, each with a file of events; returns how to open them."""
    folder, trials, count = out / "tensorboard", 0, 0
    tags: set[str] = set()
    pending: dict[Path, list[Event]] = {}
    for trial in trials_in(results):
        pending[folder / trial.name] = _events(trial)
        tags |= trial.final.keys()
        trials, count = trials + 1, count + len(trial.curves)
        if len(pending) == AT_ONCE:
            write_events(pending)
            pending.clear()
    metrics = [hparams.Metric(tag) for tag in sorted(tags)]
    config = hparams.hparams_config_pb(hparams=[], metrics=metrics, time_created_secs=0)
    write_events(pending | {folder: [Event(wall_time=0, summary=config)]})
    return [f"{folder}: {trials:,} trials, {count:,} evaluations", f"Open with tensorboard --logdir {folder}"]


def _events(trial: Trial) -> list[Event]:
    settings = {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in trial.settings.items()
    }
    started = hparams.hparams_pb(settings, trial_id=trial.name, start_time_secs=trial.started)
    events = [Event(wall_time=trial.started, summary=started)]
    value = Summary.Value
    for sequences, seconds, *metrics in trial.curves.tolist():
        pairs = zip(trial.curve_names, metrics, strict=True)
        summary = Summary(value=[value(tag=tag, simple_value=number) for tag, number in pairs if math.isfinite(number)])
        events.append(Event(wall_time=trial.started + seconds, step=int(sequences), summary=summary))
    final = Summary(value=[value(tag=tag, simple_value=number) for tag, number in trial.final.items()])
    events.append(Event(wall_time=trial.started + trial.seconds, step=trial.sequences, summary=final))
    return events


# TFRecord ---------------------------------------------------------------------------------------------------------


def write_events(events: dict[Path, list[Event]]) -> None:
    """Write a file of events into each folder. A record is length, its checksum, data, their checksum."""
    records, counts = [], []
    for own in events.values():
        first = Event(wall_time=own[0].wall_time, file_version="brain.Event:2")
        records += [event.SerializeToString() for event in (first, *own)]
        counts.append(1 + len(own))
    heads = [struct.pack("<Q", len(record)) for record in records]
    parts = list(zip(heads, masked_checksums(heads), records, masked_checksums(records), strict=True))
    end = 0
    for folder, count in zip(events, counts, strict=True):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FILE).write_bytes(b"".join(itertools.chain(*parts[end : end + count])))
        end += count


def masked_checksums(records: list[bytes]) -> list[bytes]:
    """The CRC-32C of each record, rotated and shifted as TFRecord files have it; records of one length together."""
    checksums = np.empty(len(records), np.uint32)
    lengths = np.array([len(record) for record in records])
    for length in np.unique(lengths):
        places = np.flatnonzero(lengths == length)
        data = np.frombuffer(b"".join([records[place] for place in places]), np.uint8).reshape(-1, length)
        crc = np.full(len(places), 0xFFFFFFFF, np.uint32)
        for column in np.ascontiguousarray(data.T):
            crc = _TABLE[(crc ^ column) & 0xFF] ^ (crc >> 8)
        checksums[places] = ~crc
    masked = ((checksums >> 15) | (checksums << 17)) + np.uint32(0xA282EAD8)
    return [struct.pack("<I", checksum) for checksum in masked.tolist()]


def _table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, table >> 1 ^ np.uint32(POLYNOMIAL), table >> 1)
    return table.astype(np.uint32)


_TABLE = _table()
