"""The document around the sections: style, and what draws the figures. Nothing is fetched from anywhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files

from petlas.search.reports.page.html import COLOURS, text

_STYLE = """
:root{color-scheme:light dark;--ink:#1c2126;--soft:#5b6670;--line:#d9dee3;--page:#fff;--mark:#f3f5f7;--heat:#7db2ea}
@media(prefers-color-scheme:dark){:root{--ink:#e3e7eb;--soft:#9aa5b1;--line:#39424c;--page:#14181c;--mark:#1e242a;--heat:#2f6db0}}
@media print{:root{color-scheme:light;--ink:#000;--soft:#444;--line:#bbb;--page:#fff;--mark:#f3f5f7;
--heat:#7db2ea}}
body{font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:68rem;margin:2rem auto;
padding:0 1.5rem}
h1{font-size:1.7rem}h2{font-size:1.25rem;margin:2.4rem 0 .6rem;border-bottom:1px solid var(--line);padding-bottom:.3rem}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.9rem;font-variant-numeric:tabular-nums}
td,th{padding:.25rem .8rem .25rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
.number{text-align:right}td.number{white-space:nowrap}
@media screen{thead th{white-space:nowrap}}figure{margin:1rem 0}
figcaption{color:var(--soft);font-size:.85rem}
.heat{border-collapse:separate;border-spacing:2px}.heat td,.heat th{border:0;padding:.15rem .35rem;text-align:center;
vertical-align:middle;min-width:1.4rem}
.heat th{font-weight:400;color:var(--soft)}.heat tbody th{text-align:left;white-space:nowrap;padding-right:.8rem}
.heat td[style]{background:color-mix(in srgb,var(--heat) var(--share),var(--mark));print-color-adjust:exact}
.upright thead th{vertical-align:bottom}.upright thead th:not(:first-child) span{writing-mode:vertical-rl;
transform:rotate(180deg)}
.picture{display:inline-block;width:8.5rem;margin:.3rem .6rem .6rem 0;vertical-align:top;overflow-wrap:anywhere}
.picture img{display:block;min-width:4.5rem;image-rendering:auto;margin-bottom:.2rem;border-radius:3px}
h3{font-size:1rem;margin:1.4rem 0 .3rem}
pre{background:var(--mark);padding:.8rem;white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
summary{font-size:1.25rem;font-weight:600;cursor:pointer;margin:1rem 0}.lead{font-size:1.15rem}
@media print{body{max-width:none;margin:0}section{break-inside:auto}figure,tr{break-inside:avoid}.modebar{display:none}
h1,h2,h3,summary{break-after:avoid}.wide{overflow:visible}table{font-size:.75rem}td,th{padding-right:.5rem}
td:not(.number){overflow-wrap:anywhere}td:first-child{min-width:4.5rem}}
"""

_SCRIPT = """
(() => {
  const dark = matchMedia('(prefers-color-scheme: dark)');
  const colours = COLOURS;
  const template = night => {
    const ink = night ? '#e3e7eb' : '#1c2126', line = night ? '#39424c' : '#d9dee3';
    const axis = {gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true,
      ticks: 'outside', ticklen: 6, tickcolor: 'rgba(0,0,0,0)', title: {standoff: 12}};
    return {layout: {colorway: colours, font: {color: ink, family: 'system-ui, sans-serif', size: 13}, xaxis: axis,
      yaxis: axis, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', margin: {l: 60, r: 20, t: 20, b: 50},
      hoverlabel: {align: 'left'},
      modebar: {bgcolor: 'rgba(0,0,0,0)', color: line, activecolor: ink},
      legend: {orientation: 'h', y: 1.02, yanchor: 'bottom'}}};
  };
  const draw = (night, width) => document.querySelectorAll('.plot').forEach(plot => {
    if (plot.closest('details:not([open])') && !plot.data) return;  // when it is opened
    const spec = JSON.parse(plot.nextElementSibling.textContent);
    const layout = {...spec.layout, template: template(night), ...(width ? {width} : {})};
    Plotly.react(plot, spec.data, layout, {responsive: !width, displaylogo: false});
  });
  const now = () => draw(dark.matches);
  let closed = [];
  const print = () => {  // paper cannot be opened, and is light and narrow
    closed = [...document.querySelectorAll('details:not([open])')];
    closed.forEach(one => one.open = true);
    draw(false, 680);
  };
  const printed = () => {
    closed.forEach(one => one.open = false);
    now();
  };
  const start = () => {
    now();
    dark.addEventListener('change', now);
    addEventListener('beforeprint', print);
    addEventListener('afterprint', printed);
    document.querySelectorAll('details').forEach(one => one.addEventListener('toggle', now));
    document.body.dataset.drawn = document.querySelectorAll('.plot .main-svg').length;
  };
  const packed = document.getElementById('plotly').textContent;
  const bytes = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
  new Response(stream).text().then(code => {
    const script = document.createElement('script');
    script.textContent = code;
    document.head.append(script);
    start();
  });
})();
"""


def document(names: Sequence[str], parts: Sequence[str]) -> str:
    """The whole page.

    Args:
        names: Of the runs.
        parts: HTML.
    """
    script = _SCRIPT.replace("COLOURS", json.dumps(COLOURS))
    title = text(", ".join(names) if len(names) < 4 else f"{len(names)} runs")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>petlas: {title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        "<noscript>The figures need JavaScript; texts and tables are complete without.</noscript>\n"
        + "\n".join(parts)
        + f'\n<script type="text/plain" id="plotly">{_plotly()}</script>\n<script>{script}</script>\n'
        + "</body>\n</html>\n"
    )


@cache
def _plotly() -> str:
    """plotly.js with the traces that are used here, scatter and bar, gzipped; every browser since 2023 unpacks it.

    It is npm's `plotly.js-basic-dist-min`, a quarter of what the Python package brings. To renew it, put another
    release's `plotly-basic.min.js`, packed by `gzip -9n`, in the file's place, and its licence beside it.
    """
    return base64.b64encode((files(__package__) / "plotly-basic.min.js.gz").read_bytes()).decode()
