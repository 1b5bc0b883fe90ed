"""The page's look: light unless the reader's system is dark, legible on a phone, plain on paper."""

# base, then runs: told apart by colour-blind readers (after Okabe and Ito), each 3:1 or more on its background, and by
# dashes where there is no colour at all
LIGHT = ("#5f6368", "#0060a8", "#c04000", "#00755a", "#98408a", "#7a5400", "#2b7a94")
DARK = ("#a8adb3", "#6cb6f5", "#ff9a62", "#4fd0a9", "#e79bd6", "#e0b454", "#7fd0e6")
DASHES = ("5 3", "", "9 3", "2 3", "9 3 2 3", "14 4", "4 2 1 2")

_LOOK = """
:root{--back:#fff;--box:#f5f6f8;--line:#c9ced6;--text:#1b1f24;--soft:#545b64;--link:#0b57a4;--good:#00664a;--bad:#a83200;
--warn:#fff7df;--grid:#e3e6ea;LIGHT}
@media (prefers-color-scheme:dark){:root{--back:#15181c;--box:#1f242a;--line:#454d57;--text:#e8eaed;--soft:#b0b7c0;
--link:#8ac2ff;--good:#5fd3ab;--bad:#ff9a73;--warn:#332b12;--grid:#2f363e;DARK}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--back);color:var(--text);overflow-wrap:break-word;
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main,header,footer,nav{max-width:1240px;margin:0 auto;padding:0 16px}
h1{font-size:1.7rem;line-height:1.2;margin:1.2rem 0 .3rem;overflow-wrap:anywhere}
h2{font-size:1.35rem;margin:2.4rem 0 .5rem;padding-top:.5rem;border-top:1px solid var(--line)}
h3{font-size:1.1rem;margin:1.5rem 0 .4rem}
h4{font-size:1rem;margin:1rem 0 .3rem}
p{margin:.5rem 0;max-width:75ch}
a{color:var(--link)}
code{font:.875em/1.4 ui-monospace,SFMono-Regular,Consolas,monospace;background:var(--box);padding:.05em .3em;
border-radius:3px;overflow-wrap:anywhere}
:focus-visible{outline:3px solid var(--link);outline-offset:2px}
.skip{position:absolute;left:-9999px}
.skip:focus{left:8px;top:8px;background:var(--back);padding:8px 12px;z-index:2}
nav ul{list-style:none;margin:.6rem 0 0;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1rem}
nav a{display:inline-block;padding:.25rem 0}
.box{background:var(--box);border:1px solid var(--line);border-radius:8px;padding:.8rem 1rem;margin:1rem 0}
.box h2{border:0;margin:0 0 .4rem;padding:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,250px),1fr));gap:.6rem;margin:.8rem 0;
padding:0;list-style:none}
.tiles li{background:var(--back);border:1px solid var(--line);border-radius:6px;padding:.5rem .7rem}
.tiles b{font-size:1.35rem;line-height:1.25;font-variant-numeric:tabular-nums}
.tiles p{margin:.1rem 0}
.whole{white-space:nowrap}
.tight table{font-size:.82rem}
.tight .soft{font-size:.78rem}
.tight th,.tight td{padding:.3rem .45rem}
.tiles span,.soft{color:var(--soft);font-size:.9rem}
.note{background:var(--warn);border-left:4px solid var(--line);padding:.5rem .8rem;border-radius:3px}
.scroll{overflow-x:auto;margin:.6rem 0;max-width:100%}
table{border-collapse:separate;border-spacing:0;font-size:.9rem;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.3rem 0}
th,td{padding:.3rem .6rem;border-bottom:1px solid var(--line);text-align:right;vertical-align:top;white-space:nowrap}
th{font-weight:600}
tbody th,thead th:first-child{text-align:left;font-weight:500;position:sticky;left:0;background:var(--back)}
thead th,thead th:first-child{background:var(--box)}
.words td,.words th{text-align:left;white-space:normal}
.words td{min-width:14rem}
.words td code,.words th{overflow-wrap:anywhere}
.better td.verdict{color:var(--good);font-weight:600}
.worse td.verdict{color:var(--bad);font-weight:600}
.group th{background:var(--box);font-weight:600}
details{margin:.5rem 0}
header details{margin:0 0 .6rem;font-size:.9rem}
summary{cursor:pointer;padding:.3rem 0;color:var(--link)}
summary::marker{color:var(--soft)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:1rem;align-items:start}
.wide{grid-template-columns:repeat(auto-fill,minmax(min(100%,520px),1fr))}
figure{margin:0;min-width:0}
.charts figure{border:1px solid var(--line);border-radius:6px;padding:.5rem .6rem}
figcaption{font-weight:600;font-size:.92rem;margin-bottom:.2rem;overflow-wrap:anywhere}
.charts svg{width:100%;height:auto;display:block}
.charts details{margin:0;font-size:.9rem}
svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--text)}
svg .soft{fill:var(--soft);font-size:11px}
svg .grid{stroke:var(--grid)}
svg .axis{stroke:var(--soft)}
svg .hollow{fill:var(--back);stroke-width:2}
svg .unknown{fill:var(--grid);opacity:.55}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;margin:.4rem 0 .7rem;padding:0;font-size:.92rem}
.charts .legend svg{display:inline-block;width:34px;height:12px;vertical-align:middle;margin-right:.35rem}
.legend li{overflow-wrap:anywhere}
.pairs{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,268px),1fr));gap:.8rem;margin:.5rem 0 1rem;
padding:0;list-style:none}
.pairs>li{border:1px solid var(--line);border-radius:6px;padding:.5rem;font-size:.88rem}
.three{grid-template-columns:repeat(auto-fill,minmax(min(100%,372px),1fr))}
.faces{display:flex;flex-wrap:wrap;gap:.5rem}
.faces figure{width:112px}
.faces img,.faces .gone{width:112px;height:112px;display:block;border-radius:3px;background:var(--grid)}
.faces .gone{font-size:.8rem;padding:.4rem;overflow:hidden}
.faces figcaption{font-weight:400;font-size:.8rem;line-height:1.3;color:var(--soft);margin:.15rem 0 0}
.pairs p{margin:0 0 .3rem}
footer{margin-top:3rem;padding-bottom:2rem;color:var(--soft);font-size:.9rem;border-top:1px solid var(--line)}
@media (max-width:600px){body{font-size:15px}.faces figure,.faces img,.faces .gone{width:104px}.faces img,.faces .gone
{height:104px}}
@media print{:root{--back:#fff;--box:#fff;--text:#000;--soft:#333;--line:#999;--link:#000;--warn:#fff;--grid:#ddd;LIGHT}
nav,.skip{display:none}.scroll{overflow:visible}figure,tr,.pairs>li{break-inside:avoid}h2,h3{break-after:avoid}
body{font-size:11pt}th,td{white-space:normal}}
"""


def css() -> str:
    """The style sheet: one class s0, s1, ... for each line, a bar s0 ... for areas, whatever the theme."""
    variables = {
        "LIGHT": "".join(f"--s{i}:{colour};" for i, colour in enumerate(LIGHT)),
        "DARK": "".join(f"--s{i}:{colour};" for i, colour in enumerate(DARK)),
    }
    text = _LOOK
    for name, value in variables.items():
        text = text.replace(name, value)
    lines = [
        f"svg .s{i}{{stroke:var(--s{i});fill:none;stroke-width:2;stroke-linejoin:round"
        f"{f';stroke-dasharray:{dash}' if dash else ''}}}"
        f"svg .f{i}{{fill:var(--s{i});stroke:none}}svg .a{i}{{fill:var(--s{i});stroke:none;opacity:.18}}"
        f"svg .e{i}{{stroke:var(--s{i});fill:none;stroke-width:1.5}}"
        for i, dash in enumerate(DASHES)
    ]
    return text.strip() + "\n" + "\n".join(lines)
