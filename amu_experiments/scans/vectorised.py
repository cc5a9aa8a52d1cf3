"""The sources of steps and scalar functions, run on vectors."""

import ast
import inspect
import textwrap
from types import SimpleNamespace

import numpy as np
from llvmlite import ir

from amu_experiments.scans.vectors import I32, I64, TYPES, Code, Value


class _Choices(ast.NodeTransformer):
    """`a if c else b` and `not` as calls, `and` and `or` as & and |: a vector's condition differs from lane to lane."""

    def visit_IfExp(self, node):
        self.generic_visit(node)
        return _call("where", node.test, node.body, node.orelse)

    def visit_BoolOp(self, node):
        self.generic_visit(node)
        first, *rest = node.values
        sign = ast.BitAnd() if isinstance(node.op, ast.And) else ast.BitOr()
        for value in rest:
            first = ast.BinOp(first, sign, value)
        return first

    def visit_UnaryOp(self, node):
        self.generic_visit(node)
        return _call("opposite", node.operand) if isinstance(node.op, ast.Not) else node

    def visit_FunctionDef(self, node):
        node.decorator_list = []
        return self.generic_visit(node)


def _call(name: str, *arguments) -> ast.Call:
    return ast.Call(ast.Name(name, ast.Load()), list(arguments), [])


def defined(source: str, namespace: dict) -> dict:
    """The functions that a source defines, for vectors; they see `namespace`, with names added later."""
    tree = ast.fix_missing_locations(_Choices().visit(ast.parse(textwrap.dedent(source))))
    exec(compile(tree, "<vectors>", "exec"), namespace)
    return namespace


def namespace(code: Code, functions) -> dict:
    """The names that sources of steps may use, with their meaning for vectors.

    functions: a module of scalar functions, which are written for vectors from their sources.
    """

    def lowest(a, b):
        return code.where(b < a, b, a)

    def highest(a, b):
        return code.where(b > a, b, a)

    numbers = SimpleNamespace(
        **{kind.__name__: _Type(kind) for kind in TYPES},
        floor=lambda value: code.intrinsic("floor", value),
        inf=np.inf,
        nan=np.nan,
        pi=np.pi,
    )
    known = {
        "np": numbers,
        "f32": code.f32,
        "range": code.loop,
        "where": code.where,
        "opposite": lambda condition: Value(code, code.builder.not_(condition.ir)),
        "min": lowest,
        "max": highest,
        "abs": lambda value: code.intrinsic("fabs", value),
        "sqrt": code.sqrt,
    }
    for name, value in vars(functions).items():
        if isinstance(value, float | int | tuple) and not name.startswith("__"):
            known[name] = value
        elif isinstance(value, np.ndarray):
            known[name] = _Table(code, name, value)
    for function in functions.VECTORISED:
        defined(inspect.getsource(function), known)
    return known


class _Type:
    """A type of numpy, which converts values of the code, too."""

    def __init__(self, numpy: type):
        self.numpy = numpy

    def __call__(self, value):
        return value.to(self.numpy) if isinstance(value, Value) else self.numpy(value)


class _Table:
    """A constant array of 64-bit integers, of which every lane reads an entry."""

    def __init__(self, code: Code, name: str, entries: np.ndarray):
        kind = ir.ArrayType(I64, len(entries))
        self.code = code
        if name in code.module.globals:
            self.array = code.module.globals[name]
            return
        self.array = ir.GlobalVariable(code.module, kind, name)
        self.array.linkage, self.array.global_constant = "internal", True
        self.array.initializer = ir.Constant(kind, [int(e) for e in entries])

    def __getitem__(self, index: Value) -> Value:
        builder, zero = self.code.builder, ir.Constant(I64, 0)
        if not index.wide:
            return Value(self.code, builder.load(builder.gep(self.array, [zero, index.ir])))
        out = ir.Constant(index.ir.type, ir.Undefined)
        for lane in range(index.ir.type.count):
            place = builder.extract_element(index.ir, ir.Constant(I32, lane))
            entry = builder.load(builder.gep(self.array, [zero, place]))
            out = builder.insert_element(out, entry, ir.Constant(I32, lane))
        return Value(self.code, out)
