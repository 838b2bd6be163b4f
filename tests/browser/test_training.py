"""From the form to the exported adapter in a real browser, with a tiny random model."""

import re
import zipfile
from pathlib import Path

import finished
import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.starter]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A home with a task of a few words, and a tiny model in a folder."""
    made = finished.home(tmp_path_factory.mktemp("tiny"))
    made.store.close()
    return made


@pytest.fixture(scope="module")
def site(tiny, serve, starter_home):
    (tiny.settings.home / "models").symlink_to(starter_home / "models")  # else the page fetches the starter
    with serve(tiny.settings.home) as opened:
        yield opened


def inner(visitor, name):
    """Open one of the tabs about a finished run."""
    visitor.page.locator(".pg-inner-tabs:visible").get_by_role("tab", name=name, exact=True).first.click()


def choose(visitor, tiny):
    """The task of a few words, and the tiny model by its folder."""
    page = visitor.page
    page.get_by_role("combobox", name="Task").locator("visible=true").first.click()
    page.get_by_role("option", name="Words").locator("visible=true").first.click()
    model = page.get_by_role("combobox", name="Model").locator("visible=true").first
    model.fill(str(tiny.model))
    model.press("Enter")


def pick(page, preset):
    """Choose a preset of LoRA."""
    page.click("#lora-preset input")
    page.get_by_role("option", name=preset, exact=True).locator("visible=true").first.click()


def test_train_then_ask_then_read_then_export(visit, tiny):
    visitor = visit()
    page = visitor.page
    visitor.arrive()
    visitor.tab("LoRA")
    expect(page.locator("#lora-none-yet")).to_contain_text("None yet")
    expect(page.locator(".pg-inner-tabs:visible")).to_have_count(0)
    choose(visitor, tiny)
    expect(page.locator("#lora-preset input")).to_have_value("The method's defaults")
    page.fill("#lora-field-epochs input", "2")
    page.get_by_label("Test items").locator("visible=true").first.fill("4")
    page.locator("#lora-before > button").click()
    expect(page.locator("#lora-card .pg-estimate")).to_contain_text("Trainable")

    page.click("#lora-start")
    visitor.done("#lora-live")
    expect(page.locator("#lora-curves .pg-chart").first).to_be_visible()
    expect(page.locator("#lora-samples")).to_contain_text("Expected")
    visitor.reload()
    visitor.tab("LoRA")
    expect(page.locator("#lora-run input")).to_have_value(re.compile("^#1 · Words"))
    expect(page.locator("#lora-none-yet")).not_to_contain_text("None yet")

    answers = page.locator("#lora-chat .pg-said p")
    expect(page.locator("#lora-question textarea")).not_to_have_value("")  # the example is there
    page.fill("#lora-question textarea", "train word 2")
    page.click("#lora-ask")
    expect(page.locator("#lora-chat .pg-asked")).to_have_text("train word 2")
    page.click("#lora-chat-stop")
    expect(page.get_by_text("Stopped.").locator("visible=true")).to_be_visible()
    page.click("#lora-chat-clear")
    page.wait_for_timeout(2500)  # what was under way does not come back
    expect(page.locator("#lora-chat .pg-asked")).to_have_count(0)
    page.fill("#lora-question textarea", "train word 3")
    page.click("#lora-ask")
    expect(answers).to_have_count(2)
    for side in (0, 1):
        expect(answers.nth(side)).not_to_have_text("…")

    page.fill("#lora-question textarea", "train word 4 " * 200)
    page.click("#lora-ask")
    refusal = page.locator(".pg-notice.pg-bad").filter(has_text="tokens, and")
    expect(refusal.locator("visible=true")).to_be_visible()
    expect(page.locator("#lora-question textarea")).to_have_value("train word 4 " * 200)
    expect(page.locator("#lora-chat .pg-asked")).to_have_text("train word 3")

    inner(visitor, "Item by item")
    expect(page.locator("#items-page article").locator("visible=true")).to_have_count(4)
    expect(page.locator("#items-summary:visible")).to_contain_text("Was right, is wrong now")
    page.locator("#items-confusion summary").locator("visible=true").click()
    # a matrix does not become cards: what has no room is scrolled to
    page.set_viewport_size({"width": 390, "height": 900})
    matrix = page.locator(".pg-confusion .pg-table-scroll").locator("visible=true").first
    expect(matrix).to_have_css("overflow-x", "auto")
    page.set_viewport_size({"width": 1280, "height": 900})
    visitor.picture("training-items")

    inner(visitor, "Export")
    earlier = tiny.settings.home / "runs" / "1" / "exports" / "run-1-earlier.zip"
    earlier.parent.mkdir(exist_ok=True)
    earlier.write_bytes(b"an export of before")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download adapter").locator("visible=true").click()
    made = page.locator(".pg-made").locator("visible=true")
    expect(made).to_contain_text("run-1-earlier")
    expect(made.get_by_label("Remove this file")).to_have_count(2)  # Gradio has one for each of several files
    expect(made.get_by_label("Remove this file").locator("visible=true")).to_have_count(0)
    names = zipfile.ZipFile(Path(download.value.path())).namelist()
    assert any(name.endswith("adapter_model.safetensors") for name in names), names
    page.get_by_role("button", name="Model card").locator("visible=true").click()
    expect(page.locator(".pg-log").filter(has_text="library_name").locator("visible=true")).to_be_visible()
    visitor.picture("training-export")

    inner(visitor, "Spectrum")
    page.click("#lora-spectrum-compute")
    expect(page.locator("#lora-spectrum svg").first).to_be_visible()
    assert visitor.errors == []
    assert "Traceback" not in visitor.site.log


def test_a_training_outlives_a_reload_is_stopped_and_goes_on(visit, tiny):
    visitor = visit()
    page = visitor.page
    visitor.arrive()
    visitor.tab("LoRA")
    choose(visitor, tiny)
    pick(page, "135M model, CPU")  # which the tiny model would not get by itself
    expect(page.locator("#lora-field-epochs input")).to_have_value("6")
    visitor.reload()
    expect(page.locator("#lora-field-epochs input")).to_have_value("6")
    page.wait_for_timeout(1500)  # nothing fits a preset to the model again
    expect(page.locator("#lora-preset input")).to_have_value("135M model, CPU")
    expect(page.locator("#lora-field-epochs input")).to_have_value("6")
    pick(page, "The method's defaults")
    page.fill("#lora-field-epochs input", "100")
    page.fill("#lora-field-batch_size input", "1")
    page.click("#lora-start")
    expect(page.locator("#lora-curves .pg-chart").first).to_be_visible()
    visitor.reload()
    expect(page.locator("#lora-live .pg-running").first).to_be_visible()  # the tab is in sight
    expect(page.locator("#lora-curves")).to_contain_text("left")
    expect(page.locator("#lora-field-epochs input")).to_have_value("100")
    expect(page.locator("#lora-field-batch_size input")).to_have_value("1")
    expect(page.get_by_role("combobox", name="Task").locator("visible=true").first).to_have_value(
        re.compile("^Words")
    )
    expect(page.get_by_role("combobox", name="Model").locator("visible=true").first).to_have_value(
        str(tiny.model)
    )
    expect(page.locator("#lora-preset input")).to_have_value("The method's defaults")
    page.click("#lora-stop")
    expect(page.locator("#lora-live .pg-cancelled").first).to_be_visible()
    expect(page.locator("#lora-curves")).not_to_contain_text("left")
    visitor.picture("training-stopped")
    page.click("#lora-resume")
    expect(page.locator("#lora-live .pg-running").first).to_be_visible()
    expect(page.locator("#lora-curves .pg-chart").first).to_be_visible()
    page.click("#lora-stop")
    expect(page.locator("#lora-live .pg-cancelled").first).to_be_visible()
    assert visitor.errors == []
    assert "Traceback" not in visitor.site.log
