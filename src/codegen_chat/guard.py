"""May this line stand? Syntax and names only, by `ast`; nothing is run.

The guard says no only when it is sure, and only for the sake of the last line, since that is the one which can be drawn again.
What it cannot see it lets pass: function bodies (their names may be bound later), annotations, generators kept for later,
`try` and `with` blocks (which may expect the NameError), and code that reaches into namespaces by `exec` and its like.
"""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Collection, Iterable, Iterator

from codegen_chat.turn import Accept

_ALWAYS = frozenset(dir(builtins)) | {"__file__", "__annotations__", "__builtins__"}
_REACHING = frozenset({"exec", "eval", "globals", "locals", "vars", "setattr", "builtins", "__builtins__"})
_ALLOW_INCOMPLETE = 0x4000  # codeop.PyCF_ALLOW_INCOMPLETE_INPUT, which typeshed does not know
_PLAIN = (ast.Call, ast.Constant, ast.Assign, ast.Import, ast.ImportFrom)
_UNREADABLE = (SyntaxError, ValueError, RecursionError, MemoryError)  # a null character, nested too deeply


def guard(names: Collection[str] | None) -> Accept:
    """Make the guard for code that will run where these names are alive; None: nobody knows them, so it minds syntax only."""
    alive = None if names is None else _ALWAYS.union(names)

    def accept(text: str) -> bool:
        lines = text.removesuffix("\n").split("\n")
        if not _possible(text):
            return not _possible("\n".join(lines[:-1]))  # where an older line is to blame, no other last line would help
        tree = _tree(lines)
        return alive is None or tree is None or _names_exist(tree.body, len(lines), alive)

    return accept


def is_code(text: str, names: Collection[str]) -> bool:
    """Tell whether words are Python and nothing else: a program over these names, such as `len(nums)` or a name alone.

    What may be words too is not: `min, max`, or `note: later`, which Python takes for an annotation.
    """
    text = text.strip()
    if text in names:
        return True
    try:
        tree = _parse(text)
    except _UNREADABLE:
        return False
    alive = _ALWAYS.union(names)
    return (
        re.search(r"[^\w\s]", text) is not None
        and any(isinstance(node, _PLAIN) or (isinstance(node, ast.Name) and node.id in names) for node in ast.walk(tree))
        and not any(isinstance(node, ast.AnnAssign) and node.value is None for node in tree.body)
        and _names_exist(tree.body, 1, alive)
    )


def blank(code: str) -> bool:
    """Tell whether this code does nothing: empty lines and comments only."""
    return all(not line.strip() or line.lstrip().startswith("#") for line in code.splitlines())


def _parse(text: str, flags: int = 0) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape such as "\d" is for the one who runs it to hear about
        tree: ast.Module = compile(text, "<turn>", "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True)
    return tree


def _possible(text: str) -> bool:
    """Tell whether this text is a program or can still become one."""
    try:
        _parse(text, _ALLOW_INCOMPLETE)
    except SyntaxError as error:
        return str(error).startswith("incomplete input")
    except ValueError:  # a null character
        return False
    except (RecursionError, MemoryError):  # nested too deeply to tell
        return True
    return True


def _tree(lines: list[str]) -> ast.Module | None:
    """Parse what stands so far, a block's first line with a body under it; None where a statement is not complete."""
    if lines[-1].rstrip().endswith(":"):
        indent = lines[-1][: len(lines[-1]) - len(lines[-1].lstrip())]
        lines = [*lines, f"{indent} pass"]
    try:
        return _parse("\n".join(lines))
    except _UNREADABLE:
        return None


def _names_exist(body: list[ast.stmt], line: int, alive: Collection[str]) -> bool:
    """Tell whether every name that is used from this line on is bound by then."""
    if any(_reaches(node) for statement in body for node in ast.walk(statement)):
        return True
    known = frozenset(alive)
    for statement in body:
        if (statement.end_lineno or line) >= line:
            # In `x = x + 1` the right side comes first; otherwise a name may be bound by the statement that uses it.
            value = statement.value if isinstance(statement, ast.Assign | ast.AnnAssign) else None
            for part in [value, statement] if value else [statement]:
                here = known.union(_bound(part))
                if any(name.id not in here for name in _used(part) if name.lineno >= line):
                    return False
        known = known.union(_bound(statement))
    return True


def _reaches(node: ast.AST) -> bool:
    """Tell whether names may come into being here that `ast` does not show."""
    return (isinstance(node, ast.Name) and node.id in _REACHING) or (
        isinstance(node, ast.ImportFrom | ast.Import) and any(alias.name in {"*", "builtins"} for alias in node.names)
    )


def _bound(node: ast.AST) -> Iterator[str]:
    """Yield the names that a node binds in the scope that it stands in."""
    match node:
        case ast.Name(ctx=ast.Store()):
            yield node.id
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            yield node.name
            yield from (name for inner in ast.walk(node) if isinstance(inner, ast.Global) for name in inner.names)
            return
        case ast.AugAssign(target=ast.Name()):  # which needs its name to be there
            yield from _bound(node.value)
            return
        case ast.Lambda():
            return
        case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
            yield from (inner.target.id for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr))
            return
        case ast.alias():
            yield (node.asname or node.name).partition(".")[0]
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
            yield name
        case ast.MatchMapping(rest=str(name)):
            yield name
    for child in ast.iter_child_nodes(node):
        yield from _bound(child)


def _used(node: ast.AST, inner: frozenset[str] = frozenset()) -> Iterator[ast.Name]:
    """Yield the names that running a node looks up at once, but for those of the scopes inside it (`inner`)."""
    match node:
        case ast.Name(ctx=ast.Load()) if node.id not in inner:
            yield node
        case ast.AugAssign(target=ast.Name() as target) if target.id not in inner:
            yield target
        case ast.ClassDef():
            yield from (name for part in [*node.decorator_list, *node.bases, *node.keywords] for name in _used(part, inner))
            inner = inner.union(*map(_bound, node.body))
        case ast.ListComp() | ast.SetComp() | ast.DictComp():
            inner = inner.union(name for generator in node.generators for name in _bound(generator.target))
    for child in _run_at_once(node):
        yield from _used(child, inner)


def _run_at_once(node: ast.AST) -> Iterable[ast.AST]:
    """Return the parts of a node that run when it does, as far as one can be sure of it."""
    match node:
        case ast.FunctionDef(args=args) | ast.AsyncFunctionDef(args=args) | ast.Lambda(args=args):
            decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
            return [*decorators, *args.defaults, *filter(None, args.kw_defaults)]
        case ast.ClassDef():
            return node.body
        case ast.AnnAssign():
            return [node.value] if node.value else []
        case ast.GeneratorExp():
            return [node.generators[0].iter]
        case ast.Try() | ast.TryStar() | ast.With() | ast.AsyncWith():
            return []
    return ast.iter_child_nodes(node)
