"""What people write in other languages, and what it is in this one: a table.

Input: the name of a function that this language does not have, or has in another form.  Output: its forms, and what a
help line says of it; `translation` writes a form out for the arguments of a call.

A line of the table is `name(arguments) = what to write`, in the language itself.  `a` alone is the argument; `a[i]` is
one place of it, `i` standing for all its axes, or for the one that `dim` names.  `[i]` after the `=` says that the
result keeps these axes, so that it takes an equation.  `la` is the size of `a`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

from cdrmix.check.help.quote import written
from cdrmix.check.names.catalogue import squashed
from cdrmix.check.names.mentions import nodes
from cdrmix.syntax import ast, parse

_TABLE = """
gelu(a) = 0.5*a*(1 + tanh(0.7978845608*(a + 0.044715*a^3)))
swish(a) = silu(a)
logistic(a) = sigmoid(a)
expit(a) = sigmoid(a)
elu(a) = max(a, 0) + exp(min(a, 0)) - 1
leaky_relu(a) = max(a, 0.01*a)
leaky_relu(a, b) = max(a, b*a)
relu6(a) = min(max(a, 0), 6)
hardtanh(a) = min(max(a, -1), 1)
hardsigmoid(a) = min(max(a/6 + 0.5, 0), 1)
hardswish(a) = a*min(max(a/6 + 0.5, 0), 1)
mish(a) = a*tanh(softplus(a))
softsign(a) = a/(1 + abs(a))
logsigmoid(a) = -softplus(-a)
logit(a) = log(a/(1 - a))
clamp(a, b, c) = min(max(a, b), c)
clip(a, b, c) = min(max(a, b), c)
clamp_min(a, b) = max(a, b)
clamp_max(a, b) = min(a, b)
maximum(a, b) = max(a, b)
minimum(a, b) = min(a, b)
max(a, b, c) = max(max(a, b), c)
min(a, b, c) = min(min(a, b), c)
max(a, b, c, d) = max(max(a, b), max(c, d))
min(a, b, c, d) = min(min(a, b), min(c, d))
where(a, b, c) = b if a else c
select(a, b, c) = b if a else c
lerp(a, b, c) = a + c*(b - a)
square(a) = a^2
pow(a, b) = a^b
power(a, b) = a^b
rsqrt(a) = 1/sqrt(a)
reciprocal(a) = 1/a
exp2(a) = 2^a
log2(a) = log(a)/log(2)
log10(a) = log(a)/log(10)
ln(a) = log(a)
tan(a) = sin(a)/cos(a)
sinh(a) = (exp(a) - exp(-a))/2
cosh(a) = (exp(a) + exp(-a))/2
absolute(a) = abs(a)
fabs(a) = abs(a)
sgn(a) = sign(a)
neg(a) = -a
negative(a) = -a
add(a, b) = a + b
sub(a, b) = a - b
subtract(a, b) = a - b
mul(a, b) = a*b
multiply(a, b) = a*b
div(a, b) = a/b
divide(a, b) = a/b
floor_divide(a, b) = a//b
fmod(a, b) = a % b
mod(a, b) = a % b
remainder(a, b) = a % b
ceil(a) = -(-a//1)
trunc(a) = sign(a)*(abs(a)//1)
frac(a) = a - a//1
heaviside(a) = a > 0
eq(a, b) = a == b
ne(a, b) = a != b
lt(a, b) = a < b
le(a, b) = a <= b
gt(a, b) = a > b
ge(a, b) = a >= b
logical_and(a, b) = a and b
logical_or(a, b) = a or b
logical_not(a) = not a
identity(a) = a
detach(a) = a
contiguous(a) = a
clone(a) = a
zeros_like(a) = 0*a
ones_like(a) = 0*a + 1
sum(a) = sum[i](a[i])
mean(a) = mean[i](a[i])
average(a) = mean[i](a[i])
max(a) = max[i](a[i])
min(a) = min[i](a[i])
amax(a) = max[i](a[i])
amin(a) = min[i](a[i])
logsumexp(a) = logsumexp[i](a[i])
prod(a) = exp(sum[i](log(a[i])))
norm(a) = sqrt(sum[i](a[i]^2))
var(a) = mean[i]((a[i] - mean[j](a[j]))^2)
std(a) = sqrt(mean[i]((a[i] - mean[j](a[j]))^2))
any(a) = max[i](a[i])
all(a) = min[i](a[i])
dot(a, b) = sum[i](a[i]*b[i])
vdot(a, b) = sum[i](a[i]*b[i])
inner(a, b) = sum[i](a[i]*b[i])
matmul(a, b) = a @ b
mm(a, b) = a @ b
mv(a, b) = a @ b
bmm(a, b) = a @ b
linear(a, b) = b @ a
linear(a, b, c) = b @ a + c
outer(a, b) = [i, j] a[i]*b[j]
transpose(a) = [j, i] a[i, j]
swapaxes(a) = [j, i] a[i, j]
softmax(a) = [i] softmax[i](a[i])
softmin(a) = [i] softmax[i](-a[i])
log_softmax(a) = [i] a[i] - logsumexp[j](a[j])
normalize(a) = [i] a[i]/sqrt(sum[j](a[j]^2) + 1e-12)
cumsum(a) = [k < la] sum[j](a[j]*(j <= k))
flip(a) = [k < la] a[la - 1 - k]
concat(a, b) = [k < la + lb] a[min(k, la - 1)] if k < la else b[max(k - la, 0)]
cat(a, b) = [k < la + lb] a[min(k, la - 1)] if k < la else b[max(k - la, 0)]
concatenate(a, b) = [k < la + lb] a[min(k, la - 1)] if k < la else b[max(k - la, 0)]
hstack(a, b) = [k < la + lb] a[min(k, la - 1)] if k < la else b[max(k - la, 0)]
arange(a) = [k < a] k
eye(a) = [k < a, m < a] k == m
zeros(a) = [k < a] 0
ones(a) = [k < a] 1
full(a, b) = [k < a] b
one_hot(a, b) = [k < b] k == a
"""

ALONG_THE_LAST = frozenset(["softmax", "softmin", "logsoftmax", "normalize", "cumsum", "flip"])
"""Functions that work along the last axis where none is named."""

_WORDS = """
tril triu causal_mask masked_fill mask attention_mask: no mask is needed: a text says what one token does, and sees \
none after it; a `history` holds those before
view reshape flatten unflatten rearrange permute movedim squeeze unsqueeze: axes have names: read with more indices, \
`x[h, n]`, after `dim D = H * N`, or `x as [H, N]`
repeat tile expand expand_as broadcast_to repeat_interleave: nothing is expanded: an equation reads what it needs at \
each index, `y[h,n] = a[h]*b[h,n]`
dropout: there is none: leave it out
rand randn random normal_ bernoulli multinomial: nothing is random but how a param begins: \
`param W: [D, D] ~ normal(0.02)`
lstm gru rnn lstmcell grucell: a recurrence is a `state` and the equation of its new value: `state h: [D]`, \
`h' = tanh(W @ x + U @ h)`
topk argmax argmin argsort sort: the largest and their places are `values, picks = top[k < n](v)`
linear dense conv2d parameter: a trained matrix is `param W: [out, D] ~ orthogonal()`, and is applied by `W @ x`
gather index_select take take_along_dim scatter embedding: a place is an index: `E[id]`, `x[pick[k]]` of a `top`; a \
computed one is compared: `sum[i](x[i]*(i == p))`
split chunk unbind narrow: a part of an axis is read by arithmetic on its index: `a[i < D//2] = x[i]`, \
`b[i < D//2] = x[i + D//2]`
roll shift delay: the value of the token before is a `state`: `state x1: [D]`, `x1' = x`
len size shape numel: a size is the name of its axis: `D` for an `x: [D]`
conv1d causal_conv1d convolution: a convolution along the tokens reads a history: `history X: [D] last 4 = x`, \
`y[d] = sum[t](F[t,d]*X[t,d])`
scaled_dot_product_attention sdpa multiheadattention flash_attention mha: `use "lib/attention.cdr" { attention }` has \
it; written out it is a `history` of keys and values, and `softmax[t]`
rope rotary apply_rotary rotary_embedding apply_rotary_emb apply_rotary_pos_emb: `use "lib/attention.cdr" { rotate }` \
turns a [H, N] by the token's place
print assert: a demand on settings is `require n > 0, "text"`; values are seen by `metric`
float double half bfloat16 astype to type cast: a type stands in a declaration: `param W: f32[D, D]`, `y = x as f32[D]`
range enumerate zip map: an index runs by itself: `y[i] = …`; layers are repeated by `repeat layer < layers` in a stack
vmap scan cond while_loop fori_loop jit grad: the scan over tokens is in `state`, a choice by value is \
`a if c else b`, and gradients are taken by `cdrmix train`
inv inverse pinv solve det svd eig cholesky qr: there is none: what is solved token by token is a `state` and its \
equation, as in lib/gated_delta.cdr
trace: the sum of a diagonal is `sum[i](W[i,i])`
e: write `2.718281828459045`; a power of it is `exp(x)`
true: write `true`
false: write `false`
pi: write `3.141592653589793`
inf: write `1e30`
none nil: leave it out
self: an op's own names stand alone: `W @ x`
"""
"""Names that are no expression here, and what is said instead."""

MODULES = frozenset({"torch", "np", "numpy", "jnp", "jax", "F", "nn", "math", "tf", "mx", "Tensor", "linalg"})
"""What stands in front of functions elsewhere."""


@dataclass(frozen=True, slots=True)
class Form:
    """A line of the table."""

    formals: tuple[str, ...]
    left: tuple[ast.Expr, ...]
    body: ast.Expr


@lru_cache(maxsize=1)
def forms() -> Mapping[str, list[Form]]:
    """The lines of the table, by squashed name."""
    found: dict[str, list[Form]] = {}
    for line in _TABLE.strip().split("\n"):
        head, text = line.split(" = ", 1)
        name, arguments = head[:-1].split("(")
        left, body = text[1:].split("] ", 1) if text.startswith("[") else ("", text)
        items = _expr(f"x[{left}]") if left else None
        kept = items.items if isinstance(items, ast.Index) else ()
        found.setdefault(squashed(name), []).append(Form(tuple(arguments.split(", ")), kept, _expr(body)))
    return found


def _expr(text: str) -> ast.Expr:
    item = parse(f"let v = {text}\n", "<table>").items[0]
    assert isinstance(item, ast.Let)
    return item.value


def knows(name: str) -> bool:
    """Whether other languages have a function of that name."""
    return squashed(name) in forms() or squashed(name) in _words() or name == "einsum"


@lru_cache(maxsize=1)
def _words() -> Mapping[str, str]:
    lines = (line.split(": ", 1) for line in _WORDS.strip().split("\n"))
    return {squashed(name): text for names, text in lines for name in names.split()}


def in_general(name: str) -> str:
    """What a function of another language is here, whatever it is given."""
    if squashed(name) in _words() and name != "E":
        return _words()[squashed(name)]
    found = forms().get(squashed(name), [])
    if not found:
        return ""
    form = found[0]
    left = f"u[{', '.join(map(written, form.left))}] = " if form.left else ""
    sizes = " with `la` the size of `a`" if "la" in written(form.body) else ""
    return f"`{name}({', '.join(form.formals)})` is `{left}{written(form.body)}`{sizes}"


def as_op(name: str) -> str:
    """A function of one vector as an op of one's own, for a line of a stack."""
    form = next((f for f in forms().get(squashed(name), []) if f.formals == ("a",)), None)
    if form is None or form.left or indices(form):
        return in_general(name)
    body = renamed(form.body, "a", "x")
    return f"add `op {name}(x: [D]) -> [D] {{ return {written(body)} }}`"


def renamed(node: Any, old: str, new: str) -> Any:
    """The syntax with another name for a name."""
    match node:
        case ast.Name(id=name) if name == old:
            return replace(node, id=new)
        case ast.Syntax():
            return replace(node, **{f.name: renamed(getattr(node, f.name), old, new) for f in fields(node)})
        case tuple():
            return tuple(renamed(n, old, new) for n in node)
    return node


def indices(form: Form) -> dict[str, tuple[str, int, int]]:
    """The letters that run over an argument's axes: which argument, at which place of how many."""
    found: dict[str, tuple[str, int, int]] = {}
    for node in nodes(form.body):
        if isinstance(node, ast.Index) and isinstance(node.base, ast.Name) and node.base.id in form.formals:
            for n, item in enumerate(node.items):
                if isinstance(item, ast.Name):
                    found.setdefault(item.id, (node.base.id, n, len(node.items)))
    return found
