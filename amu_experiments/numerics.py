"""Processor instructions that compute a run: with the same instructions, a command gives the same numbers everywhere.

Compilers and libraries choose instructions by the processor they find, and each choice rounds differently.
`instructions=portable` fixes one set: x86-64-v3 (AVX2 and FMA, processors since 2013 to 2015) on x86, the baseline of
64-bit ARM elsewhere. `instructions=native` leaves the choice to numba, torch and MKL, which may be faster.
This module does not import numba or torch at its top: they read environment variables when they are imported, and
`fix` must set these first.
"""

import os
import platform

from amu_experiments.options import ConfigurationError

VERSION = 4
"""Version of the arithmetic of the compiled scans. Increase it if the same run would give other digits.

1: compiled for the processor of the machine, exp and log of the C library. 2: fixed instructions, our own exp and log.
3: steps and adjoints derived from the cells' torch form. 4: batches of 8 and more in blocks of sequences side by side;
smaller batches give the digits of 3.
"""

PORTABLE = {"x86_64": "x86-64-v3", "amd64": "x86-64-v3", "aarch64": "generic", "arm64": "generic"}
"""The compiler's name for the portable processor, by platform.machine()."""

FEATURES = {"x86-64-v3": "", "generic": "+neon"}
"""Features that the compiler may use in addition; without this setting, numba adds the features of the machine."""

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

    Call this before numba or torch is imported: they choose once, at import. Raises ConfigurationError if this process
    has already made the other choice.
    """
    global _fixed
    if _fixed not in (None, instructions):
        raise ConfigurationError(
            f"instructions={instructions}: this process already computes with {_fixed}; use one command for each"
        )
    _fixed = instructions
    name = portable_name()
    if instructions == "native" or name is None:
        return
    os.environ |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": FEATURES[name]}
    if name == "x86-64-v3":
        os.environ |= _LIBRARIES


def fix_numba() -> None:
    """Have numba compile for the portable processor, unless the choice is native or NUMBA_CPU_NAME names another."""
    import numba

    name = os.environ.get("NUMBA_CPU_NAME", portable_name())
    if name is not None and _fixed != "native":
        numba.config.CPU_NAME = name
        numba.config.CPU_FEATURES = os.environ.get("NUMBA_CPU_FEATURES", FEATURES.get(name, ""))


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

    chosen = None if _fixed == "native" else portable_name()
    return os.environ.get("NUMBA_CPU_NAME") or chosen or llvm.get_host_cpu_name()


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
