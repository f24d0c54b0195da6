"""Between 2 and 3: the prompts of a critique and of a revision, and where they end."""

from __future__ import annotations

from dataclasses import dataclass

from selfalign import resources
from selfalign.errors import DataError
from selfalign.prompts.texts import Assistant, exactly, fill, own_or_shared


@dataclass(frozen=True)
class CritiqueExemplar:
    """One worked critique and revision."""

    principle: str
    question: str
    answer: str
    critique: str
    revision: str


@dataclass(frozen=True)
class CritiqueLayout:
    """The fixed parts of the critique and the revision prompt; one YAML file, one field a key."""

    title: str
    heading: str
    intro: str
    principle: str
    question: str
    answer: str
    critique: str
    revision: str
    closing: str
    """Ends an exemplar."""
    exemplars: tuple[CritiqueExemplar, ...]


def load_critique_layout(folder: str = "") -> CritiqueLayout:
    """The layout `principles/<folder>/prompts/critique.yaml`, or selfalign's own where the folder has none.

    Raises DataError for missing, unknown or empty fields.
    """
    path = own_or_shared(folder, "prompts/critique.yaml")
    content = exactly(CritiqueLayout, resources.read_yaml(path), str(path))
    given = content["exemplars"] or []
    rows = given if isinstance(given, list) else [given]
    shown = [exactly(CritiqueExemplar, row, f"{path}: exemplars") for row in rows]
    texts = [(key, value) for row in ({**content, "exemplars": "-"}, *shown) for key, value in row.items()]
    # An empty marker would end every completion at its first line, and nothing could be told apart.
    if wrong := [key for key, value in texts if not isinstance(value, str) or not value.strip()]:
        raise DataError(f"{path}: expected a text in every field, found none in {', '.join(wrong)}; write one")
    return CritiqueLayout(**{**content, "exemplars": tuple(CritiqueExemplar(**row) for row in shown)})


def critique_stem(layout: CritiqueLayout, assistant: Assistant) -> str:
    """The shared part of every critique and revision prompt: what it is about, the exemplars, and the open slot for the
    principle."""
    blocks = [layout.title, layout.heading, layout.intro]
    for shown in layout.exemplars:
        blocks += [
            f"{layout.principle} {shown.principle}",
            f"{layout.question} {shown.question}",
            f"{layout.answer} {shown.answer}",
            f"{layout.critique} {shown.critique}",
            f"{layout.revision} {shown.revision}",
            layout.closing,
        ]
    blocks.append(layout.principle)
    return fill("\n\n".join(blocks), assistant)


def critique_prompt(
    stem: str, layout: CritiqueLayout, assistant: Assistant, principle: str, question: str, answer: str
) -> str:
    """A principle (without placeholders), a question and its answer behind the stem, with the slot for the critique left
    open."""
    slots = (layout.question, question), (layout.answer, answer)
    given = "\n\n".join(f"{fill(marker, assistant)} {text}" for marker, text in slots)
    return f"{stem} {principle}\n\n{given}\n\n{fill(layout.critique, assistant)}"


def revision_prompt(asked: str, layout: CritiqueLayout, assistant: Assistant, critique: str) -> str:
    """The critique prompt `asked` with its critique, and the slot for the revised answer left open."""
    return f"{asked} {critique}\n\n{fill(layout.revision, assistant)}"


def critique_markers(layout: CritiqueLayout, assistant: Assistant) -> tuple[str, ...]:
    """What begins each part of the layout: no critique and no revision holds one."""
    parts = (layout.principle, layout.question, layout.answer, layout.critique, layout.revision, layout.closing)
    return tuple(fill(part, assistant) for part in parts)


def critique_stops(layout: CritiqueLayout, assistant: Assistant) -> tuple[str, ...]:
    """Strings that begin what follows: a critique ends before the revision, a revision before the next exemplar."""
    parts = (layout.revision, layout.closing, layout.principle)
    return tuple(dict.fromkeys("\n" + fill(part, assistant).split("\n")[0] for part in parts))
