"""Processor instructions that compute a run: with the same instructions, a command gives the same numbers everywhere.

Compilers and libraries choose instructions by the processor they find, and each choice rounds differently.
`instructions=portable` fixes one set: x86-64-v3 (AVX2 and FMA, processors since 2013 to 2015) on x86, the baseline of
64-bit ARM elsewhere. `instructions=native` leaves the choice to LLVM, torch and MKL, which may be faster.
This module does not import torch at its top: torch reads environment variables when it is imported, and `fix` must set
these first.
"""

import os
import platform

from amu_experiments.options import ConfigurationError

VERSION = 4
"""Version of the arithmetic of the compiled scans. Increase it if the same run would give other digits.

1: compiled for the processor of the machine, exp and log of the C library. 2: fixed instructions, our own exp and log.
3: steps and adjoints derived from the cells' torch form. 4: batches of 8 and more in blocks of sequences side by side;
smaller ones in loops that LLVM makes into vectors, whose sums differ from those of 3 in the last digits.
"""

PORTABLE = {"x86_64": "x86-64-v3", "amd64": "x86-64-v3", "aarch64": "generic", "arm64": "generic"}
"""The compiler's name for the portable processor, by platform.machine()."""

FEATURES = {"x86-64-v3": "", "generic": "+neon"}
"""Features that the compiler may use in addition."""

_LIBRARIES = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own loops
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "COMPATIBLE",  # products of matrices: the only code path that is the same for all makers' processors
}
"""Environment variables that fix the instructions of torch's libraries on x86; each is read once."""

_fixed: str | None = None
"""The choice of this process; None before `fix` is called."""


def fix(instructions: str) -> None:
    """Set the instructions of this process and its children: "portable" or "native".

    Call this before torch is imported: it chooses once, at import. Raises ConfigurationError if this process has
    already made the other choice.
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
    """The processor that decides the digits of compiled scans, and its features; nothing for that of this machine."""
    name = None if _fixed == "native" else portable_name()
    return (name, FEATURES[name]) if name else (None, None)


def used(backend: str) -> dict:
    """The version and the instructions that a backend ("fused" or "torch") computes with in this process."""
    if backend == "fused":
        return {"version": VERSION, "instructions": _processor()}
    import torch

    products = os.environ.get("MKL_CBWR", "as MKL chooses")
    return {"version": VERSION, "instructions": f"{torch.backends.cpu.get_cpu_capability()}, products {products}"}


def _processor() -> str:
    """The name of the processor that the compiler compiles for."""
    import llvmlite.binding as llvm

    name, _ = compiled_for()
    return name or llvm.get_host_cpu_name()


def choice_of(instructions: str) -> str:
    """The choice, "portable" or "native", that leads to these instructions; they are named as in `used`."""
    torch_portable = f"AVX2, products {_LIBRARIES['MKL_CBWR']}"
    return "portable" if instructions in (*PORTABLE.values(), torch_portable) else "native"


def portable_name() -> str | None:
    """The portable processor of this machine's kind; None if there is none, or this machine lacks its instructions."""
    name = PORTABLE.get(platform.machine().lower())
    if name != "x86-64-v3":
        return name
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line.split() for line in file if line.startswith("flags")), [])
    except OSError:  # not Linux: all x86 processors of macOS have them
        return name
    return name if {"avx2", "fma", "bmi2"} <= set(flags) else None
