"""The demo's style sheet and the script of its pickers."""

from recognition.page.style import DARK, DASHES, LIGHT

PICK = """
const send = (value) => { props.value = value; trigger('submit'); };
const input = element.querySelector('input[type=file]');
const drop = element.querySelector('.drop');
const read = (file) => new Promise((done, fail) => {
  const reader = new FileReader();
  reader.onload = () => done([file.name, reader.result.split(',', 2)[1] || '']);
  reader.onerror = () => fail(reader.error);
  reader.readAsDataURL(file);
});
const hand = async (files) => {
  if (!files.length) return;
  const most = MOST;
  const size = Array.from(files).reduce((sum, one) => sum + one.size, 0);
  send(size > most ? 'large:' + size : JSON.stringify(await Promise.all(Array.from(files).map(read))));
};
element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-sample]');
  if (button) send('sample:' + button.dataset.sample);
});
element.addEventListener('change', (event) => {
  if (event.target === input) { hand(input.files).then(() => { input.value = ''; }); event.stopPropagation(); }
});
for (const kind of ['dragover', 'dragleave', 'drop']) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.toggle('over', kind === 'dragover');
    if (kind === 'drop') hand(event.dataTransfer.files);
  });
}
"""

_LOOK = """
.gradio-container{width:100%!important;max-width:1180px!important;margin:0 auto!important}
.lr{--good:#00664a;--bad:#a83200;--warn:#fff7df;--soft:#545b64;--line:#d5d9df;--grid:#e3e6ea;--back:#fff;--text:#1b1f24;
--box:#f5f6f8;LIGHT;color:var(--text);font:15px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
overflow-wrap:anywhere}
.dark .lr{--good:#5fd3ab;--bad:#ff9a73;--warn:#332b12;--soft:#b0b7c0;--line:#454d57;--grid:#2f363e;--back:#15181c;
--text:#e8eaed;--box:#1f242a;DARK}
.lr *{color:inherit}
.lr h1{font-size:1.55rem;font-weight:650;margin:.2rem 0 .1rem;line-height:1.2}
.lr h3{font-size:.95rem;font-weight:600;margin:0;color:var(--soft)}
.lr p{margin:.25rem 0}
.lr .soft,.lr small{color:var(--soft);font-size:.86rem}
.lr .note{background:var(--warn);border-radius:6px;padding:.45rem .7rem;font-size:.9rem;margin:.4rem 0}
.lr code{font:.85em ui-monospace,Consolas,monospace;background:var(--box);padding:.05em .35em;border-radius:4px}
.lr .thumbs{display:grid;grid-template-columns:repeat(6,minmax(0,1fr));gap:5px}
.lr .thumbs button{padding:0;border:2px solid transparent;border-radius:7px;background:none;cursor:pointer;
line-height:0}
.lr .thumbs button:hover,.lr .thumbs button:focus-visible{border-color:var(--s1)}
.lr .thumbs img{width:100%;height:auto;border-radius:5px;margin:0}
.lr .drop{display:block;border:1.5px dashed var(--line);border-radius:8px;padding:.55rem;margin-top:8px;cursor:pointer;
text-align:center;font-size:.88rem;color:var(--soft);position:relative}
.lr .drop:hover,.lr .drop.over,.lr .drop:focus-within{border-color:var(--s1);color:var(--text)}
.lr .drop input{position:absolute;inset:0;opacity:0;cursor:pointer;width:100%}
.lr .face{margin:0;text-align:center}
.lr .face>img{width:100%;max-width:224px;height:auto;aspect-ratio:1;border-radius:10px;margin:0 auto;display:block}
.lr figcaption{font-size:.88rem;margin:.35rem 0}
.lr figcaption span{display:block;color:var(--soft)}
.lr .meters{overflow-wrap:break-word;max-width:224px;
margin:.3rem auto 0;font-size:.88rem;font-variant-numeric:tabular-nums}
.lr .meters p{display:flex;text-align:left;justify-content:space-between;gap:0 .5rem;margin:.1rem 0}
.lr .meters span,.lr .meters small{color:var(--soft)}
.lr .bar{display:block;height:6px;border-radius:3px;background:var(--grid);margin:.25rem 0;overflow:hidden}
.lr .bar i{display:block;height:100%;background:var(--s3)}
.lr .verdicts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,130px),1fr));gap:12px}
.lr .verdict{border:1px solid var(--line);border-radius:12px;padding:.8rem .9rem;background:var(--back)}
.lr .verdict.of1{border-color:var(--s1);border-width:2px}
.lr .number{font-size:1.9rem;font-weight:650;line-height:1.1;margin:.3rem 0;font-variant-numeric:tabular-nums}
.lr .number small{font-weight:400}
.lr .verdict p{font-size:.86rem}
.lr .verdict .number{font-size:1.9rem}
.lr .verdict .answer{font-size:1.1rem;font-weight:650;margin:.5rem 0 .1rem}
.lr .answer.yes{color:var(--good)} .lr .answer.no{color:var(--bad)} .lr .answer.none{color:var(--soft)}
.lr .close{color:var(--soft)}
.lr .scale{position:relative;height:10px;border-radius:5px;background:var(--grid)}
.lr .scale i{position:absolute;top:0;height:100%;display:block}
.lr .scale .fill{left:0;border-radius:5px;background:var(--s0)} .lr .of1 .scale .fill{background:var(--s1)}
.lr .scale .band{background:var(--s2);opacity:.35;top:-3px;height:16px}
.lr .scale .mark{width:3px;margin-left:-1px;background:var(--s2);top:-4px;height:18px;border-radius:1px}
.lr figure{margin:0;min-width:0}
.lr .charts>figure{border:1px solid var(--line);border-radius:12px;padding:.7rem .9rem;background:var(--back)}
.lr .charts figcaption{font-weight:600}
.lr .charts figure>svg{width:100%;height:auto;display:block}
.lr svg text{font:12px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;fill:var(--text)}
.lr svg .soft{fill:var(--soft);font-size:11px}
.lr svg .grid{stroke:var(--grid)} .lr svg .axis{stroke:var(--soft)}
.lr .legend{display:flex;flex-wrap:wrap;gap:.1rem 1rem;list-style:none;margin:.2rem 0 .4rem;padding:0;font-size:.86rem}
.lr .legend li{margin:0}
.lr .legend svg{display:inline-block;width:34px;height:12px;vertical-align:middle;margin-right:.35rem}
.lr details ul{margin:.2rem 0;padding-left:1.2rem;list-style:disc;font-size:.9rem}
.lr summary{cursor:pointer;font-size:.86rem;color:var(--soft)}
.lr .scroll{overflow-x:auto;max-width:100%}
.lr table{border-collapse:collapse;font-size:.86rem;font-variant-numeric:tabular-nums;margin:.4rem 0;width:auto}
.lr th,.lr td{padding:.25rem .55rem;border:0;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;
font-weight:400;background:none}
.lr thead th{font-weight:600;color:var(--soft)}
.lr th:nth-child(2),.lr td:nth-child(2){text-align:left}
.lr .named{display:flex;align-items:center;gap:.5rem}
.lr .named img{border-radius:5px;margin:0}
.lr .matrices{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,420px),1fr));gap:14px}
.lr .matrices th{text-align:center}
.lr .matrices td{border:1px solid var(--back);padding:.3rem .35rem;text-align:center}
.lr .matrices img{width:auto;max-width:100%;image-rendering:pixelated;margin:0}
@media (max-width:600px){.lr .verdict{padding:.6rem .65rem}.lr h1{font-size:1.3rem}
.lr .thumbs{grid-template-columns:repeat(4,minmax(0,1fr))}
.lr .number,.lr .verdict .number{font-size:1.5rem}}
"""


def css() -> str:
    """The style sheet, light or dark as the reader's system is."""
    text = _LOOK
    for name, colours in (("LIGHT", LIGHT), ("DARK", DARK)):
        text = text.replace(name, ";".join(f"--s{i}:{colour}" for i, colour in enumerate(colours)))
    lines = [
        f".lr svg .s{i}{{stroke:var(--s{i});fill:none;stroke-width:2.2;stroke-linejoin:round"
        f"{f';stroke-dasharray:{dash}' if dash else ''}}}"
        f".lr svg .f{i}{{fill:var(--s{i});stroke:none}}.lr svg .e{i}{{stroke:var(--s{i});fill:none;stroke-width:2}}"
        for i, dash in enumerate(DASHES)
    ]
    return text.strip() + "\n" + "\n".join(lines)


def script(most_bytes: int) -> str:
    """What runs in a picker: samples and files become its value, and nothing is sent that is too large anyway."""
    return PICK.replace("MOST", str(most_bytes), 1)
