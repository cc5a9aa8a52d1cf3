"""Python functions as LLVM code on vectors: a function runs once on `Value` objects, which write down instructions.

A step is written for one sequence. Run on vectors, it computes as many sequences side by side as these have lanes.

The digits are the same on every processor, whatever its widest vector: a product that is added is one fused
multiply-add, as IEEE 754 defines it, because the code here says so and not because a compiler may choose it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from llvmlite import ir

F32, F64, I32, I64 = ir.FloatType(), ir.DoubleType(), ir.IntType(32), ir.IntType(64)
TYPES = {np.float32: F32, np.float64: F64, np.int32: I32, np.int64: I64}


class Value:
    """A number, or a vector of them, that the code computes.

    factors: the factors of a product of floats.
    origin: the parameter whose offset in p an index counts from.
    """

    __slots__ = ("code", "factors", "ir", "origin")

    def __init__(self, code: "Code", value: ir.Value, factors=None, origin: str | None = None):
        self.code, self.ir, self.factors, self.origin = code, value, factors, origin

    def _with(self, other) -> tuple["Value", "Value"]:
        """Both operands, a scalar one spread over all lanes if the other is a vector."""
        if not isinstance(other, Value):
            other = self.code.constant(self.kind, other)
        a, b = self, other
        return (a.beside(b), b.beside(a)) if a.wide != b.wide else (a, b)

    @property
    def wide(self) -> bool:
        return isinstance(self.ir.type, ir.VectorType)

    @property
    def kind(self):
        """The type of one number."""
        return self.ir.type.element if self.wide else self.ir.type

    @property
    def is_float(self) -> bool:
        return self.kind in (F32, F64)

    @property
    def is_pointer(self) -> bool:
        return isinstance(self.ir.type, ir.PointerType)

    def spread(self, lanes: int | None = None) -> "Value":
        """The same number in every lane."""
        lanes = lanes or self.code.lanes
        return self if self.wide or lanes == 1 else Value(self.code, self.code.spread(self.ir, lanes))

    def beside(self, other: "Value") -> "Value":
        """Spread over the lanes of another value."""
        return self.spread(other.ir.type.count) if other.wide else self

    def _apply(self, other, of_floats: str, of_integers: str) -> "Value":
        a, b = self._with(other)
        builder = self.code.builder
        if a.is_float:
            return Value(self.code, getattr(builder, of_floats)(a.ir, b.ir, flags=self.code.flags))
        return Value(self.code, getattr(builder, of_integers)(a.ir, b.ir), origin=a.origin or b.origin)

    def __add__(self, other):
        a, b = self._with(other)
        if b.factors:
            return self.code.fma(*b.factors, a)
        return self.code.fma(*a.factors, b) if a.factors else a._apply(b, "fadd", "add")

    def __sub__(self, other):
        a, b = self._with(other)
        if b.factors:
            x, y = b.factors
            return self.code.fma(-x, y, a)
        return self.code.fma(*a.factors, -b) if a.factors else a._apply(b, "fsub", "sub")

    def __mul__(self, other):
        a, b = self._with(other)
        made = a._apply(b, "fmul", "mul")
        made.factors = (a, b) if a.is_float and not self.code.flags else None
        return made

    def __truediv__(self, other):
        return self._apply(other, "fdiv", "sdiv")

    def __floordiv__(self, other):
        return self._apply(other, "fdiv", "sdiv")

    def __neg__(self):
        negate = self.code.builder.fneg if self.is_float else self.code.builder.neg
        return Value(self.code, negate(self.ir))

    def __radd__(self, other):
        return self.code.constant(self.kind, other) + self

    def __rsub__(self, other):
        return self.code.constant(self.kind, other) - self

    __rmul__ = __mul__

    def __rtruediv__(self, other):
        return self.code.constant(self.kind, other) / self

    def _compared(self, other, sign: str) -> "Value":
        a, b = self._with(other)
        if not a.is_float:
            return Value(self.code, self.code.builder.icmp_signed(sign, a.ir, b.ir))
        # NaN differs from everything.
        compare = self.code.builder.fcmp_unordered if sign == "!=" else self.code.builder.fcmp_ordered
        return Value(self.code, compare(sign, a.ir, b.ir))

    def __lt__(self, other):
        return self._compared(other, "<")

    def __le__(self, other):
        return self._compared(other, "<=")

    def __gt__(self, other):
        return self._compared(other, ">")

    def __ge__(self, other):
        return self._compared(other, ">=")

    def __eq__(self, other):
        return self._compared(other, "==")

    def __ne__(self, other):
        return self._compared(other, "!=")

    __hash__ = None

    def __and__(self, other):
        return self._apply(other, "and_", "and_")

    def __or__(self, other):
        return self._apply(other, "or_", "or_")

    def __lshift__(self, other):
        return self._apply(other, "shl", "shl")

    def __rshift__(self, other):
        return self._apply(other, "ashr", "ashr")

    def __bool__(self):
        raise TypeError("a vector has no single truth")

    def inserted(self, number: "Value", lane: int) -> "Value":
        """This vector with a number in one lane."""
        return Value(self.code, self.code.builder.insert_element(self.ir, number.ir, ir.Constant(I32, lane)))

    def view(self, kind) -> "Value":
        """The same bits as another type."""
        return Value(self.code, self.code.builder.bitcast(self.ir, self._of(TYPES[kind.numpy])))

    def to(self, kind) -> "Value":
        """Converted to another type."""
        kind, builder = TYPES[kind], self.code.builder
        if kind is self.kind:
            return self
        if kind in (F32, F64):
            convert = builder.sitofp if not self.is_float else builder.fpext if kind is F64 else builder.fptrunc
        else:
            convert = builder.fptosi if self.is_float else builder.sext if kind is I64 else builder.trunc
        return Value(self.code, convert(self.ir, self._of(kind)))

    def _of(self, kind):
        return ir.VectorType(kind, self.ir.type.count) if self.wide else kind


class Numbers:
    """An array in memory, of floats if no type is given. The index i stands for `lanes` entries, from i on."""

    def __init__(self, code: "Code", address: Value, kind=F32, lanes: int = 1):
        self.code, self.address, self.lanes = code, address, lanes
        self.kind = kind
        self.together = kind if lanes == 1 else ir.VectorType(kind, lanes)

    def at(self, index) -> ir.Value:
        """A pointer."""
        return self.code.pointer(self.address, index, self.kind, self.together)

    def __getitem__(self, index) -> Value:
        return Value(self.code, self.code.builder.load(self.at(index), align=self.align))

    def __setitem__(self, index, value) -> None:
        value = value if isinstance(value, Value) else self.code.constant(self.kind, value)
        self.code.builder.store(value.spread(self.lanes).ir, self.at(index), align=self.align)

    @property
    def align(self) -> int:
        return 8 if self.kind is I64 else 4

    def wide(self, lanes: int) -> "Numbers":
        return Numbers(self.code, self.address, self.kind, lanes)

    def after(self, index) -> "Numbers":
        """The array from this index on."""
        if self.address.is_pointer:
            address = Value(self.code, self.code.pointer(self.address, index, self.kind))
        else:
            address = self.address + self.code.integer(index) * (8 if self.kind is I64 else 4)
        return Numbers(self.code, address, self.kind, self.lanes)


class Rows(Numbers):
    """Rows in memory, each with a float for each lane. An index counts rows."""

    def __init__(self, code: "Code", address: Value):
        super().__init__(code, address, F32, code.lanes)

    def at(self, row) -> ir.Value:
        return super().at(row * self.lanes)

    def from_row(self, row) -> "Rows":
        """The rows from this one on."""
        return Rows(self.code, self.address + row * (4 * self.lanes))


class Variable:
    """A value that loops change: `value` is read and written."""

    def __init__(self, code: "Code", value: Value):
        self._code = code
        with code.builder.goto_entry_block():
            self.place = code.builder.alloca(value.ir.type)
        self.value = value

    @property
    def value(self) -> Value:
        return Value(self._code, self._code.builder.load(self.place))

    @value.setter
    def value(self, value: Value) -> None:
        self._code.builder.store(value.ir, self.place)


class Code:
    """An LLVM function that is being written; its arguments are 64-bit integers, addresses among them.

    lanes: numbers in a vector. internal: only its own module calls it. flags: what the compiler may do to its sums and
    products; without flags, a product that is added is one fused multiply-add.
    """

    flags: tuple[str, ...] = ()

    def __init__(self, module: ir.Module, name: str, arguments: int, lanes: int, internal: bool = True):
        self._begin(module, name, [I64] * arguments, lanes)
        if internal:
            self.function.linkage = "internal"
            self.function.attributes.add("noinline")

    def _begin(self, module: ir.Module, name: str, kinds: list, lanes: int) -> None:
        self.lanes = lanes
        self.function = ir.Function(module, ir.FunctionType(ir.VoidType(), kinds), name)
        self.builder = ir.IRBuilder(self.function.append_basic_block("entry"))
        # The entry block is only for the variables of the function.
        body = self.function.append_basic_block("body")
        self.builder.branch(body)
        self.builder.position_at_end(body)
        self.arguments = [Value(self, argument) for argument in self.function.args]
        self.module = module

    def call(self, function: ir.Function, *arguments) -> None:
        self.builder.call(function, [self.integer(a).ir for a in arguments])

    def invoke(self, address: Value, *arguments) -> None:
        """Call the function at an address."""
        kind = ir.FunctionType(ir.VoidType(), [I64] * len(arguments))
        self.call(self.builder.inttoptr(address.ir, kind.as_pointer()), *arguments)

    def address(self, variable: "Variable") -> Value:
        return Value(self, self.builder.ptrtoint(variable.place, I64))

    def done(self) -> ir.Function:
        self.builder.ret_void()
        return self.function

    # Values -----------------------------------------------------------------------------------------------------

    def constant(self, kind, number) -> Value:
        if kind in (F32, F64):
            number = float(np.float32(number)) if kind is F32 else float(number)
        return Value(self, ir.Constant(kind, number))

    def integer(self, number) -> Value:
        return number if isinstance(number, Value) else self.constant(I64, number)

    def f32(self, number) -> Value:
        return number.to(np.float32) if isinstance(number, Value) else self.constant(F32, number)

    def spread(self, value: ir.Value, lanes: int) -> ir.Value:
        kind = ir.VectorType(value.type, lanes)
        one = self.builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.Constant(I32, 0))
        return self.builder.shuffle_vector(
            one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, lanes), [0] * lanes)
        )

    def pointer(self, address: Value, index, kind, together=None) -> ir.Value:
        """A pointer to an entry of the array at an address; with `together`, to a vector that begins there."""
        base = address.ir if address.is_pointer else self.builder.inttoptr(address.ir, kind.as_pointer())
        pointer = self.builder.gep(base, [self.integer(index).ir])
        return pointer if together in (None, kind) else self.builder.bitcast(pointer, together.as_pointer())

    def intrinsic(self, name: str, *values: Value) -> Value:
        kind = values[0].ir.type
        one = {F32: "f32", F64: "f64"}[values[0].kind]
        name = f"llvm.{name}.v{kind.count}{one}" if values[0].wide else f"llvm.{name}.{one}"
        function = self.module.globals.get(name)
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(kind, [kind] * len(values)), name)
        return Value(self, self.builder.call(function, [v.ir for v in values]))

    def sqrt(self, value: Value) -> Value:
        if value.wide or not self.flags:
            return self.intrinsic("sqrt", value)
        # sqrtf of the C library, which is exact. Next to an LLVM sqrt, the compiler would compute products in pairs, as
        # vectors, instead of fusing each with its sum.
        function = self.module.globals.get("sqrtf")
        if function is None:
            function = ir.Function(self.module, ir.FunctionType(F32, [F32]), "sqrtf")
            function.attributes.add("readnone")
        return Value(self, self.builder.call(function, [value.ir], fastmath=self.flags))

    def fma(self, x: Value, y: Value, z: Value) -> Value:
        return self.intrinsic("fma", x, y, z)

    def where(self, condition, a, b) -> Value:
        """a or b: what Python writes as `a if condition else b`, by lanes."""
        if not isinstance(condition, Value):
            return a if condition else b
        if condition.kind != ir.IntType(1):
            condition = condition != 0
        a, b = a._with(b) if isinstance(a, Value) else reversed(b._with(a))
        if condition.wide:
            a, b = a.beside(condition), b.beside(condition)
        elif a.wide:
            condition = condition.beside(a)
        return Value(self, self.builder.select(condition.ir, a.ir, b.ir))

    # Control ----------------------------------------------------------------------------------------------------

    def loop(self, *bounds) -> Iterator[Value]:
        """As `range`: the body of the Python loop runs once, and emits a loop of machine code."""
        first, last, step = (self.integer(b) for b in ((0, *bounds, 1) if len(bounds) == 1 else (*bounds, 1))[:3])
        before = self.builder.block
        body, after = (self.function.append_basic_block(name) for name in ("loop", "end"))
        self.builder.cbranch(self.builder.icmp_signed("<", first.ir, last.ir), body, after)
        self.builder.position_at_end(body)
        i = self.builder.phi(I64)
        i.add_incoming(first.ir, before)
        yield Value(self, i)
        following = self.builder.add(i, step.ir)
        i.add_incoming(following, self.builder.block)
        self.builder.cbranch(self.builder.icmp_signed("<", following, last.ir), body, after)
        self.builder.position_at_end(after)

    @contextmanager
    def when(self, condition: Value):
        with self.builder.if_then(condition.ir):
            yield

    def switch(self, value: Value, cases: dict[int, Callable[[], None]]) -> None:
        """Write each case; no other values occur."""
        after = self.function.append_basic_block("chosen")
        chosen = self.builder.switch(value.ir, after)
        for number, write in cases.items():
            block = self.function.append_basic_block(f"case{number}")
            chosen.add_case(ir.Constant(I64, number), block)
            self.builder.position_at_end(block)
            write()
            self.builder.branch(after)
        self.builder.position_at_end(after)
