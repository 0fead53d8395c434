"""A model's settings: its own, those of the models it extends, and `--set`.

Input: a model, the scope of its file and overrides as text.
Output: a `Settings` whose values are computed by need, after every override, and the requirements that must hold.

Precedence: the model extended < the model < `--set`.  A setting keeps the kind it was declared with.  An expression
resolves in the file that wrote it, a `--set` value where the setting was declared; names of settings are the final
model's in all of them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from cdrmix.check.names.mentions import mentioned
from cdrmix.check.names.modules import Lets, ModuleEnv
from cdrmix.check.names.needs import Ring, in_turn, surely
from cdrmix.check.names.scope import Scope, Static
from cdrmix.check.names.statics import RESERVED, RUNTIME, evaluate, import_of, not_static, truth, unknown
from cdrmix.check.names.values import CONTEXT, Failed, a_kind, fail, kind_of, show
from cdrmix.diagnose import CompileError, Report, Span, did_you_mean
from cdrmix.syntax import ast, parse

READ_BY_TOOLS = frozenset({"context", "vocab"})
"""Settings that no line of a stack need read: `context` is the length of a training document, and `vocab` fits a
tokenizer to the model."""

MAX_EXTENDS = 32
"""How long a chain of `extends` may be."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A setting's text: where it stands, where its names resolve, and the entry it overrides."""

    name: str
    value: ast.Expr
    span: Span
    scope: Scope
    where: str
    overrides: Entry | None = None

    @property
    def first(self) -> Entry:
        """The declaration, which fixes the kind."""
        return self.overrides.first if self.overrides else self


@dataclass(slots=True)
class Settings:
    """The settings of one model.  `texts` gains the `--set` options, for diagnostics."""

    report: Report
    texts: dict[str, str]
    lets: Lets = field(default_factory=Lets)
    entries: dict[str, Entry] = field(default_factory=dict)
    groups: dict[str, Span] = field(default_factory=dict)
    requires: list[tuple[ast.Require, Scope]] = field(default_factory=list)
    stack: tuple[ast.Stack, Scope] | None = None
    _values: dict[str, Static | None] = field(default_factory=dict)
    _busy: list[str] = field(default_factory=list)
    _declared: Settings | None = None

    # ---- collecting
    def add(self, model: ast.Model, scope: Scope) -> None:
        """Take a model's statements over those of the models it extends."""
        mine: dict[str, Span] = {}
        stack: ast.Stack | None = None
        for item in model.body:
            match item:
                case ast.Setting():
                    self._declare(item.name, item, scope, mine)
                case ast.Group(name=group, settings=settings):
                    self._group(group, item.span, mine)
                    for setting in settings:
                        self._declare(f"{group}.{setting.name}", setting, scope, mine)
                case ast.Require():
                    self.requires.append((item, scope))
                case ast.Stack() if stack:
                    self.report.error("E0711", item.span, f"model `{model.name}` has two stacks", "keep one")
                case ast.Stack():
                    stack = item
        if stack:
            self.stack = stack, scope

    def _group(self, name: str, span: Span, mine: dict[str, Span]) -> None:
        old = self.entries.get(name)
        if name in mine or old:
            first = mine.get(name) or (old.span if old else span)
            self.report.error("E0205", span, f"`{name}` is defined twice (first at {first.line}:{first.col})",
                              "give a group's settings in one place")  # fmt: skip
        mine[name] = span
        self.groups[name] = span

    def _declare(self, name: str, item: ast.Setting, scope: Scope, mine: dict[str, Span]) -> None:
        report = self.report
        if name in mine:
            at = f"{mine[name].line}:{mine[name].col}"
            report.error("E0205", item.span, f"`{name}` is defined twice (first at {at})", "rename one of the two")
        elif name in RESERVED and name not in CONTEXT:
            report.error("E0205", item.span, f"`{name}` has a meaning in the language", "choose another name")
        elif name in self.groups:
            report.error("E0205", item.span, f"`{name}` is a group of settings", f"set `{name}.…`")
        else:
            self._check_ops(name, item.span, scope)
            old = self.entries.get(name)
            self.entries[name] = Entry(name, item.value, item.span, scope, f"set in {scope.file}", old)
        mine.setdefault(name, item.span)

    def _check_ops(self, name: str, span: Span, scope: Scope) -> None:
        if name in scope.ops:
            self.report.error("E0705", span, f"`{name}` is both a setting and an op",
                              "rename one (groups may share an op's name, settings not)")  # fmt: skip
        elif name in scope.lets:
            self.report.error(
                "E0205", span, f"`{name}` is both a setting and a `let` of the file", "rename one of the two"
            )

    def check_names(self) -> None:
        """Report settings that hide an op or a `let` of a file they were not written in, but are read in."""
        scopes = [scope for _, scope in self.requires] + ([self.stack[1]] if self.stack else [])
        for entry in self.entries.values():
            for scope in scopes:
                if scope is not entry.scope:
                    self._check_ops(entry.name, entry.first.span, scope)

    def override(self, name: str, text: str, option: str = "") -> None:
        """Apply `--set name=text`, or what `option` says it was given by."""
        where = f"set by {option}" if option else "set on the command line"
        option = option or f"--set {plain(name)}"
        span = Span(option, 1, len(option) - len(plain(name)) + 1, 1, len(option) + 1)
        if name in self.groups or name not in self.entries:
            self.texts[option] = option + "="
            self._no_setting(name, option, span)
            return
        value = given_value(option, text, self.texts, self.report)
        if value is not None:
            old = self.entries[name]
            self.entries[name] = Entry(name, value, span, old.first.scope, where, old)

    def _no_setting(self, name: str, option: str, span: Span) -> None:
        if name in self.groups:
            inside = ", ".join(e for e in self.entries if e.startswith(name + "."))
            self.report.error("E0702", span, f"{option}: `{name}` is a group of settings", f"set one of {inside}")
            return
        near = did_you_mean(name, self.entries)
        known = f"the settings are {', '.join(self.entries)}" if self.entries else "the model has no settings"
        self.report.error("E0702", span, f"{option}: no such setting", near or known)

    # ---- values
    def value(self, name: str) -> Static:
        """A setting's value, by its dotted name."""
        if name in self._busy:
            self._fail_ring(self._busy[self._busy.index(name) :])
        if name not in self._values:
            try:
                for needed in in_turn(name, self._needs):
                    self._settle(needed)
            except Ring as ring:
                self._fail_ring(ring.names)
        value = self._values[name]
        if value is None:
            raise Failed
        return value

    def _needs(self, name: str) -> list[str]:
        """The settings without a value yet that a setting surely needs."""
        return [n for n in surely(self.entries[name].value) if n in self.entries and n not in self._values]

    def _settle(self, name: str) -> None:
        """Compute a setting; what it may need besides is computed by need."""
        if name in self._values:
            return
        self._busy.append(name)
        self._values[name] = None
        try:
            self._values[name] = self._compute(self.entries[name])
        except Failed:
            pass  # what needs it fails too
        finally:
            self._busy.pop()

    def _fail_ring(self, names: Sequence[str]) -> NoReturn:
        self._values |= dict.fromkeys(names)
        fail(self.report, "E0206", self.entries[names[0]].span,
             f"`{names[0]}` needs itself: {' → '.join([*names, names[0]])}",
             "give one of them a value of its own")  # fmt: skip

    def _compute(self, entry: Entry) -> Static:
        value = evaluate(entry.value, ModelEnv(self, entry.scope), self.report)
        wanted = self._declared_kind(entry) if entry.overrides else None
        found = kind_of(value)
        if wanted is None or found == wanted:
            return value
        if wanted == "float" and found == "int":
            return float(value)  # type: ignore[arg-type]
        first = entry.first
        help = f"give {a_kind(wanted)}, or change the kind in {first.span.file}:{first.span.line}"
        if wanted == "string" and entry.span.file.startswith("--set"):
            help = f"a string has quotes, also on the command line: --set '{entry.name}=\"…\"'"
        elif wanted == "string" and entry.span.file.endswith(f"set.{entry.name}"):
            help = f"a string has quotes of its own in YAML: {entry.name}: '\"…\"'"
        wrong = f"`{entry.name}` is {a_kind(wanted)} in {first.span.file}, {show(value)} is {a_kind(found)}"
        fail(self.report, "E0703", entry.value.span, wrong, help)

    def _declared_kind(self, entry: Entry) -> str | None:
        """The kind of the declaration's value, without any override; None when it has none."""
        if self._declared is None:
            first = {name: e.first for name, e in self.entries.items()}
            self._declared = Settings(Report(), {}, Lets(), first, self.groups)
        try:
            return kind_of(self._declared.value(entry.name))
        except Failed:
            return None

    def resolve(self) -> dict[str, Static]:
        """Every value that can be computed, in the order of declaration."""
        found: dict[str, Static] = {}
        for name in self.entries:
            try:
                found[name] = self.value(name)
            except Failed:
                continue
        return found

    def check_requires(self) -> None:
        """Report each requirement that does not hold (E0706)."""
        for require, scope in self.requires:
            check_require(require, ModelEnv(self, scope))

    def check_read(self, models: list[ast.Model]) -> None:
        """Report settings that no model of the chain ever reads (E0701)."""
        read: set[str] = set()
        for model in models:
            for item in model.body:
                read |= mentioned(item)
        for entry in self.entries.values():
            if entry.name not in read and entry.name not in READ_BY_TOOLS:
                near = did_you_mean(entry.name, (read | self.entries.keys()) - {entry.name})
                self.report.error("E0701", entry.first.span, f"setting `{entry.name}` is set and never read",
                                  near or "delete it")  # fmt: skip


@dataclass(slots=True)
class ModelEnv:
    """What the expressions of a model see: `local` names of the stack, the settings, and the names of their file."""

    settings: Settings
    scope: Scope
    local: dict[str, Static | None] = field(default_factory=dict)
    carried: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def report(self) -> Report:
        return self.settings.report

    def name(self, node: ast.Name) -> Static:
        if node.id in self.local:
            value = self.local[node.id]
            if value is None:
                raise Failed
            return value
        if node.id in self.settings.entries:
            return self.settings.value(node.id)
        value = ModuleEnv(self.scope, self.report, self.settings.lets).lookup(node.id, node.span)
        if value is not None:
            return value
        if node.id in RUNTIME:
            not_static(node, self.report)
        if node.id in self.settings.groups:
            inside = [e for e in self.settings.entries if e.startswith(node.id + ".")]
            help = f"read one of {', '.join(inside)}" if inside else "it is empty"
            fail(self.report, "E0201", node.span, f"`{node.id}` is a group of settings, not a value", help)
        if node.id == "layer":
            fail(self.report, "E0212", node.span, "`layer` is used outside any `repeat layer`", "use it inside one")
        unknown(node, self.names(), self.report, self.scope)

    def path(self, node: ast.Path) -> Static:
        name = ".".join(node.parts)
        if name not in self.settings.entries:
            unknown(node, self.settings.entries, self.report, self.scope)
        return self.settings.value(name)

    def call(self, node: ast.Call) -> Static | None:
        match node:
            case ast.Call(base=ast.Name(id="carried"), args=(ast.Arg(name=None, value=ast.Name(id=name)),)):
                return name in self.carried
            case ast.Call(base=ast.Name(id="carried")):
                fail(
                    self.report, "E0209", node.span, "`carried` takes the name of a carry", "for instance `carried(v0)`"
                )
        return None

    def names(self) -> Iterator[str]:
        """For `did you mean`."""
        yield from self.local
        yield from self.settings.entries
        yield from self.scope.ops
        yield from self.scope.lets


def plain(name: str) -> str:
    """A name from outside, fit for a message."""
    return name if re.fullmatch(r"[A-Za-z_][\w.]{0,200}", name, re.ASCII) else show(name)


def given_value(option: str, text: str, texts: dict[str, str], report: Report) -> ast.Expr | None:
    """The expression given for an option (`--set n`); `texts` gains the option as it was written."""
    start = f"{option}="
    texts[option] = start + text
    try:  # parsed as a `let` of the same width, so that columns fit the text shown
        items = parse(f"let {'v' * (len(start) - 5)}={text}\n", option).items
    except CompileError as error:
        for d in error.diagnostics:
            report.error(d.code, d.span, d.message, d.help)
        return None
    match items:
        case (ast.Let(value=value),):
            return value
    report.error("E0702", Span(option, 1, len(start) + 1, 1, len(start) + 2), f"{option}: the value is no expression",
                 f"give one, for instance {option}=4")  # fmt: skip
    return None


def check_require(require: ast.Require, env: ModelEnv) -> None:
    """Report a requirement that does not hold, with the settings it was made from (E0706)."""
    try:
        holds = truth(evaluate(require.cond, env, env.report), require.cond, env.report)
    except Failed:
        return
    if not holds:
        settings = env.settings
        read = [settings.entries[n] for n in sorted(mentioned(require.cond)) if n in settings.entries]
        values = [f"{e.name} is {show(settings.value(e.name))}, {e.where}" for e in read]
        local = [f"{n} is {show(v)}" for n, v in env.local.items() if v is not None and n in mentioned(require.cond)]
        because = "; ".join(values + local)
        message = show(require.message)[1:-1] if require.message else "the condition does not hold"
        env.report.error("E0706", require.span, f"require failed: {message}" + (f" ({because})" if because else ""),
                         "change one of the values" if because else "change the condition")  # fmt: skip


def chain(model: ast.Model, scope: Scope, report: Report) -> list[tuple[ast.Model, Scope]]:
    """The model and those it extends, the root first."""
    found = [(model, scope)]
    while (base := found[0][0].extends) is not None:
        top, where = found[0]
        if base in where.broken:
            raise Failed
        if base not in where.models:
            near = did_you_mean(base, where.models)
            fail(report, "E0201", top.span, f"model `{top.name}` extends `{base}`, and there is no such model here",
                 import_of(base, where, top.span) or near or "import it with `use`")  # fmt: skip
        if any(m is where.models[base][0] for m, _ in found):
            ring = " → ".join([*(m.name for m, _ in reversed(found)), base])
            fail(report, "E0206", top.span, f"`{base}` extends itself: {ring}", "one of them must stand alone")
        if len(found) >= MAX_EXTENDS:
            fail(report, "E0219", top.span, f"models extend models more than {MAX_EXTENDS} deep", "extend a nearer one")
        found.insert(0, where.models[base])
    return found
