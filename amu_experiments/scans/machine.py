"""LLVM modules as machine code for a processor."""

import llvmlite.binding as llvm
from llvmlite import ir


class Machine:
    """Compiles modules for a processor: by default for this one, with its widest vectors."""

    def __init__(self, processor: str | None = None, features: str | None = None):
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.processor = processor or llvm.get_host_cpu_name()
        self.features = features if features is not None else llvm.get_host_cpu_features().flatten()

    @property
    def width(self) -> int:
        """Floats of one register."""
        return 16 if "+avx512f" in self.features else 8 if "+avx2" in self.features else 4

    @property
    def registers(self) -> int:
        return 16 if self.width == 8 else 32

    def compile(self, module: ir.Module) -> "Compiled":
        target = llvm.Target.from_default_triple().create_target_machine(
            cpu=self.processor, features=self.features, opt=3, jit=True
        )
        parsed = llvm.parse_assembly(str(module))
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization = options.slp_vectorization = options.loop_unrolling = False
        passes = llvm.create_pass_builder(target, options)
        passes.getModulePassManager().run(parsed, passes)
        return Compiled(parsed, target)


class Compiled:
    """Machine code; `address` of a function, as long as this object lives."""

    def __init__(self, module, target):
        self._engine = llvm.create_mcjit_compiler(module, target)
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        return self._engine.get_function_address(name)
