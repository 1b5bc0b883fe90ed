"""The page about an adapter, for people: README.md beside its tensors."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from torch import Tensor

from adapters import ADAPTERS

Card = Mapping[str, object]
USE = """```python
from lrface import LRFace

model = LRFace.load("THIS_FOLDER", "BASE.safetensors")
embeddings = model.embed(["a.jpg", "b.jpg"])  # aligned faces -> (2, D), rows of length one: compare by a dot product
```

Several adapters on one base, and tensors in place of pictures:

```python
from recognition.runs import load_adapters

model, bank = load_adapters({"probe": "THIS_FOLDER"}, "BASE.safetensors")
bank.activate("probe")
embedding = model.embed(image)  # (B, 3, 112, 112) float RGB in [-1, 1] -> (B, D), not normalised
```
"""
USE_WHOLE = """```python
from lrface import LRFace

model = LRFace.load("THIS_FOLDER")
embeddings = model.embed(["a.jpg", "b.jpg"])  # aligned faces -> (2, D), rows of length one: compare by a dot product
```

It is a whole backbone: its tensors are read as any weights, `config.backbone.weights`.
"""


def model_card(card: Card, tensors: Mapping[str, Tensor]) -> str:
    """README.md: what it is, its base, settings, results with intervals, use and licence, as Markdown."""
    section = dict(card["adapter"])
    name, backbone = section.pop("name"), card.get("backbone", "a backbone")
    numbers = sum(tensor.numel() for tensor in tensors.values())
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    adapter = ADAPTERS.create(name, **section)
    whole = not adapter.freezes_base and adapter.keeps_base_keys
    rows = {
        "adapter": f"`{name}` {_listed(section)}".strip(),
        "tensors": f"{len(tensors)}, {numbers:,} numbers, {size / 1000:,.1f} kB",
        "backbone": f"`{backbone}` {_listed(card.get('arguments', {}))}".strip(),
        "base": f"`{card.get('base_weights') or 'none: trained from random weights'}`",
        "base, SHA-256 of the file": _code(card.get("base_sha256")),
        "base, SHA-256 of its tensors": _code(card.get("base_tensors_sha256")),
        "trained on records": _code(card.get("records")),
        "input": _preprocessing(card.get("preprocessing")),
    }
    rows |= _training(card.get("training"))
    if adapter.needs_gate and "gate" in card:
        rows["scorer"] = f"{_listed(card.get('scorer', {}))}, of what the network sees"
        rows["gate"] = f"{_listed(card['gate'])}; 0 = low quality, 1 = high"
    elif adapter.needs_gate:
        rows["gate"] = "not told: merge it at one gate by tools/merge_adapter.py, or train on from it"
    kind = "weights, fine-tuned as a whole," if whole else f"adapter (`{name}`)"
    parts = [
        f"# {backbone}: {name}",
        "",
        f"A face-recognition {kind} for `{backbone}`, {_origin(card)}.",
        "An aligned face goes in, an embedding comes out; compare embeddings by their cosine.",
        "",
        *("| | |", "|---|---|"),
        *(f"| {key} | {value} |" for key, value in rows.items() if value),
        "",
        "## Results",
        "",
        *_results(card.get("results"), card.get("evaluated")),
        "## Thresholds",
        "",
        *_thresholds(card),
        "## Use",
        "",
        USE_WHOLE if whole else USE,
        "## Licence",
        "",
        f"Of the base: {card.get('licence') or 'not stated by its file; ask its publisher'}. What was trained from it, "
        "and from the training images, is bound by their terms too.",
    ]
    return "\n".join(parts) + "\n"


def _results(results: object, evaluated: object) -> list[str]:
    """A table for each set and measure: a row per model, a column per side."""
    if not results:
        return ["None were measured.", ""]
    named = {"before": "base", "during": "in training", "after": "with the adapter"}
    if isinstance(evaluated, dict) and "during" in evaluated:
        named["during"] += f", at update {evaluated['during']}"
    lines = ["Per cent, with 95 % bootstrap intervals. Sides in pixels: N = both images, A-B = gallery and probe.", ""]
    some = next(reversed(results.values()))
    for set_name, sides in some.items():
        for measure in _in_order(key for measures in sides.values() for key, one in measures.items() if "value" in one):
            shown = [side for side in sides if measure in sides[side]]
            lines += [f"| {set_name}, {measure} | " + " | ".join(shown) + " |", "|---" * (len(shown) + 1) + "|"]
            for when, found in results.items():
                cells = [_cell(found.get(set_name, {}).get(side, {}).get(measure)) for side in shown]
                lines.append(f"| {named.get(when, when)} | " + " | ".join(cells) + " |")
            lines.append("")
    return lines


def _training(found: object) -> dict[str, str]:
    """The recipe in short, as rows of the table."""
    if not isinstance(found, dict):
        return {}
    data = found.get("data", {})
    counts = ", ".join(f"{data[key]:,} {key}" for key in ("images", "classes") if key in data)
    rows = {"training data": f"`{data.get('records')}`" + (f", {counts}" if counts else "")}
    for key in ("margin", "objectives", "optim", "schedule", "degradation"):
        if key in found:
            told = found[key] if isinstance(found[key], list) else [found[key]]
            rows[key] = "; ".join(_listed(one) for one in told if isinstance(one, dict))
    return rows


def _thresholds(card: Card) -> list[str]:
    """The cosine from which two faces pass at each FAR, of the set and part that the card names."""
    found = card.get("thresholds")
    if not found:
        return [
            "None were measured: that takes a set which tells who is on its pictures, such as pairs of records.",
            "",
        ]
    during = f"Measured in training, at update {found.get('update')}. " if found.get("when") == "during" else ""
    lines = [
        f"{during}Of all pairs of strangers of `{found['set']}`, part {found['part']}; 95 % intervals draw people. On "
        "other pictures, and other people, the rates are others: measure them where much depends on it.",
        "",
        *("| FAR | threshold | TAR, % |", "|---|---|---|"),
    ]
    for far, row in found["at"].items():
        at = row["threshold"]
        if at["value"] is None:
            lines.append(f"| {far} | {row.get('reason', 'not measured')} | |")
            continue
        interval = "" if at["lo"] is None else f" [{at['lo']:.3f}, {at['hi']:.3f}]"
        lines.append(f"| {far} | {at['value']:.3f}{interval} | {_cell(row['tar']) if 'tar' in row else ''} |")
    return [*lines, ""]


def _origin(card: Card) -> str:
    if "source" in card:
        return f"converted from `{card['source']}` (SHA-256 `{card.get('source_sha256')}`)"
    return f"trained with LRFace {card.get('lrface', '')}".rstrip()


def _cell(measure: Mapping[str, float | None] | None) -> str:
    if measure is None:
        return "–"
    scale = 1 if "unit" in measure else 100
    ends = [measure["value"], measure.get("lo"), measure.get("hi")]
    value, lo, hi = ("" if end is None else f"{scale * end:.1f}" for end in ends)
    return f"{value} [{lo}, {hi}]" if lo and hi else value


def _preprocessing(found: object) -> str:
    if not isinstance(found, dict):
        return ""
    side, (low, high) = found["image_size"], found["image_range"]
    resized = f", resized inside to {found['input_size']}" if found["input_size"] != side else ""
    return f"aligned, {side} x {side} px{resized}, {found['colour_order']}, values in [{low:g}, {high:g}]"


def _listed(values: Mapping[str, object]) -> str:
    return ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items())


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _code(text: object) -> str:
    return f"`{text}`" if text else ""
