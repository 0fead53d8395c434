"""Recognise attention over a history by the algebra of its sum, so that one fused kernel can do it.

Input: statements over whole sequences.
Output: the same with `sum[t](softmax[t](scale*(q·K[t] + …) + bias[t]) * V[t])` as an `Attend` and the rest of its
equation around it; and, for each softmax over a window that is not of this form, why.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cdrmix.ir import build, walk
from cdrmix.ir.forms import Attend, Scored
from cdrmix.ir.nodes import Def, Index, Node, Ref
from cdrmix.passes import algebra
from cdrmix.passes.graph import Item
from cdrmix.passes.terms import Culprit, Leaves, Term, Unfit


@dataclass(slots=True)
class Attention:
    """Finds the attention of one cell; `leaves` are its histories."""

    leaves: Leaves
    left: list[tuple[Ref, Culprit]] = field(default_factory=list)

    def statements(self, stmts: list[Item]) -> list[Item]:
        """The statements with attention made explicit; `left` are the softmaxes over windows that are not it."""
        out: list[Item] = []
        for stmt in stmts:
            if not isinstance(stmt, Def) or not self.leaves.depends(stmt.value):
                out.append(stmt)
                continue
            found: list[Attend] = []
            value = self._node(stmt, stmt.value, found)
            if len(found) == 1 and stmt.ref.kind == "def" and _is_plain(value, found[0], stmt):
                out.append(replace(found[0], name=stmt.ref.name, dtype=stmt.dtype))
            else:
                out += [*found, replace(stmt, value=value)]
        return out

    def _node(self, stmt: Def, n: Node, found: list[Attend]) -> Node:
        if not self.leaves.depends(n):
            return n
        if n.op == "sum" and len(n.arg) == 1 and n.arg[0] in walk.windowed(n.args[0], self.leaves.windows):
            try:
                attend, around = self._attend(stmt, n)
            except Unfit as unfit:
                if self._normalised(n):
                    self.left.append((stmt.ref, unfit.culprit))
                return n
            if attend is not None:
                found.append(attend)
                return around
        return walk.rebuild(n, tuple(self._node(stmt, a, found) for a in n.args))

    def _attend(self, stmt: Def, n: Node) -> tuple[Attend | None, Node]:
        """The attention of a sum over a window, and the expression that reads its result."""
        t = n.arg[0]
        inside: list[Node] = []
        around: list[Node] = []
        for f in walk.factors(n.args[0]):
            (inside if t in f.free else around).append(self._resolved(f, t))
        weights = [f for f in inside if f.op == "softmax"]
        if not weights:
            return None, n
        values = [f for f in inside if f.op == "read" and f.arg.ref.kind == "history"]
        if len(weights) != 1 or weights[0].arg != t or len(values) != 1 or len(inside) != 2:
            raise Unfit(Culprit(n, "is not one softmax times one history"))
        indices = tuple(i for i in (*stmt.indices, *n.free) if i in inside[0].free or i in inside[1].free)
        indices = tuple(dict.fromkeys(i for i in indices if i != t))
        attend = self._scores(weights[0].args[0], t, indices)
        value = values[0]
        if not _static(value.args[1:], set(indices)):
            raise Unfit(Culprit(value, "is read at a place that depends on the token"))
        name = self.leaves.fresh.name(f"{stmt.ref.name}_attended")
        attend = replace(attend, name=name, value=value, span=n.span)
        result = build.read(Ref("def", name), [i.axis for i in indices], indices, value.dtype, n.span)
        return attend, algebra.product([*around, result])

    def _scores(self, scores: Node, t: Index, indices: tuple[Index, ...]) -> Attend:
        """The scores as scale*(Σ query · K[t]) + bias; the value is not known yet."""
        terms = self.leaves.expand(scores)
        for term in terms:
            if term.culprit:
                raise Unfit(Culprit(term.culprit.node, "in the scores is not linear in a history"))
        found = [self._part(term, term.read, t, indices) for term in terms if term.read is not None]
        found = [(scale, part) for scale, part in found if scale]
        if not found:
            raise Unfit(Culprit(scores, "reads no key"))
        scale = found[0][0]  # the others' queries carry what their own is more
        parts = tuple(
            part if own == scale else replace(part, query=algebra.product([build.const(own / scale), part.query]))
            for own, part in found
        )
        bias = self._bias(terms, t, indices)
        return Attend("", indices, t, parts, parts[0].key, scale, bias)

    def _part(self, hit: Term, key: Node, t: Index, indices: tuple[Index, ...]) -> tuple[float, Scored]:
        """The product of a query and one key, and the number in front of it."""
        contract = tuple(a.arg for a in key.args if a.op == "index" and a.arg in hit.bound)
        if len(set(contract)) != len(contract) or t in contract:
            raise Unfit(Culprit(key, "is summed at one place twice"))
        if key.args[0].op != "index" or key.args[0].arg != t:
            raise Unfit(Culprit(key, f"is not read at `{t.name}`"))
        rest = [a for a in key.args[1:] if not (a.op == "index" and a.arg in contract)]
        if not _static(rest, set(indices)):
            raise Unfit(Culprit(key, "is read at a place that depends on the token, or that the result does not keep"))
        scale, vector = 1.0, []
        for f in hit.coef:
            value = algebra.constant(f)
            if value is not None:
                scale *= value
            elif t in f.free:
                raise Unfit(Culprit(f, f"weighs the key by its age `{t.name}`"))
            else:
                vector.append(f)
        query = algebra.product(vector, [i for i in hit.bound if i not in contract])
        if not set(query.free) <= {*indices, *contract}:
            raise Unfit(Culprit(key, "has a query over an index that the result does not keep"))
        return scale, Scored(contract, query, key)

    def _bias(self, terms: list[Term], t: Index, indices: tuple[Index, ...]) -> Node | None:
        """What is added to the scores; what does not depend on `t` changes no softmax along it."""
        added = [v for v in (term.value() for term in terms if term.read is None) if t in v.free]
        for v in added:
            for m in walk.nodes(v):
                if m.op == "context" or (m.op == "read" and m.arg.ref.kind not in ("param", "buffer")):
                    raise Unfit(Culprit(v, "is added to the scores and depends on the token"))
            if not set(v.free) <= {*indices, t}:
                raise Unfit(Culprit(v, "is added to the scores over an index that the result does not keep"))
        return algebra.total(added) if added else None

    def _resolved(self, f: Node, t: Index) -> Node:
        """A factor that only names a definition over the window, as what it defines."""
        while f.op == "read" and f.arg.ref.kind == "def" and t in walk.windowed(f, self.leaves.windows):
            body = self.leaves.written(f)
            if body is None:
                break
            f = body
        return f

    def _normalised(self, n: Node) -> bool:
        """Whether a sum over a window weighs by a softmax, here or in a definition it reads."""
        t = n.arg[0]
        return any(self._resolved(f, t).op == "softmax" for f in walk.factors(n.args[0]) if t in f.free)


def _static(places: tuple[Node, ...] | list[Node], indices: set[Index]) -> bool:
    """Whether places on axes depend on nothing but these indices."""
    fixed = all(m.op not in ("read", "context") for a in places for m in walk.nodes(a))
    return fixed and all(set(a.free) <= indices for a in places)


def _is_plain(value: Node, attend: Attend, stmt: Def) -> bool:
    """Whether an equation is its attention and nothing else."""
    return value.op == "read" and value.arg.ref.name == attend.name and attend.indices == stmt.indices
