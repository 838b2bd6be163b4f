"""A visitor teaches the starter image model a subject, watches it, reloads, and draws with it."""

import re
import time

import pytest
from playwright.sync_api import expect

from playground.results.runs import RunStore
from playground.settings import ASSETS, Settings

pytestmark = [
    pytest.mark.browser,
    pytest.mark.starter,
    pytest.mark.skipif(
        not (ASSETS / "starter-image").is_dir(), reason="no starter image model is shipped yet"
    ),
]


def test_teach_a_subject_and_draw_it(visit):
    visitor = visit()
    page = visitor.page
    visitor.arrive()
    visitor.tab("DreamBooth")
    expect(page.locator("#dreambooth-pictures img").first).to_be_visible()
    page.get_by_role("radio", name="DreamBooth-LoRA").check()
    steps = page.locator("#dreambooth_lora-field-steps input").first
    steps.fill("6")
    page.locator("#dreambooth_lora-field-sample_every input").first.fill("3")
    page.locator("#dreambooth_lora-field-class_pictures input").first.fill("2")
    visitor.picture("dreambooth-form")
    page.click("#dreambooth_lora-start")
    visitor.done("#dreambooth-live")
    looks = page.locator("#dreambooth-strip img")
    expect(looks.first).to_be_visible()
    assert looks.count() >= 3 * 5  # looks at step 0, 3 and 6: three contexts, two of the class
    expect(page.locator("#dreambooth-curves .pg-chart").first).to_be_visible()
    visitor.reload()
    visitor.tab("DreamBooth")
    page.get_by_role("radio", name="DreamBooth-LoRA").check()
    expect(page.locator("#dreambooth-run input")).to_have_value(re.compile(r"^#\d+ "))
    visitor.picture("dreambooth-trained")
    page.fill("#dreambooth-prompt :is(textarea, input)", "a zwx alien on a blue background, flat style")
    page.click("#dreambooth-draw")
    expect(page.locator("#dreambooth-drawn img")).to_have_count(4)  # two by each model
    visitor.picture("dreambooth-drawn")
    visitor.tab("Compare")
    expect(page.get_by_text("DreamBooth-LoRA").locator("visible=true").first).to_be_visible()
    visitor.picture("compare-images")
    assert visitor.errors == []
    assert "Traceback" not in visitor.site.log


def wait_until(true, seconds=180):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.5)


def run_of(site):
    """The run of the store, and what its log says."""
    store = RunStore(Settings(home=site.home).database)
    try:
        (run,) = store.list()
        return run, [event.data["text"] for event in store.events(run.id, kinds={"log"})]
    finally:
        store.close()


def test_a_training_is_looked_at_saved_reloaded_stopped_and_gone_on_with(visit, site):
    visitor = visit()
    page = visitor.page
    visitor.arrive()
    visitor.tab("DreamBooth")
    page.get_by_role("radio", name="DreamBooth-LoRA").check()
    page.locator("#dreambooth_lora-field-steps input").first.fill("5000")
    page.locator("#dreambooth_lora-field-sample_every input").first.fill("5000")
    page.locator("#dreambooth_lora-field-class_pictures input").first.fill("2")
    page.click("#dreambooth_lora-start")
    looks = page.locator("#dreambooth-strip img")
    expect(looks.first).to_be_visible()
    first = looks.count()
    expect(page.locator("#dreambooth-curves .pg-chart").first).to_be_visible()  # steps were made
    page.click("#dreambooth-sample")
    expect(looks).not_to_have_count(first)  # a second look stands beside the first
    page.click("#dreambooth-save")
    wait_until(lambda: any(text.startswith("Saved at step") for text in run_of(site)[1]))
    visitor.reload()  # the tab, the method and its form are as they were
    expect(page.locator("#dreambooth-live .pg-running").first).to_be_visible()
    expect(page.get_by_role("radio", name="DreamBooth-LoRA")).to_be_checked()
    expect(page.locator("#dreambooth_lora-field-steps input").first).to_have_value("5000")
    expect(looks).not_to_have_count(first)
    page.click("#dreambooth-stop")
    expect(page.locator("#dreambooth-live .pg-cancelled").first).to_be_visible()
    visitor.picture("dreambooth-stopped")
    page.click("#dreambooth-resume")
    wait_until(lambda: any(text.startswith("Going on from step") for text in run_of(site)[1]))
    assert run_of(site)[0].status == "running"
    assert visitor.errors == []
    assert "Traceback" not in visitor.site.log
