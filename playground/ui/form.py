"""A form made from a method's parameters, and its checks before anything is queued."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import gradio as gr
from gradio.components.base import Component
from gradio.events import Dependency

from playground.data import subjects, tasks
from playground.errors import InvalidInput
from playground.methods.base import FieldSpec, Method
from playground.settings import Settings
from playground.ui.components.markup import notice
from playground.ui.messages import sentence

SLIDER_STEPS = 40  # a range with more steps than this gets a number field


@dataclass
class Form:
    """The fields of one method by parameter name."""

    method: Method
    fields: dict[str, Component] = field(default_factory=dict)

    def params(self, values: dict[str, Any]) -> dict[str, Any]:
        """The parameters among a handler's values, checked.

        Raises:
            InvalidParams: names the first wrong field.
        """
        own = {name: values[name] for name in self.fields}
        return self.method.Params.parse(own).model_dump(mode="json")

    def filled(self, values: dict[str, Any]) -> list[dict[str, Any]]:
        """Updates that put ``values`` into the fields, and the defaults where there is none."""
        known = self.method.Params.model_fields
        return [gr.update(value=values.get(name, known[name].default)) for name in self.fields]

    def holds(self, values: dict[str, Any], preset: dict[str, Any]) -> bool:
        """Whether the form's values are those of a preset, with the defaults where it says nothing."""
        try:
            return self.params(values) == self.method.Params.parse(preset).model_dump(mode="json")
        except InvalidInput:
            return False

    def wrong(self, values: dict[str, Any], settings: Settings) -> InvalidInput | None:
        """What keeps these values from being run, None where nothing does."""
        try:
            params = self.method.Params.parse({name: values[name] for name in self.fields})
            if values.get("task"):
                self.method.check(params, tasks.task(values["task"], settings))
            if values.get("subject"):
                self.method.check(params, subjects.subject(values["subject"], settings))
        except InvalidInput as error:
            return error
        return None

    def refused(self, error: Exception) -> str:
        """What is said of an error beside a button; the field that it is about is marked with it."""
        name = getattr(error, "field", None)
        return notice(sentence(error), "bad", field_id(self.method.id, name) if name in self.fields else "")

    def allowed(self, values: dict[str, Any], settings: Settings) -> list[dict[str, Any]]:
        """What ``validator=`` wants: one verdict for each of ``values``; the action runs if all are good.

        Without words: Gradio would take its own mark at a field away at any other answer that has to do with it.
        """
        good = self.wrong(values, settings) is None
        return [gr.validate(good, "") for _ in values]

    def guard(
        self, button: gr.Button, inputs: dict[str, Component], problem: gr.HTML, settings: Settings
    ) -> tuple[Dependency, Callable[..., list[dict[str, Any]]]]:
        """Say at once beside the button what is wrong, for an action that may have to wait for its turn.

        Returns: the event after which the button's own action comes, by ``.then``, and that action's ``validator=``.
        """

        def tell(**values):
            error = self.wrong(values, settings)
            return gr.skip() if error is None else self.refused(error)

        told = button.click(
            tell, inputs_kwargs=inputs, outputs=problem,
            api_visibility="private", show_progress="hidden", queue=False,
        )  # fmt: skip
        return told, lambda **values: self.allowed(values, settings)


def build(method: Method, skip: Sequence[str] = (), values: Mapping[str, Any] | None = None) -> Form:
    """Draw the form of a method: plain fields first, advanced ones in a fold.

    Args:
        values: what fields begin with in place of their defaults.
    """
    form = Form(method)
    start = values or {}
    specs = [
        replace(spec, default=start.get(spec.name, spec.default))
        for spec in method.Params.fields()
        if spec.name not in skip
    ]
    plain = [spec for spec in specs if not spec.advanced]
    advanced = [spec for spec in specs if spec.advanced]
    if plain:
        with gr.Row(elem_classes="pg-form"):
            for spec in plain:
                form.fields[spec.name] = control(spec, method.id)
    if advanced:
        with gr.Accordion("More settings", open=False), gr.Row(elem_classes="pg-form"):
            for spec in advanced:
                form.fields[spec.name] = control(spec, method.id)
    return form


def field_id(method_id: str, name: str) -> str:
    """The id of a parameter's field on the page."""
    return f"{method_id}-field-{name}"


def control(spec: FieldSpec, method_id: str) -> Component:
    """The component for one parameter of a method.

    Number fields carry no bounds of their own: the method's parameters check them and say what would
    be right, in one wording for the page, the command line and the API.
    """
    common = {"label": spec.label, "info": spec.help, "min_width": 220, "interactive": True}
    common["elem_id"] = field_id(method_id, spec.name)
    if spec.kind == "boolean":
        return gr.Checkbox(spec.default, **common)
    if spec.kind == "choice":
        return gr.Dropdown(list(spec.choices), value=spec.default, **common)
    if spec.kind == "text":
        return gr.Textbox(spec.default, **common)
    step = spec.step or (1 if spec.kind == "integer" else None)
    if _slides(spec, step):
        return gr.Slider(spec.minimum, spec.maximum, value=spec.default, step=step, buttons=[], **common)
    return gr.Number(spec.default, step=step or spec.default / 10 or 0.1, **common)


def _slides(spec: FieldSpec, step: float | None) -> bool:
    if spec.minimum is None or spec.maximum is None or not step:
        return False
    return (spec.maximum - spec.minimum) / step <= SLIDER_STEPS
