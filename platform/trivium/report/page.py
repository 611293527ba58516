"""The page around a report: its style, its few lines of script, and a policy that lets nothing else run or load."""

from __future__ import annotations

import base64
import hashlib
from html import escape

STYLE = """
:root{color-scheme:light dark;--ink:#1c2128;--soft:#5d6673;--line:#e2e5ea;--page:#fff;--box:#f6f7f9;--train:#98a1af;
--eval:#1f6feb;--best:#c2410c;--other1:#0f8a5f;--other2:#a855f7;--other3:#b7791f;--other4:#d6336c;--other5:#0c8599;
--other6:#5f3dc4;--other7:#868e96}
@media (prefers-color-scheme:dark){:root{--ink:#e4e7ec;--soft:#98a1ad;--line:#2c323a;--page:#14171b;--box:#1c2026;
--train:#7d8796;--eval:#6ea8fe;--best:#fb923c;--other1:#4ade9f;--other2:#c79bff;--other3:#e3b341;--other4:#f783ac;
--other5:#66d9e8;--other6:#b197fc;--other7:#adb5bd}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,
"Helvetica Neue",Arial,sans-serif;font-variant-numeric:tabular-nums;-webkit-text-size-adjust:100%}
main{max-width:1160px;margin:0 auto;padding:40px 20px 56px}
h1{font-size:26px;line-height:1.25;margin:0;font-weight:650;letter-spacing:-.01em;overflow-wrap:anywhere}
h2{font-size:17px;font-weight:650;margin:44px 0 14px}
h3{font-size:13px;font-weight:600;color:var(--soft);margin:18px 0 6px}
p{margin:6px 0}a{color:var(--eval);text-decoration:none}a:hover{text-decoration:underline}
.soft,footer{color:var(--soft)}footer{margin-top:48px;font-size:13px}
.state{display:inline-block;vertical-align:3px;margin-left:10px;padding:1px 9px;border-radius:99px;font-size:12px;
font-weight:600;letter-spacing:0;border:1px solid var(--line);color:var(--soft)}
.state.open{color:var(--best);border-color:currentColor}
.numbers{display:flex;flex-wrap:wrap;gap:14px 44px;align-items:flex-end;margin:24px 0 22px}
.numbers dt,.facts dt{color:var(--soft);font-size:13px}
.numbers dd{margin:0;font-size:24px;line-height:1.25;font-weight:600}
.numbers div:first-child dd{font-size:42px;line-height:1.1;letter-spacing:-.02em}
.facts{display:flex;flex-wrap:wrap;gap:12px 40px;margin:0;padding-top:16px;border-top:1px solid var(--line)}
dl{margin:0}dt,dd{overflow-wrap:anywhere}dd{margin:0}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:26px 28px}
figure{margin:0;min-width:0}.panel{max-width:560px;display:flex;flex-direction:column;justify-content:space-between}
figcaption{display:flex;flex-wrap:wrap;gap:0 14px;align-items:baseline;font-size:13px;color:var(--soft);
margin-bottom:4px;overflow-wrap:anywhere}
figcaption>b{color:var(--ink);font-size:14px;font-weight:600}
.key b{font-weight:600;color:var(--ink)}
.key::before{content:"";display:inline-block;width:12px;height:0;border-top:2.5px solid var(--c,var(--train));
border-radius:2px;margin-right:5px;vertical-align:4px}
.key.ring::before{width:9px;height:9px;border:1.5px solid var(--best);border-radius:50%;vertical-align:-.5px}
svg{display:block;width:100%;height:auto;overflow:visible;touch-action:pan-y}
svg text{font-size:11px;fill:currentColor;opacity:.66}
svg path{fill:none}
.grid{stroke:currentColor;stroke-opacity:.11}.cross{stroke:currentColor;stroke-opacity:.45;visibility:hidden}
.train{--c:var(--train)}.eval{--c:var(--eval)}
.other0{--c:var(--train)}.other1{--c:var(--other1)}.other2{--c:var(--other2)}.other3{--c:var(--other3)}
.other4{--c:var(--other4)}.other5{--c:var(--other5)}.other6{--c:var(--other6)}.other7{--c:var(--other7)}
.band{fill:var(--c);fill-opacity:.14;stroke:none}
.line{stroke:var(--c);stroke-width:1.6;stroke-linejoin:round;stroke-linecap:round}
.dense{stroke-width:.8;opacity:.4}
.dots{stroke:var(--c);stroke-width:4.5;stroke-linecap:round}
.best{fill:none;stroke:var(--best);stroke-width:1.6}
#tip{position:fixed;z-index:1;pointer-events:none;visibility:hidden;background:var(--page);color:var(--ink);
border:1px solid var(--line);border-radius:6px;padding:5px 9px;font-size:12px;line-height:1.5;white-space:pre;
box-shadow:0 2px 10px #0003}
.pictures{display:flex;flex-wrap:wrap;gap:26px 28px}.pictures figure{flex:0 1 auto}
.pictures img{display:block;max-width:min(100%,560px);height:auto;border-radius:4px}
.pixelated{image-rendering:pixelated}
pre{background:var(--box);border-radius:8px;padding:14px 16px;margin:0;white-space:pre-wrap;
overflow-wrap:anywhere}pre.long{columns:2 400px;column-gap:28px}
pre,code,.mono{font:13px/1.55 ui-monospace,SFMono-Regular,Menlo,Consolas,"Liberation Mono",monospace}
.command{display:flex;gap:10px;align-items:flex-start;background:var(--box);border-radius:8px;padding:9px 10px 9px 16px}
.command code{flex:1;min-width:0;padding:3px 0;overflow-wrap:anywhere;white-space:pre-wrap;user-select:all}
button{font:600 12px/1 inherit;font-family:inherit;padding:7px 11px;border-radius:6px;border:1px solid var(--line);
background:var(--page);color:var(--ink);cursor:pointer}button:hover{border-color:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:14px}
td{padding:6px 0;border-top:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
tr:first-child td{border-top:0}td:first-child{color:var(--soft);padding-right:24px;width:11em}
.files td:first-child{width:auto}.files td+td{text-align:right;white-space:nowrap;color:var(--soft)}
summary{cursor:pointer;font-weight:600;margin:28px 0 14px}
.note{border-left:3px solid var(--best);padding:2px 12px;margin:16px 0}
@media (max-width:520px){main{padding:26px 16px 40px}.numbers div:first-child dd{font-size:36px}
.numbers{gap:14px 32px}.facts{gap:12px 30px}td:first-child{width:7.5em;padding-right:14px}}
@media print{button{display:none}.panel,.pictures figure{break-inside:avoid}}
"""

SCRIPT = """
const tip = document.getElementById('tip');
for (const svg of document.querySelectorAll('svg[data-series]')) {
  const series = JSON.parse(svg.dataset.series), [low, high, left, right] = JSON.parse(svg.dataset.domain);
  const cross = svg.querySelector('.cross');
  const hide = () => { tip.style.visibility = cross.style.visibility = 'hidden'; };
  const nearest = (xs, x) => {
    let a = 0, b = xs.length - 1;
    while (a < b) { const m = (a + b) >> 1; if (xs[m] < x) a = m + 1; else b = m; }
    return a && x - xs[a - 1] <= xs[a] - x ? a - 1 : a;
  };
  const show = event => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const x = low + (at.x - left) / (right - left) * (high - low);
    const found = series.map(([, xs]) => xs[nearest(xs, x)]);
    const step = found.reduce((a, b) => Math.abs(b - x) < Math.abs(a - x) ? b : a);
    const lines = series.map(([name, xs, ys]) => [name, xs[nearest(xs, step)], ys[nearest(xs, step)]]);
    tip.textContent = [step.toLocaleString('en') + ' ' + svg.dataset.x, ...lines.map(([name, when, y]) =>
      name + '  ' + y.toLocaleString('en', {maximumSignificantDigits: 6, notation: y && (Math.abs(y) < 1e-3 ||
      Math.abs(y) >= 1e9) ? 'scientific' : 'standard'}) +
      (when === step ? '' : '  (at ' + when.toLocaleString('en') + ')'))].join('\\n');
    cross.setAttribute('transform', `translate(${left + (step - low) / (high - low) * (right - left)} 0)`);
    tip.style.visibility = cross.style.visibility = 'visible';
    tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 6)) + 'px';
    tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 12) + 'px';
  };
  svg.addEventListener('pointermove', show);
  svg.addEventListener('pointerdown', show);
  svg.addEventListener('pointerleave', hide);
}
for (const button of document.querySelectorAll('button')) button.addEventListener('click', () => {
  getSelection().selectAllChildren(button.previousElementSibling);
  if (document.execCommand('copy')) button.textContent = 'Copied';
});
"""


def page(title: str, body: str, *, script: str = "", style: str = "") -> str:
    """A whole HTML document that loads nothing and runs Trivium's own scripts alone, whatever may have got into the
    body.

    Args:
        title: text.
        body: HTML, already escaped.
        script, style: more of Trivium's own, for pages of another kind.
    """
    script = SCRIPT + script
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}{style}</style></head>\n"
        f'<body><main>{body}</main><div id="tip" role="status"></div><script>{script}</script></body></html>\n'
    )
