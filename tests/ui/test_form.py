"""The form made from a method's parameters."""

from dataclasses import replace
from typing import Literal

import gradio as gr
import pytest

from playground.data import tasks
from playground.errors import InvalidParams
from playground.methods.base import Method, Params, parameter
from playground.methods.registry import methods
from playground.settings import Settings
from playground.ui import form


class ManyParams(Params):
    """One field of each kind."""

    count: int = parameter(4, "Count", "A small range.", minimum=1, maximum=16)
    rate: float = parameter(1e-3, "Rate", "No step.", minimum=1e-7, maximum=1.0)
    big: int = parameter(8, "Big", "A wide range.", minimum=1, maximum=4096, advanced=True)
    merge: bool = parameter(True, "Merge", "Yes or no.")
    kind: Literal["a", "b"] = parameter("b", "Kind", "One of two.")
    name: str = parameter("x", "Name", "Free text.")


class Many(Method):
    """A method with one field of each kind."""

    id = "many"
    title = "Many"
    family = "parametric"
    Params = ManyParams

    def adapt(self, params, context):
        """Nothing to do here."""
        raise NotImplementedError


@pytest.fixture
def many():
    with gr.Blocks():
        yield form.build(Many())


def test_each_kind_of_parameter_gets_its_control(many):
    kinds = {name: type(control) for name, control in many.fields.items()}
    assert kinds == {
        "count": gr.Slider,
        "rate": gr.Number,
        "big": gr.Number,
        "merge": gr.Checkbox,
        "kind": gr.Dropdown,
        "name": gr.Textbox,
    }


def test_controls_carry_label_help_and_default(many):
    for spec in ManyParams.fields():
        control = many.fields[spec.name]
        assert (control.label, control.info, control.value) == (spec.label, spec.help, spec.default)


def test_every_registered_method_gets_a_form_with_all_its_parameters():
    for method in methods().values():
        with gr.Blocks():
            built = form.build(method)
        assert set(built.fields) == set(method.Params.model_fields)


def test_a_wrong_value_keeps_the_action_from_running(many):
    values = {spec.name: spec.default for spec in ManyParams.fields()}
    assert all(verdict["is_valid"] for verdict in many.allowed(values, Settings()))
    assert many.params(values) == values
    wrong = values | {"big": 0}
    assert not any(verdict["is_valid"] for verdict in many.allowed(wrong, Settings()))
    assert many.wrong(wrong, Settings()).field == "big"
    assert "between 1 and 4096" in str(many.wrong(wrong, Settings()))


def test_an_emptied_number_is_refused(many):
    values = {spec.name: spec.default for spec in ManyParams.fields()} | {"rate": None}
    with pytest.raises(InvalidParams, match="Rate"):
        many.params(values)


@pytest.fixture
def few_shot():
    """Its form, and its default values on a task."""
    method = methods()["few_shot"]
    with gr.Blocks():
        built = form.build(method)
    return built, {spec.name: spec.default for spec in method.Params.fields()} | {"task": "support-desk"}


def test_an_order_that_does_not_fit_is_found_before_the_start(few_shot):
    built, values = few_shot
    assert built.wrong(values, Settings()) is None
    bad = built.wrong(values | {"order": "nearest last"}, Settings())
    assert bad is not None
    assert bad.field == "order"


def test_k_above_the_pool_is_refused_at_its_field(few_shot, monkeypatch):
    built, values = few_shot
    desk = tasks.task("support-desk", Settings())
    few = replace(desk, train=desk.train[:6])
    monkeypatch.setattr(form.tasks, "task", lambda id, settings: few)
    assert built.wrong(values | {"k": 6}, Settings()) is None
    error = built.wrong(values | {"k": 7}, Settings())
    assert error.field == "k"
    assert str(error) == "k is 7, but “Support desk” has only 6 training examples. Choose at most 6."
