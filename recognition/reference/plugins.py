"""A page for each kind of plugin: what its plugins declare, and each one's arguments."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points

from recognition.reference import declared
from recognition.reference.adapters import adapters
from recognition.reference.docstrings import About, Argument, about
from recognition.reference.markdown import cell, code, filled, papers, table
from recognition.reference.rules import rules_of
from recognition.registry import Registry, registry_of

WRITTEN = "Written by `tools/describe_plugins.py`; a test compares."
COMMON = {  # arguments that mean the same wherever a docstring does not tell
    "classes": '"offset" = equal labels in several sets are other people, "shared" = the same',
    "dropout_at": "where `dropout` strikes",
    "embedding_size": "numbers in an embedding",
    "folds": "so many contiguous ones; 0 = those of the table",
    "layers": "gated layers of the network; a run fills it in",
    "low_res": "resolutions, N or [gallery, probe] pixels",
    "records": "record file, prefix or folder, or several",
    "scale": "the softmax's s",
    "scores": "scores of each image; a run fills it in",
    "seed": "of what is drawn",
    "value": "the score",
}


@dataclass(frozen=True)
class Page:
    """One page. setting: how a recipe names the kind. intro: Markdown that says where more is told."""

    kind: str
    title: str
    setting: str
    intro: str
    heading: str  # of the first table
    declare: Callable[[Registry, Sequence[str]], list[str]]
    after: str = ""  # below the first table

    @property
    def file(self) -> str:
        """Its name under docs/plugins."""
        return f"{self.kind}s.md"

    @property
    def registry(self) -> Registry:
        """That of its kind."""
        if self.kind == "augmentation":
            from recognition.data.augmentations import AUGMENTATIONS

            return AUGMENTATIONS
        return registry_of(self.kind)


PAGES = (
    Page(
        "backbone",
        "Backbones",
        "config.backbone.name",
        "Networks from face to embedding. They take RGB in [-1, 1]; a picture of another size is brought to "
        "theirs inside the model. `config.backbone.weights` is what they start from: "
        "[coming from CVLface and AdaFace](../from_cvlface.md), [from arcface_torch](../from_arcface_torch.md).",
        "What they are",
        declared.backbones,
        "Counted on a network without memory, one picture: products of matrix multiplications and convolutions, "
        "nothing else. *adapters take*: globs over the names of its layers that an adapter changes where a recipe "
        "names none. *blocks*: those whose activations `train.checkpoint_activations` recomputes.",
    ),
    Page(
        "margin",
        "Margins",
        "config.margin.name",
        "Classification losses on the cosines between embeddings and class centres. How to choose one, and what the "
        "published programs have: [losses](../losses.md). What they did on real faces: [results](../results.md).",
        "What they declare",
        declared.margins,
    ),
    Page(
        "objective",
        "Objectives",
        "config.objectives",
        "Losses on embeddings, beside the margin with a `weight`, or alone (`classifier.weight=0`). How to choose one: "
        "[losses](../losses.md). What they did on real faces: [results](../results.md).",
        "What they need",
        declared.objectives,
        "*fields*: of the batch, with the defaults or not. *further views*: pictures that go through the network "
        "in the same pass. *frozen base*: the network of `config.backbone.weights` as a teacher. *the softmax's sum*: "
        "only beside a margin with a softmax.",
    ),
    Page(
        "adapter",
        "Adapters",
        "config.adapter.name",
        "Ways to adapt a backbone. How they compare on real faces: [results](../results.md); the idea behind the gated "
        "ones: [ideas](../ideas.md).",
        "What they declare",
        adapters,
    ),
    Page(
        "scorer",
        "Scorers",
        "config.scorer.name",
        "How well a face can be recognised, from the picture or through the frozen base; **higher is better in all of "
        "them**. What each measures and costs, and whether it finds a matcher's errors: [quality](../quality.md).",
        "What they declare",
        declared.scorers,
        "*needs*: what it looks at. *worst .. best*: typical scores, not bounds. *version*: raised when the same "
        "picture gives another score. Licences, with their sources: [licences](../licences.md).",
    ),
    Page(
        "gate",
        "Gates",
        "config.gate.shape",
        "Forms of the map from score to gate. `config.gate.midpoint` and `config.gate.slope` place it; a form gets "
        "rise = slope * (score - midpoint). What a gate is for: [ideas](../ideas.md); how to fit one to pictures: "
        "[quality](../quality.md).",
        "The gate over the rise",
        declared.gates,
        "Computed with the defaults. *steepness*: of the gate over the rise at the midpoint.",
    ),
    Page(
        "protocol",
        "Protocols",
        "kind, in config.evaluation.sets",
        "How faces are measured. What data each wants and which counts are checked: [protocols](../protocols.md).",
        "All of them",
        lambda registry, names: [*declared.listed(registry, names)],
    ),
    Page(
        "augmentation",
        "Augmentations",
        "config.data.augment",
        "What is done to pictures of training before they are degraded. How batches are made: [losses](../losses.md).",
        "What they declare",
        declared.augmentations,
        "`adaface` and `arcface_torch` by name stand for their published lists. *the clean twin*: the picture that "
        "objectives and `classifier.twins` compare with.",
    ),
)


def ours(registry: Registry) -> list[str]:
    """Names of plugins that the project's own files hold; those of installed packages are left out."""
    others = {entry.name for entry in entry_points(group=f"lrface.{registry.kind}s")}
    own = [name for name in registry.names() if name not in others]
    return [name for name in own if registry.get(name).__module__.startswith(f"{registry.package}.")]


def write(page: Page, names: Sequence[str]) -> str:
    """The page as Markdown, the same in every call. names: of the plugins that are to stand on it."""
    registry = page.registry
    sections = [
        f"# {page.title}\n",
        filled(
            f"{WRITTEN} A recipe chooses one by `{page.setting}`; arguments are set beside the name. Another one "
            f"is one file under `{registry.package.replace('.', '/')}/`: [CONTRIBUTING](../../CONTRIBUTING.md)."
        ),
        "",
        filled(page.intro),
        "",
        f"## {page.heading}\n",
        *page.declare(registry, names),
        *(["", filled(page.after)] if page.after else []),
        "\n## Each of them\n",
        "\n".join("\n".join(section(page, about(name, registry.get(name)))) for name in names),
    ]
    return "\n".join(sections).rstrip() + "\n"


def section(page: Page, found: About) -> Iterator[str]:
    """One plugin: where it stands, what it says of itself, its arguments."""
    yield f"### {found.name}\n"
    yield f"{cell(found.summary)}\n".replace("\\|", "|")
    place = f"[{found.file}](../../{found.file})" if found.file else f"package `{found.module}`"
    cited = papers(found.text)
    yield f"{place}{f'; {cited}' if cited else ''}\n"
    if found.prose:
        yield f"```text\n{found.prose}\n```\n"
    if page.kind == "protocol":
        yield from _stated(rules_of(page.registry.get(found.name)))
    if not found.arguments:
        yield "No arguments.\n"
        return
    rows = [
        (code(one.name), code(one.kind), "required" if one.default is None else code(one.default), _meaning(one, found))
        for one in found.arguments
    ]
    yield from table(("argument", "type", "default", "meaning"), rows)
    yield ""


def _stated(rules: dict[str, str]) -> Iterator[str]:
    if rules:
        yield "States:\n"
        yield from (f"- *{name}*: {text}" for name, text in rules.items())
        yield ""


def _meaning(argument: Argument, found: About) -> str:
    """What the docstring says of an argument, or where."""
    if argument.meaning or argument.name in COMMON:
        return cell(argument.meaning or COMMON[argument.name])
    word = re.compile(rf"\b{re.escape(argument.name)}\b")
    for other in found.arguments:
        if word.search(other.meaning):
            return f"see `{other.name}`"
    return "see above" if word.search(found.prose) else ""


def index(names: dict[str, Sequence[str]]) -> str:
    """The page of pages. names: by kind."""
    lines = [
        "# Plugins\n",
        filled(
            f"{WRITTEN} Everything here is chosen by name in a recipe, and any of one kind goes with any of the others "
            "that makes sense; what makes none is an error that says why. The names of all kinds but "
            "augmentations, and the pages of all kinds, both with what installed packages add:"
        ),
        "",
        "    python tools/train.py --list\n    python tools/describe_plugins.py --out -\n",
    ]
    for page in PAGES:
        links = (f"[`{name}`]({page.file}#{name})" for name in names[page.kind])
        lines += [f"## [{page.title}]({page.file})\n", f"`{page.setting}`\n", f"{', '.join(links)}\n"]
    return "\n".join(lines).rstrip() + "\n"
