"""The look of our HTML pages: one file with everything inside, readable in light and dark.

No script, no font and no picture is fetched: a page can be mailed, stored as an artifact and
opened years later. Every text that comes from outside goes through `html.escape`.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

import cv2
import numpy as np

# Pictures are shown about 240 px wide and stored at twice that, for dense screens.
_PICTURE_WIDTH_PX = 480
_JPEG_QUALITY = 88


def render_page(title: str, parts: Sequence[str]) -> str:
    """The whole page; empty parts are left out."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(filter(None, parts)) + "\n</main>\n"
        "</body>\n</html>\n"
    )


def section(heading: str, body: str, *, note: str = "") -> str:
    """A headed section; `note` is HTML that says how to read it."""
    lead = f'<p class="note">{note}</p>' if note else ""
    return f"<section><h2>{escape(heading)}</h2>{lead}{body}</section>"


def facts_part(facts: Mapping[str, str]) -> str:
    """Names and values, side by side."""
    items = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts.items()
    )
    return f'<section><dl class="facts">{items}</dl></section>'


def figure(picture: np.ndarray, label: str, *, below: Sequence[str] = ()) -> str:
    """A picture, uint8 H×W×3 RGB or H×W×1, with its label and short lines below."""
    lines = "".join(f"<span>{escape(line)}</span>" for line in below)
    return (
        f'<figure><img src="{data_uri(picture)}" alt="{escape(label)}" loading="lazy">'
        f"<figcaption><b>{escape(label)}</b>{lines}</figcaption></figure>"
    )


def data_uri(picture: np.ndarray) -> str:
    """Encode uint8 H×W×3 RGB or H×W×1 as JPEG, shrunk to the stored width (never enlarged)."""
    height, width = picture.shape[:2]
    if width > _PICTURE_WIDTH_PX:
        size = (_PICTURE_WIDTH_PX, max(1, round(height * _PICTURE_WIDTH_PX / width)))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    if picture.ndim == 3 and picture.shape[2] == 3:
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done, "OpenCV refused to encode a uint8 picture"
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")


STYLE = """
:root {
  color-scheme: light dark;
  --page: #fafaf8; --card: #ffffff; --ink: #1c1d1f; --quiet: #666a70; --line: #e3e3df;
  --accent: #2457c5; --mark: #e6eefc; --good: #17713a; --good-bg: #e9f6ee;
  --bad: #a9271c; --bad-bg: #fcecea; --warn: #8a5a00;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131416; --card: #1b1d20; --ink: #e8e8e6; --quiet: #9a9fa6; --line: #2f3237;
    --accent: #86aaf8; --mark: #22304f; --good: #74cf97; --good-bg: #17291e;
    --bad: #f2938a; --bad-bg: #331d1b; --warn: #e0b45c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif;
}
main { max-width: 1560px; margin: 0 auto; padding: 40px 32px 80px; }
h1 { font-size: 28px; line-height: 1.2; letter-spacing: -.01em; margin: 0 0 24px; }
h2 { font-size: 19px; margin: 44px 0 6px; }
h3 { font-size: 15px; margin: 0 0 8px; }
.note, .quiet { color: var(--quiet); font-weight: 400; }
.note { margin: 0 0 14px; max-width: 75ch; }
.verdict { border-left: 4px solid; border-radius: 6px; padding: 12px 18px; margin: 0 0 20px; }
.verdict p { margin: 0; }
.verdict strong { font-size: 17px; margin-right: 10px; }
.verdict ul { margin: 8px 0 2px; padding-left: 20px; }
.verdict li { margin: 3px 0; max-width: 110ch; }
.good { background: var(--good-bg); border-color: var(--good); }
.bad { background: var(--bad-bg); border-color: var(--bad); }
.good strong { color: var(--good); }
.bad strong { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px; }
.tile {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 14px 18px;
}
.tile h3 { margin: 0; color: var(--quiet); font-weight: 500; }
.tile p { margin: 0; color: var(--quiet); font-size: 13px; }
.tile .big {
  font-size: 30px; line-height: 1.3; color: var(--ink);
  font-variant-numeric: tabular-nums;
}
.up { color: var(--good); font-weight: 600; }
.down { color: var(--bad); font-weight: 600; }
.facts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr));
  gap: 10px 28px; margin: 24px 0 0;
}
.facts dt { color: var(--quiet); font-size: 13px; }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.wide {
  overflow-x: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px;
}
table {
  border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums;
  font-size: 14px;
}
th, td { padding: 6px 14px; text-align: right; white-space: nowrap; }
th { font-weight: 500; }
tbody th, thead tr:first-child th:first-child, .gate th:first-child { text-align: left; }
thead th { color: var(--quiet); font-size: 13px; vertical-align: bottom; }
thead tr:first-child th {
  color: var(--ink); font-weight: 600; text-align: center; padding-top: 10px;
}
.gate thead tr th { text-align: right; }
tbody tr { border-top: 1px solid var(--line); }
.first, thead th[colspan] { border-left: 1px solid var(--line); }
td strong {
  display: inline-block; margin: -1px -7px; padding: 1px 7px; border-radius: 5px;
  background: var(--mark); color: var(--accent);
}
tr.overall th, tr.overall td { font-weight: 600; padding-top: 9px; padding-bottom: 9px; }
details { margin-top: 12px; }
summary { cursor: pointer; color: var(--accent); margin-bottom: 10px; }
article { margin: 18px 0 28px; }
article .quiet { font-size: 13px; margin-left: 8px; }
.strip { display: grid; grid-template-columns: repeat(auto-fit, minmax(160px, 1fr)); gap: 12px; }
figure { margin: 0; }
.strip img { display: block; width: 100%; border-radius: 5px; background: var(--line); }
figcaption { font-size: 13px; padding-top: 5px; display: flex; flex-wrap: wrap; gap: 0 12px; }
figcaption b { font-weight: 600; }
.strip figcaption b { flex-basis: 100%; }
figcaption span { color: var(--quiet); font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 14px; }
.charts figure {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  padding: 10px 14px;
}
svg { display: block; width: 100%; height: auto; margin-top: 6px; }
svg text { font-size: 11px; fill: var(--quiet); }
svg .grid { stroke: var(--line); }
svg .axis, svg .zero { stroke: var(--quiet); stroke-width: .8; }
svg polyline { fill: none; stroke: var(--accent); stroke-linejoin: round; }
svg .raw { stroke-width: .8; opacity: .35; }
svg .smooth { stroke-width: 2; }
svg circle { fill: var(--accent); }
svg rect.plain { fill: var(--accent); opacity: .75; }
svg rect.gain { fill: var(--good); opacity: .75; }
svg rect.loss { fill: var(--bad); opacity: .75; }
svg .whisker { stroke: var(--ink); stroke-width: 1.6; }
.map { max-width: 760px; display: grid; grid-template-columns: 420px 1fr; gap: 0 24px; }
.map > svg { border: 1px solid var(--line); border-radius: 8px; background: var(--card); }
.legend { display: flex; flex-direction: column; }
.legend span { display: flex; align-items: center; gap: 8px; }
.legend svg { width: 12px; margin: 0; flex: none; }
svg .bars rect { fill: var(--accent); }
.dense { grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); margin-bottom: 16px; }
h4 { font-size: 13px; font-weight: 500; color: var(--quiet); margin: 0 0 6px; }
.outcome.better { color: var(--good); }
.outcome.worse { color: var(--bad); font-weight: 600; }
.outcome.uncertain { color: var(--warn); font-weight: 600; }
.outcome.equal { color: var(--quiet); }
@media print { main { padding: 0; } article, .tile, .charts figure { break-inside: avoid; } }
"""
