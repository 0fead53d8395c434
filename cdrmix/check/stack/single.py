"""One op without a model, to run it by itself.

Input: an op of a file, the sizes of its inputs' axes, and its arguments as text.
Output: an `ir.nodes.Model` of one line whose inputs are the op's own; its `vocab` is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path

from cdrmix.check.body.elaborate import Elaborator
from cdrmix.check.body.frame import Context
from cdrmix.check.names.derive import explain_axes
from cdrmix.check.names.loader import File
from cdrmix.check.names.modules import ModuleEnv
from cdrmix.check.names.scope import OpValue, Scope, Static
from cdrmix.check.names.settings import given_value
from cdrmix.check.names.statics import bind, evaluate
from cdrmix.check.names.values import Failed, check_complete, fail, inputs, settable, whole
from cdrmix.check.session import Session, reachable
from cdrmix.diagnose import Report, did_you_mean
from cdrmix.ir.nodes import Axis, Instance, Line, Model
from cdrmix.syntax import ast


def load_op(
    path: str | Path,
    op: str,
    dims: Mapping[str, int],
    args: Mapping[str, str] | None = None,
    layer: int = 0,
    layers: int = 1,
) -> Model:
    """The op of a file.  `dims` gives the sizes that the op's input types name; `args` are expressions."""
    session = Session()
    with session.errors():
        file = session.loader.root(Path(path))
        session.stop()
        assert file is not None  # a file that cannot be used leaves an error
        made = _make(session, file, op, dims, args or {}, layer, layers)
        session.stop()
        return made


def _make(
    session: Session,
    file: File,
    name: str,
    dims: Mapping[str, int],
    args: Mapping[str, str],
    layer: int,
    layers: int,
) -> Model:
    report, texts = session.report, session.loader.texts
    sources = dict(texts)
    decl = file.scope.ops.get(name)
    if decl is None:
        fail(report, "E0201", session.start(file), f"{file.name} has no op `{name}`",
             did_you_mean(name, file.scope.ops) or f"its ops are {', '.join(file.scope.ops)}")  # fmt: skip
    env = ModuleEnv(file.scope, report)
    given = []
    for key, text in args.items():
        value = given_value(f"--arg {key}", text, texts, report)
        if value is None:
            raise Failed
        given.append(ast.Arg(value.span, key, value))
    bound = bind(OpValue(decl), given, env, report, decl.span)
    check_complete(bound, decl.span, report)
    sizes = _Sizes(bound, dims, report)
    axes = [sizes.axes(formal) for formal in inputs(decl)]
    elaborator = Elaborator(report)
    made = elaborator.cell(bound, axes, Context(layer, layers, {}, decl.span))
    if made is None:
        explain_axes(decl, report)
        raise Failed
    return Model(
        name=name,
        vocab=0,
        width=prod(a.size for a in axes[0]) if axes else 0,
        lines=(Line(name, False, (Instance(name, made, layer, layers),), decl.span),),
        cells=reachable([made], elaborator.cells),
        sources=sources,
        doc=decl.doc,
        span=decl.span,
    )


class _Sizes:
    """The `Env` of the input types: the sizes given, the arguments and the names of the file."""

    def __init__(self, op: OpValue, dims: Mapping[str, int], report: Report):
        self.op, self.dims, self.report = op, dims, report
        self.given: dict[str, Static] = dict(op.args)
        self.defaults = {f.name: f.default for f in settable(op.op)}
        self.scope: Scope = op.op.scope

    def axes(self, formal: ast.Formal) -> tuple[Axis, ...]:
        """The axes of one input, named as its type has them."""
        if formal.type is None:
            return ()
        found = []
        for at, dim in enumerate(formal.type.dims):
            size = whole(evaluate(dim, self, self.report), f"the size of `{formal.name}`", dim.span, self.report)
            found.append(Axis(dim.id if isinstance(dim, ast.Name) else f"{formal.name}_{at}", size))
        return tuple(found)

    def name(self, node: ast.Name) -> Static:
        if node.id in self.dims:
            return self.dims[node.id]
        if node.id in self.given:
            return self.given[node.id]
        default = self.defaults.get(node.id)
        if default is not None:
            return evaluate(default, self, self.report)
        found = ModuleEnv(self.scope, self.report).lookup(node.id, node.span)
        if found is None:
            fail(self.report, "E0210", node.span, f"the size `{node.id}` is not given", f"give it in `dims`: {node.id}")
        return found

    def path(self, node: ast.Path) -> Static:
        return ModuleEnv(self.scope, self.report).path(node)

    def call(self, node: ast.Call) -> Static | None:
        return None
