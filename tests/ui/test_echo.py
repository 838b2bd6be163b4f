"""Fields that follow another one in the browser."""

import gradio as gr
import pytest

from playground.ui.components.echo import changed, echo


@pytest.mark.parametrize("many", [1, 3])
def test_each_handler_has_an_event_of_its_own(many):
    with gr.Blocks() as blocks:
        source = gr.Number(3)
        for _ in range(many):
            changed(source)(lambda: None)
    served = [fn for fn in blocks.fns.values() if fn.fn is not None]
    assert len({target for fn in served for target in fn.targets}) == len(served) == many
    assert source._id not in {place for fn in served for place, _ in fn.targets}
    handing_on = [fn for fn in blocks.fns.values() if (source._id, "change") in fn.targets]
    assert len(handing_on) == many
    assert all(fn.fn is None and fn.js for fn in handing_on)


def test_an_echo_begins_as_its_source():
    with gr.Blocks():
        assert echo(gr.Dropdown(["one", "two"], value="two")).value == "two"
        assert echo(gr.Textbox()).value == ""
