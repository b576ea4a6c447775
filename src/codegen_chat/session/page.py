"""A session as one HTML page that needs nothing else: no script, no network; narrow and wide, light and dark.

What stands in it was written by a person, a model and running code: all of it is escaped, and the page's own policy lets nothing
run or load.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

from pygments import highlight
from pygments.formatters.html import HtmlFormatter
from pygments.lexers.python import PythonLexer

from codegen_chat.session.export import clean, live, reason
from codegen_chat.session.picture import Picture
from codegen_chat.session.table import html_table, table
from codegen_chat.turn import Execution, Turn

_STYLE = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --soft: #59636e; --box: #f6f8fa; --line: #d1d9e0;
  --keyword: #a0111f; --name: #0550ae; --function: #6639ba; --string: #0a3069; --comment: #59636e; --wrong: #a0111f; }
@media (prefers-color-scheme: dark) { :root { --paper: #0d1117; --ink: #e6edf3; --soft: #9198a1; --box: #161b22; --line: #3d444d;
  --keyword: #ff7b72; --name: #79c0ff; --function: #d2a8ff; --string: #a5d6ff; --comment: #9198a1; --wrong: #ff7b72; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 52rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0; }
h2 { font-size: 1rem; margin: 0 0 .5rem; white-space: pre-line; }
.facts, .soft { color: var(--soft); font-size: .875rem; }
.facts { margin: 0 0 1.5rem; }
section { border-top: 1px solid var(--line); padding: 1rem 0; }
pre, table { font: .875rem/1.45 ui-monospace, monospace; }
pre { margin: .5rem 0; padding: .625rem .75rem; overflow-x: auto; border-radius: .375rem; overflow-wrap: normal; }
pre.code { background: var(--box); }
pre.output { border-left: 3px solid var(--line); border-radius: 0; padding-block: .25rem; max-height: 30rem; overflow-y: auto; }
.wrong { color: var(--wrong); }
.table { overflow-x: auto; margin: .5rem 0; }
table { border-collapse: collapse; overflow-wrap: normal; }
th, td { padding: .2rem .75rem; border-bottom: 1px solid var(--line); text-align: left; white-space: nowrap; }
img { display: block; max-width: 100%; margin: .75rem 0; background: #fff; border-radius: .375rem; }
.failed pre.code { opacity: .7; }
.k, .kc, .kd, .kn, .kr, .ow, .o { color: var(--keyword); } .nb, .bp, .mi, .mf, .mh, .kt, .ne { color: var(--name); }
.nf, .fm, .nc, .nd { color: var(--function); } .s, .s1, .s2, .sa, .sd, .se, .si, .sr { color: var(--string); }
.c, .c1, .ch, .cm { color: var(--comment); font-style: italic; }
@media print { pre { white-space: pre-wrap; max-height: none; } section { break-inside: avoid; } }
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_FORMAT: HtmlFormatter[str] = HtmlFormatter(nowrap=True)


def render_html(turns: Sequence[Turn], facts: Sequence[str], pictures: Mapping[str, Sequence[Picture]]) -> str:
    """Write turns as a page. `pictures` has, by a turn's id, those that it drew."""
    title = next((line for turn in turns for line in clean(turn.text) if line.strip()), "A session")
    sections = "\n".join(_section(number, turn, pictures.get(turn.id, ())) for number, turn in enumerate(turns, 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="generator" content="codegen-chat">
<title>{_safe(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1 dir="auto">{_safe(title)}</h1>
<p class="facts">{_safe(" · ".join(facts))}</p>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(number: int, turn: Turn, pictures: Sequence[Picture]) -> str:
    kept = live(turn) is not None
    parts = [f'<section{"" if kept else " class=failed"} id="turn-{number}">']
    parts.append(f'<h2 dir="auto">{number}. {_safe(turn.text.strip() or "Own code")}</h2>')
    if not kept:
        parts.append(f'<p class="soft wrong">{_safe(reason(turn))}</p>')
    if turn.code.strip():
        parts.append(f'<pre class="code" tabindex="0">{_code(turn.code)}</pre>')
    if turn.execution:
        parts += _results(turn.execution)
    parts += map(_image, pictures)
    return "\n".join([*parts, "</section>"])


def _results(execution: Execution) -> list[str]:
    shown = []
    for text, kind in ((execution.stdout, ""), (execution.stderr, " wrong")):
        if text.strip():
            shown.append(_output(text, kind))
    found = table(execution.typed_value)
    if found is not None:
        shown.append(f'<div class="table" tabindex="0">{html_table(found)}</div>')
    elif execution.value is not None:
        shown.append(_output(execution.value))
    if execution.failure and execution.failure.traceback:
        shown.append(_output(execution.failure.traceback, " wrong"))
    if execution.truncated:
        shown.append(f'<p class="soft">{execution.truncated} characters of output over the limit were dropped</p>')
    changes = ", ".join(
        f"{change.kind} {change.name}" + f": {change.summary}" * bool(change.summary) for change in execution.changes
    )
    if changes:
        shown.append(f'<p class="soft">{_safe(changes)}</p>')
    return shown


def _output(text: str, kind: str = "") -> str:
    return f'<pre class="output{kind}" tabindex="0">{_safe(text.rstrip())}</pre>'


def _image(picture: Picture) -> str:
    data = base64.b64encode(picture.data).decode()
    return f'<img alt="{_safe(picture.name)}" src="data:{picture.kind};base64,{data}">'


def _code(code: str) -> str:
    return str(highlight("\n".join(clean(code)).strip("\n"), PythonLexer(), _FORMAT)).rstrip("\n")


def _safe(text: str) -> str:
    """Return plain text as HTML that shows it as it is."""
    return html.escape("\n".join(clean(text)))
