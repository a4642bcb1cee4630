"""One HTML file that holds all of itself: style and pictures inside, no script, nothing fetched."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from dataclasses import replace

from ..errors import InputError
from ..files import check_writable, written_whole
from .results import Result, kind_of
from .sections import Comparison, Section, compared, section


def report_of(
    results: Sequence[Result],
    path: str | os.PathLike[str],
    title: str = "Curvature report",
    comparisons: Sequence[Comparison] = (),
) -> None:
    """A page with one section for each result, of any kind, after one for each comparison.

    `comparisons`: (heading, text, [(label, curvature result), ...]), each a table with one column a label, and the
    spectra in one picture. Raises InputError for what is no result and where there is none, FileError where `path`
    cannot be written.
    """
    check_writable(path)
    runs = [run for _, _, compared_runs in comparisons for _, run in compared_runs]
    for result in (*results, *runs):
        kind_of(result)
    if not results and not runs:
        raise InputError("there is nothing to report: give at least one result.")
    write_page(title, [*map(compared, comparisons), *map(section, results)], path)


def write_page(title: str, sections: Sequence[Section], path: str | os.PathLike[str]) -> None:
    """Write sections as one HTML file; facts that all of them share are said once, in its header.

    Raises InputError where jinja2 is missing, FileError where the file cannot be written.
    """
    try:
        from jinja2 import Environment, StrictUndefined
    except ImportError as error:
        raise InputError("pages need jinja2: pip install 'bnrewrite[plots]'") from error
    shared = shared_facts(sections)
    sections = [replace(s, facts=[fact for fact in s.facts if fact not in shared]) for s in sections]
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    text = environment.from_string(TEMPLATE).render(title=title, facts=shared, sections=sections, style=STYLE)
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def shared_facts(sections: Sequence[Section]) -> list[tuple[str, str]]:
    """The facts that every section with facts states alike, in their order."""
    stated = [section.facts for section in sections if section.facts]
    return [fact for fact in stated[0] if all(fact in facts for facts in stated)] if stated else []


# The style is ours and no text from a file, so it alone is marked safe.
TEMPLATE = """\
{% macro facts_list(facts) %}
<dl class="facts">
{% for name, value in facts %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
{% endmacro %}
{% macro table_of(table) %}
<div class="wide" tabindex="0" role="region" aria-label="{{ table.caption }}">
<table>
<caption>{{ table.caption }}</caption>
<thead><tr>
{% for column in table.columns %}
<th scope="col"{% if column.startswith(">") %} class="right"{% endif %}>\
{{ column[1:] if column.startswith(">") else column }}</th>
{% endfor %}
</tr></thead>
<tbody>
{% for row in table.rows %}
<tr>
{% for cell in row %}
{% if loop.first %}
<th scope="row">{{ cell }}</th>
{% else %}
<td{% if table.columns[loop.index0].startswith(">") %} class="right"{% endif %}>{{ cell }}</td>
{% endif %}
{% endfor %}
</tr>
{% endfor %}
</tbody>
</table>
</div>
{% endmacro %}
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
{{ style | safe }}
</style>
</head>
<body>
<header>
<h1>{{ title }}</h1>
{% if facts %}
{{ facts_list(facts) }}
{% endif %}
{% if sections | length > 1 %}
<nav aria-label="Contents"><ol>
{% for section in sections %}
<li><a href="#section-{{ loop.index }}">{{ section.heading }}</a></li>
{% endfor %}
</ol></nav>
{% endif %}
</header>
<main>
{% for section in sections %}
<section id="section-{{ loop.index }}">
<h2>{{ section.heading }}{% if section.partial %} <span class="partial">partial result</span>{% endif %}</h2>
{% if section.text %}
<p>{{ section.text }}</p>
{% endif %}
{% if section.facts %}
{{ facts_list(section.facts) }}
{% endif %}
{% for block in section.blocks %}
{% if block.heading %}
<h3>{{ block.heading }}</h3>
{% endif %}
{% if block.picture %}
<figure><img src="data:image/svg+xml;base64,{{ block.picture.svg | base64 }}" alt="{{ block.picture.alt }}" \
width="{{ block.picture.width }}"></figure>
{% endif %}
{% for sentence in block.sentences %}
<p>{{ sentence }}</p>
{% endfor %}
{% if block.table %}
{{ table_of(block.table) }}
{% endif %}
{% endfor %}
</section>
{% endfor %}
</main>
</body>
</html>
"""

STYLE = """\
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #fff; --soft: #59636e; --line: #d5dae0; --band: #f4f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ec; --paper: #15181c; --soft: #9aa4ae; --line: #363c44; --band: #1e2228; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .75rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: 1rem; border-top: 2px solid var(--line);
  overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
p { max-width: 44rem; margin: .5rem 0; }
.facts { display: flex; flex-wrap: wrap; gap: .4rem 2rem; margin: 0 0 1rem; }
.facts div { min-width: 0; }
dt { color: var(--soft); font-size: .8rem; }
dd { margin: 0; overflow-wrap: anywhere; }
nav ol { margin: 0; padding-left: 1.5rem; }
a { color: inherit; }
figure { margin: .75rem 0; }
img { display: block; max-width: 100%; height: auto; background: #fff; border: 1px solid var(--line);
  border-radius: 4px; }
.wide { overflow: auto; max-height: 36rem; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .2rem .75rem .2rem 0; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line); }
thead th { font-weight: 600; position: sticky; top: 0; background: var(--paper); }
tbody th { font-weight: 400; }
tbody tr:hover { background: var(--band); }
.right { text-align: right; padding: .2rem 0 .2rem 1rem; }
.right + :not(.right) { padding-left: 1rem; }
.partial { font-size: .8rem; font-weight: 600; border: 1px solid currentColor; border-radius: 4px; padding: .1rem .4rem;
  vertical-align: middle; }
@media print {
  :root { --ink: #000; --paper: #fff; --soft: #333; --line: #999; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .wide { max-height: none; overflow: visible; }
  table { font-size: 8pt; }
  th, td { white-space: normal; overflow-wrap: anywhere; }
  thead th { position: static; }
  figure, tr { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
}"""
