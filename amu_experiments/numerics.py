"""Processor instructions that compute a run. They decide how its numbers are rounded.

Compilers and libraries choose instructions by the processor they find, and each choice rounds differently.
`instructions=portable` fixes one set: x86-64-v3 (AVX2 and FMA, processors since 2013 to 2015) on x86, the baseline of
64-bit ARM elsewhere. Compiled scans then give the same numbers on all x86 processors that have the set. Plain torch
gives the same numbers only on processors of one maker: MKL, its matrix library, adds in another order on processors of
AMD than on those of Intel. `instructions=native` leaves the choice to LLVM, torch and MKL, which may be faster. Torch
reads environment variables once, at its first operation, and `fix` must set them before. This module imports torch only
where it needs it.
"""

import os
import platform
from pathlib import Path

from amu_experiments.options import ConfigurationError

VERSION = 6
"""Version of the arithmetic of the compiled scans. Increase it if the same run would give other digits.

1: compiled for the processor of the machine, exp and log of the C library. 2: fixed instructions, our own exp and log.
3: steps and adjoints derived from the cells' torch form. 4: batches of 8 and more in blocks of sequences side by side;
smaller ones in loops that LLVM makes into vectors, whose sums differ from those of 3 in the last digits.
5: loops of fewer than 16 iterations are vectorised without masks. For some cells and sizes, results differ in
the last digits: an AMU of three units with three neurons, an RNN of nine units, some LEMs. An LSTM of four units has
the same results.
6: layers sum the gradients of groups of sequences in their order. Only runs with several layers have other digits.
"""

PORTABLE = {"x86_64": "x86-64-v3", "amd64": "x86-64-v3", "aarch64": "generic", "arm64": "generic"}
"""LLVM's name for the processor of `instructions=portable`, by platform.machine()."""

FEATURES = {"x86-64-v3": "", "generic": "+neon"}
"""Features that the compiler may use in addition."""

_LIBRARIES = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own loops
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # products of matrices: the only code path that does not depend on the instruction set
}
"""Environment variables that fix the instructions of torch's libraries on x86; each is read once."""

_fixed: str | None = None
"""The choice of this process; None before `fix` is called."""


def fix(instructions: str) -> None:
    """Set the instructions of this process and its children: "portable" or "native".

    Call this before torch computes anything: it chooses once, at its first operation. Raises ConfigurationError if this
    process has already made the other choice.
    """
    global _fixed
    if _fixed not in (None, instructions):
        raise ConfigurationError(
            f"instructions={instructions}: this process already computes with {_fixed}; use one command for each"
        )
    _fixed = instructions
    if instructions == "portable" and portable_name() == "x86-64-v3":
        os.environ |= _LIBRARIES


def compiled_for() -> tuple[str, str] | tuple[None, None]:
    """The processor and features that decide the digits of compiled scans; (None, None): those of this machine."""
    name = None if _fixed == "native" else portable_name()
    return (name, FEATURES[name]) if name else (None, None)


def used(backend: str, device: str = "cpu") -> dict:
    """The version and the instructions that a backend ("fused" or "torch") computes with in this process.

    On a GPU, the instructions are the kind of device and its name, such as "cuda: NVIDIA H100": no option fixes them.
    """
    if backend == "fused":
        return {"version": VERSION, "instructions": _processor()}
    import torch

    kind = torch.device(device).type
    if kind != "cpu":
        name = torch.cuda.get_device_name(device) if kind == "cuda" else platform.machine()
        return {"version": VERSION, "instructions": f"{kind}: {name}"}
    products = os.environ.get("MKL_CBWR", "as MKL chooses")
    parts = (torch.backends.cpu.get_cpu_capability(), f"products {products}", maker_name())
    return {"version": VERSION, "instructions": ", ".join(filter(None, parts))}


def named_in_full(checkpoint: Path, config: dict, backend: str, made: dict) -> bool:
    """Whether a checkpoint names its arithmetic in full.

    made: the "backend", "version" and "instructions" that computed it; the last two are None in an older checkpoint.
    Raises ConfigurationError if a run with this configuration, on this backend, would be rounded differently.
    """
    if made["version"] not in (VERSION, None):
        raise ConfigurationError(
            f"{checkpoint} was computed with version {made['version']} of the arithmetic, and this is version "
            f"{VERSION}; resume with the release that wrote it, or delete the checkpoint to start again"
        )
    here, there = used(backend, config["device"])["instructions"], made["instructions"]
    kind = device_of(there or here)
    if there and there != here and {kind, device_of(here)} != {"cpu"}:
        option, needed = "device", config["device"] if kind == device_of(here) else kind
    elif made["backend"] != backend:
        option, here, there, needed = "backend", backend, made["backend"], made["backend"]
    elif there not in (here, here.rpartition(", ")[0], None):  # older checkpoints do not name the processor's maker
        option, needed = "instructions", choice_of(there)
    else:
        return made["version"] is not None and there == here
    remedy = f"resume with {option}={needed}" if needed != config[option] else "resume on a machine of that kind"
    raise ConfigurationError(
        f"{option}={config[option]}: this is {here} here, and {checkpoint} was computed with {there}; {remedy}, or "
        "delete the checkpoint to start again"
    )


def _processor() -> str:
    """The name of the processor that the compiler compiles for."""
    import llvmlite.binding as llvm

    name, _ = compiled_for()
    return name or llvm.get_host_cpu_name()


def device_of(instructions: str) -> str:
    """The kind of device that computes with these instructions, which are named as in `used`: cpu, cuda or mps."""
    kind, colon, _ = instructions.partition(": ")
    return kind if colon else "cpu"


def choice_of(instructions: str) -> str:
    """The choice, "portable" or "native", that leads to these instructions of a CPU; they are named as in `used`."""
    torch_portable = f"AVX2, products {_LIBRARIES['MKL_CBWR']}"
    without_maker = ", ".join(instructions.split(", ")[:2])
    return "portable" if without_maker in (*PORTABLE.values(), torch_portable) else "native"


def portable_name() -> str | None:
    """The portable processor of this machine's kind; None if there is none, or this machine lacks its instructions."""
    name = PORTABLE.get(platform.machine().lower())
    if name != "x86-64-v3":
        return name
    flags = _processor_field("flags")
    if flags is None:  # not Linux: all x86 processors of macOS have them
        return name
    return name if {"avx2", "fma", "bmi2"} <= set(flags.split()) else None


def maker_name() -> str | None:
    """Who made this machine's processor, such as "GenuineIntel" or "AuthenticAMD"; None if unknown."""
    return _processor_field("vendor_id") or None


def _processor_field(name: str) -> str | None:
    """The first field of this name in /proc/cpuinfo, "" if there is none; None on systems without this file."""
    try:
        with open("/proc/cpuinfo") as file:
            fields = (line.partition(":") for line in file)
            return next((value.strip() for field, _, value in fields if field.strip() == name), "")
    except OSError:
        return None
