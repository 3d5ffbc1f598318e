"""Reads the prompts of this room: TOML files in ``prompts/words/``, or your own."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

import pydantic

from genrank.errors import ConfigError, first_problem
from genrank.files import prompts_folder, read_text
from genrank.prompting.template import ReasonForm, split_form
from genrank.text.language import Language


class WritingForm(ReasonForm):
    """How a text about one listing is asked for, in the words of one language; a `ReasonForm` with two keys more.

    Attributes:
        nothing: Stands for the query where there is none, such as ``anything``.
    """

    nothing: str


class WritingPrompt(pydantic.BaseModel, extra="forbid", frozen=True):
    """A prompt that asks for a text about one listing.

    Attributes:
        name: Its name.
        version: Increased with each change of wording.
        description: What it asks for.
        source: Who wrote it.
        en: In English; also used for languages without a form of their own.
        zh: In Chinese.
    """

    name: str
    version: int
    description: str
    source: str
    en: WritingForm
    zh: WritingForm

    def form(self, spoken: Language) -> WritingForm:
        """The form in a language."""
        return self.zh if spoken == "zh" else self.en


class AspectExample(pydantic.BaseModel, extra="forbid", frozen=True):
    """A sentence with an answer, which the model reads as a turn before its own.

    Attributes:
        sentence: Of a review.
        aspect: Name of an aspect.
        answer: One of the form's four.
    """

    sentence: str
    aspect: str
    answer: str


class TopicExample(pydantic.BaseModel, extra="forbid", frozen=True):
    """A sentence with the aspect that it speaks of.

    Attributes:
        sentence: Of a review.
        aspects: Names to choose from.
        answer: One of them, or the form's ``none``.
    """

    sentence: str
    aspects: tuple[str, ...]
    answer: str


class TopicForm(pydantic.BaseModel, extra="forbid", frozen=True):
    """How it is asked which aspect a sentence speaks of.

    Attributes:
        system: The system text.
        question: Holds ``{sentence}`` and ``{aspects}``, in this order.
        between: Comes between two aspects.
        none: The answer that means none of them.
        examples: Sentences with their answers.
    """

    system: str
    question: str
    between: str
    none: str
    examples: tuple[TopicExample, ...]

    @pydantic.model_validator(mode="after")
    def _check(self) -> TopicForm:
        split_form("topic.question", self.question, "sentence", "aspects")
        if wrong := [one.answer for one in self.examples if one.answer not in (*one.aspects, self.none)]:
            raise ValueError(f"topic.examples: {wrong[0]!r} is neither one of its aspects nor {self.none!r}")
        return self


class AspectForm(pydantic.BaseModel, extra="forbid", frozen=True):
    """How the polarity of a sentence is asked for, in the words of one language.

    Attributes:
        system: The system text.
        question: Holds ``{sentence}`` and ``{aspect}``, in this order.
        nothing: A sentence without any opinion; the model's answer to it is its leaning.
        positive: The answer that means praise.
        negative: The answer that means blame.
        mixed: The answer that means both.
        none: The answer that means no opinion.
        examples: Sentences with their answers.
        topic: How it is asked which aspect a sentence speaks of.
    """

    system: str
    question: str
    nothing: str
    positive: str
    negative: str
    mixed: str
    none: str
    examples: tuple[AspectExample, ...]
    topic: TopicForm

    @pydantic.model_validator(mode="after")
    def _check(self) -> AspectForm:
        split_form("question", self.question, "sentence", "aspect")
        if len(set(self.answers)) < len(self.answers):
            raise ValueError(f"positive, negative, mixed and none must differ, got {list(self.answers)}")
        if wrong := [one.answer for one in self.examples if one.answer not in self.answers]:
            raise ValueError(f"examples: {wrong[0]!r} is no answer; they are {list(self.answers)}")
        return self

    @property
    def answers(self) -> tuple[str, str, str, str]:
        """The answers for positive, negative, mixed and none."""
        return self.positive, self.negative, self.mixed, self.none


class AspectPrompt(pydantic.BaseModel, extra="forbid", frozen=True):
    """A prompt that asks for the polarity of a sentence; its attributes are those of `WritingPrompt`."""

    name: str
    version: int
    description: str
    source: str
    en: AspectForm
    zh: AspectForm

    def form(self, spoken: Language) -> AspectForm:
        """The form in a language."""
        return self.zh if spoken == "zh" else self.en


P = TypeVar("P", WritingPrompt, AspectPrompt)


def load_prompt(name: str | Path, kind: type[P]) -> P:
    """Load a prompt by name (``summary``, ``title``, ``aspects``), or from a ``.toml`` file.

    Args:
        name: The name or the file.
        kind: What it must be.

    Raises:
        ConfigError: When there is no such prompt, or it is not valid; the message names the key.
    """
    folder = prompts_folder() / "words"
    try:
        if str(name).endswith(".toml"):
            text = read_text(Path(name))
        else:
            names = sorted(one.name.removesuffix(".toml") for one in folder.iterdir() if one.name.endswith(".toml"))
            if name not in names:
                raise ConfigError(f"no prompt {name!r} for words; known are {names}, or pass a .toml file")
            text = (folder / f"{name}.toml").read_text(encoding="utf-8")
        return kind.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"prompt {name}: not TOML: {error}") from None
    except pydantic.ValidationError as error:
        key, message = first_problem(error.errors(include_url=False))
        raise ConfigError(f"prompt {name}: " + (f"{key}: {message}" if key else message)) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read the prompt {name}: {error}") from None
