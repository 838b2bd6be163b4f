"""A visitor's way through the page, in a real browser with the real starter model."""

import json
import re
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

from playground.methods.registry import methods
from playground.ui.session import IMAGE_TABS, OWN_TABS

pytestmark = [pytest.mark.browser, pytest.mark.starter]
TRAINED = [label for id, label in OWN_TABS.items() if id in methods()]
DRAWING = [label for label, _, members in IMAGE_TABS.values() if set(members) & set(methods())]
TABS = ("Start", "Few-shot", "RAG", *TRAINED, "More PEFT", *DRAWING, "Compare", "Try", "Runs")

OPENED_AND_DRAWN_ANEW = """() => {  // before the browser tells of the toggle
  const fold = document.querySelector('#run-detail details'), drawn = fold.parentElement;
  fold.querySelector('summary').click();
  drawn.innerHTML = drawn.innerHTML.replaceAll(' open=""', '');
}"""


@pytest.mark.parametrize(("width", "theme"), [(1280, "light"), (390, "dark")])
def test_every_tab_opens_without_an_error(visit, width, theme):
    visitor = visit(width)
    visitor.arrive(f"?__theme={theme}")
    for name in TABS:
        visitor.tab(name)
        chosen = visitor.page.locator("#tabs > .tab-wrapper [role=tablist] button.selected")
        expect(chosen).to_have_text(name)
        box = chosen.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
        visitor.page.wait_for_timeout(400)
        wide = visitor.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, f"{name} is {wide} px wide"
        visitor.picture(f"{name.lower()}-{theme}-{width}")
    assert visitor.errors == []
    assert visitor.foreign == []


def test_a_rank_of_zero_is_refused_at_the_button_and_marked_at_the_field(visit):
    visitor = visit()
    visitor.arrive()
    visitor.tab("LoRA")
    visitor.page.fill("#lora-field-rank input", "0")
    visitor.page.click("#lora-start")
    message = re.compile("Rank cannot be 0")
    refusal = visitor.page.locator(".pg-notice.pg-bad").filter(has_text=message)
    field = visitor.page.locator("#lora-field-rank")
    expect(refusal).to_be_visible()
    expect(field).to_have_attribute("data-wrong", message)
    visitor.page.wait_for_timeout(1500)  # other answers that have to do with the field leave the mark
    expect(field).to_have_attribute("data-wrong", message)
    expect(field.locator("input").first).to_have_attribute("aria-invalid", "true")
    expect(visitor.page.locator("#lora-live")).to_contain_text("No training yet")
    visitor.picture("rank-zero")
    visitor.page.fill("#lora-field-rank input", "4")
    expect(field).not_to_have_attribute("data-wrong", message)
    expect(refusal).to_be_visible()


def test_the_exact_prompt_and_both_answers(visit):
    visitor = visit()
    visitor.arrive()
    visitor.tab("Few-shot")
    visitor.page.fill("#few-shot-question textarea", "My <b>parcel</b> never came.")
    visitor.page.click("#show-prompt")
    prompt = visitor.page.locator("#prompt-view pre")
    expect(prompt).to_contain_text("My <b>parcel</b> never came.")
    expect(prompt).to_contain_text("Route the customer's message")
    expect(visitor.page.locator("#prompt-view")).to_contain_text("tokens")
    visitor.page.click("#few-shot-ask")
    expect(visitor.page.locator("#few-answer textarea")).not_to_have_value("")
    expect(visitor.page.locator("#zero-answer textarea")).not_to_have_value("")
    visitor.picture("few-shot-answers")
    assert visitor.errors == []


def test_an_empty_question_is_refused_in_words(visit):
    visitor = visit()
    visitor.arrive()
    visitor.tab("Few-shot")
    visitor.page.fill("#few-shot-question textarea", "   ")
    visitor.page.click("#few-shot-ask")
    said = visitor.page.locator(".pg-notice.pg-bad")
    expect(said.filter(has_text="The question is empty. Write something first.")).to_be_visible()
    visitor.page.click("#show-prompt")
    expect(visitor.page.locator("#prompt-view .pg-notice.pg-bad")).to_contain_text("The question is empty.")
    assert nothing_of_gradios_own(visitor)


def nothing_of_gradios_own(visitor):
    """No badge or pop-up of Gradio's stands beside the page's own message."""
    visitor.page.wait_for_timeout(500)
    badges = visitor.page.locator("[data-testid=status-tracker] .error").locator("visible=true")
    return badges.count() == 0 and visitor.page.locator(".toast-body").count() == 0


@pytest.mark.parametrize(
    ("question", "model", "message"),
    [
        ("x" * 21_000, None, "The question has 21,000 characters; at most 20,000 can be used."),
        (
            "ü†" * 9_000,
            None,
            "tokens, and SmolLM2 135M Instruct reads at most 8,192",
        ),  # many tokens a character
        ("Where is my parcel?", "no-such-model", "There is no model “no-such-model”."),
        ("Where is my parcel?", "nobody/<b>nothing</b>", "There is no model “nobody/<b>nothing</b>”."),
        ("Where is my parcel?", "nobody/nothing", "nobody/nothing is not on this machine"),
    ],
)
def test_ask_both_refuses_at_once(visit, question, model, message):
    visitor = visit()
    visitor.arrive()
    visitor.tab("Few-shot")
    if model:
        field = visitor.page.get_by_role("combobox", name="Model").locator("visible=true").first
        field.fill(model)
        field.press("Enter")
    visitor.page.fill("#few-shot-question textarea", question)
    visitor.page.click("#few-shot-ask")
    said = visitor.page.locator(".pg-notice.pg-bad").locator("visible=true")
    expect(said).to_contain_text(message)
    expect(visitor.page.locator("#few-answer textarea")).to_have_value("")
    assert nothing_of_gradios_own(visitor)
    assert visitor.errors == []


def test_documents_are_indexed_and_a_binary_one_is_refused(visit, tmp_path):
    visitor = visit()
    visitor.arrive()
    visitor.tab("RAG")
    (tmp_path / "picture.md").write_bytes(b"\x89PNG\x00\x00\x01\x02" * 50)
    visitor.page.set_input_files("#rag-files input[type=file]", str(tmp_path / "picture.md"))
    expect(visitor.page.locator("#rag-files")).to_contain_text("picture")
    visitor.page.click("#build-index")
    expect(visitor.page.get_by_text(re.compile("picture.md.*(text|character)", re.I)).last).to_be_visible()


def test_an_index_survives_a_reload(visit, tmp_path):
    visitor = visit()
    visitor.arrive()
    visitor.tab("RAG")
    (tmp_path / "boats.md").write_text("# Boats\n\nThe <b>Marlin</b> leaves the old pier at seven.\n")
    visitor.page.set_input_files("#rag-files input[type=file]", str(tmp_path / "boats.md"))
    expect(visitor.page.locator("#rag-files")).to_contain_text("boats")
    visitor.page.locator("#rag-source input").click()
    visitor.page.get_by_role("option", name="None, only my files").click()
    visitor.page.click("#build-index")
    expect(visitor.page.locator("#index-status")).to_contain_text("The index is ready")
    visitor.reload()
    visitor.tab("RAG")
    expect(visitor.page.locator("#index-status")).to_contain_text("from before is still here")
    visitor.page.fill("#rag-question textarea", "When does the Marlin leave?")
    visitor.page.click("#rag-ask")
    expect(visitor.page.locator("#passages")).to_contain_text("The <b>Marlin</b> leaves")
    other = visit()
    other.arrive()
    other.tab("RAG")
    expect(other.page.locator("#index-status")).to_contain_text("No index yet")
    visitor.page.click("#delete-index")
    visitor.page.click("#delete-index-no")
    expect(visitor.page.locator("#delete-index-yes")).to_be_hidden()
    expect(visitor.page.locator("#index-status")).to_contain_text("Documents")
    visitor.page.click("#delete-index")
    visitor.page.click("#delete-index-yes")
    expect(visitor.page.locator("#index-status")).to_contain_text("Your index is deleted")
    visitor.reload()
    visitor.tab("RAG")
    expect(visitor.page.locator("#index-status")).to_contain_text("No index yet")
    assert visitor.errors == []


def test_a_preset_fills_the_form_and_the_defaults_come_back(visit):
    visitor = visit()
    visitor.arrive()
    visitor.tab("LoRA")
    rank = visitor.page.locator("#lora-field-rank input")
    expect(rank).to_have_value("8")
    visitor.page.locator("#lora-preset input").click()
    visitor.page.get_by_role("option", name="8B model, GPU").click()
    expect(rank).to_have_value("16")
    expect(visitor.page.locator("#lora-field-learning_rate input")).to_have_value("0.0002")
    visitor.page.locator("#lora-preset input").click()
    visitor.page.get_by_role("option", name="The method's defaults").click()
    expect(rank).to_have_value("8")
    assert visitor.errors == []


def test_the_explainer_follows_its_numbers(visit):
    visitor = visit()
    visitor.arrive()
    visitor.tab("LoRA")
    count = visitor.page.locator("#lora-count")
    expect(count).to_contain_text("99.36 % fewer")
    visitor.page.fill("#lora-k input", "64")
    expect(count).to_contain_text("1,280,000")
    cell = visitor.page.locator("#lora-a [data-testid=cell-0-0]").first
    cell.dblclick()
    visitor.page.keyboard.press("Control+A")
    visitor.page.keyboard.type("7")
    visitor.page.keyboard.press("Enter")
    update = visitor.page.locator("#lora-picture table").nth(1).locator("td").first
    expect(update).to_have_text("3.5")  # 0.5 · 7 · 1
    visitor.page.fill("#lora-k input", "0")
    expect(count).to_contain_text("k must be a whole number")


def test_a_sweep_that_cannot_be_is_refused_and_one_that_can_is_queued_and_stopped(visit):
    visitor = visit()
    visitor.arrive()
    visitor.tab("LoRA")
    fold = visitor.page.locator("#lora-sweep")
    fold.locator("button").first.click()
    visitor.page.click("#lora-sweep-use")
    expect(fold.locator(".pg-notice.pg-bad")).to_contain_text("No sweep of this method")
    values = visitor.page.locator("#lora-sweep-values input, #lora-sweep-values textarea").first
    values.fill("1e-3, fast")
    visitor.page.click("#lora-sweep-start")
    expect(fold).to_contain_text("“fast” is not a number")
    expect(visitor.page.locator("#lora-live")).to_contain_text("No training yet")
    values.fill("1e-3, 2e-3, 4e-3")
    visitor.page.click("#lora-sweep-start")
    view = visitor.page.locator("#lora-sweep-view")
    expect(view).to_contain_text("0 of 3 runs done")
    visitor.reload()
    visitor.tab("LoRA")
    expect(view).to_contain_text("0 of 3 runs done")
    visitor.page.click("#lora-sweep-stop")
    expect(view.locator(".pg-cancelled")).to_have_count(3 * 2)  # row and label of each
    visitor.picture("sweep-stopped")
    assert visitor.errors == []


@pytest.mark.parametrize("query", ["?run=99999999999999999999", "?run=%C2%B2", "?group=<script>", "?group=x"])
def test_a_link_with_an_odd_value_shows_the_page(visit, query):
    visitor = visit()
    visitor.arrive(query)
    expect(visitor.page.locator("#live-race")).not_to_be_empty()
    expect(visitor.page.locator(".toast-body")).to_have_count(0)
    assert visitor.errors == []


def test_the_number_of_test_items_is_the_one_typed(visit):
    visitor = visit()
    visitor.arrive()
    items = visitor.page.get_by_label("Test items").first
    for typed, told in (("0", "not “0”"), ("-5", "not “-5”"), ("5<b>", "not “5<b>”")):
        items.fill(typed)
        items.press("Enter")
        visitor.page.click("#race")
        expect(visitor.page.locator(".pg-notice.pg-bad").filter(has_text=told)).to_be_visible()
    expect(visitor.page.locator("#live-race .pg-lane.pg-running")).to_have_count(0)


def test_a_race_survives_a_reload_and_can_be_stopped(visit):
    visitor = visit()
    visitor.arrive()
    items = visitor.page.get_by_label("Test items").first
    items.fill("4")
    items.press("Enter")
    visitor.page.click("#race")
    lanes = visitor.page.locator("#live-race .pg-lane")
    expect(lanes).to_have_count(4)
    visitor.page.wait_for_url(re.compile("group="))
    visitor.reload()
    expect(lanes).to_have_count(4)
    visitor.done("#live-race")
    visitor.page.click("#to-compare")
    expect(visitor.page.locator("#comparison tbody tr")).to_have_count(4)
    expect(visitor.page.locator("#comparison .pg-quality b").first).to_contain_text("%")
    visitor.picture("race-in-compare")
    visitor.page.locator("#comparison tr.pg-done th button").first.click()
    expect(visitor.page.locator("#answers .pg-answer")).to_have_count(4)
    with visitor.page.expect_download() as download:
        visitor.page.click("#get-csv")
    assert re.match(r"\d+,zero_shot,", Path(download.value.path()).read_text().splitlines()[1])
    visitor.tab("Try")
    visitor.page.fill("#try-question textarea", "My lamp <b>hums</b>.")
    visitor.page.click("#try-ask")
    said = visitor.page.locator("#try-answers .pg-said")
    expect(said.first).to_contain_text("Base model")
    expect(said.first.locator("small").last).to_contain_text("tokens · prompt")
    visitor.picture("try")
    visitor.tab("Start")
    visitor.page.click("#stop-race")
    expect(visitor.page.locator("#live-race .pg-lane.pg-cancelled").first).to_be_visible()
    expect(visitor.page.locator("#live-race .pg-lane.pg-running")).to_have_count(0)
    visitor.tab("Runs")
    expect(visitor.page.locator("#runs .pg-run").first).to_be_visible()
    visitor.page.locator("#runs .pg-run.pg-done button[data-action=open]").first.click()
    with visitor.page.expect_download() as download:
        visitor.page.click("#get-run")
    assert download.value.suggested_filename.endswith(".zip")
    folds = visitor.page.locator("#run-detail details")
    visitor.page.evaluate(OPENED_AND_DRAWN_ANEW)
    expect(folds.first).to_have_attribute("open", "")
    visitor.picture("runs-after-stop")
    assert visitor.errors == []
    assert "Traceback" not in visitor.site.log


def test_a_task_of_ones_own_appears_everywhere_and_problems_name_the_line(visit, tmp_path):
    visitor = visit()
    visitor.arrive()
    visitor.tab("LoRA")  # its form is drawn when it is opened, and follows the tasks, too
    expect(visitor.page.locator("#lora-start")).to_be_visible()
    visitor.tab("Start")
    rows = [f"Question {n} <i>?</i>,{'yes' if n % 2 else 'no'}" for n in range(24)]
    (tmp_path / "bad.csv").write_text(
        "question,answer\n" + "\n".join([*rows[:5], "No answer here,", *rows[5:]]) + "\n"
    )
    (tmp_path / "good.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    file = visitor.page.locator("#task-file input[type=file]")
    file.set_input_files(str(tmp_path / "bad.csv"))
    visitor.page.fill("#task-title input, #task-title textarea", "Yes or no")
    expect(visitor.page.locator("#task-preview")).to_contain_text("Question 1 <i>?</i>")
    visitor.page.click("#save-task")
    expect(visitor.page.locator("#task-problem")).to_contain_text("Line 7")
    visitor.page.locator(
        "#task-file button[aria-label='Remove this file'], #task-file button[aria-label='Clear']"
    ).first.click()
    file.set_input_files(str(tmp_path / "good.csv"))
    expect(visitor.page.locator("#task-preview")).to_contain_text("24 rows")
    visitor.page.click("#save-task")
    expect(visitor.page.locator("#task-problem")).to_contain_text("is saved")
    own = visitor.page.get_by_role("option", name="Yes or no").locator("visible=true").first
    for tab in ("LoRA", "Few-shot"):
        visitor.tab(tab)
        visitor.page.get_by_role("combobox", name="Task").locator("visible=true").first.click()
        expect(own).to_be_visible()
    own.click()
    assert visitor.errors == []  # a refusal by the server's validator is an error on the console
    visitor.page.fill("#few_shot-field-k input", "64")
    visitor.page.click("#few-shot-measure")
    refusal = re.compile("k is 64, but “Yes or no” has only [0-9]+ training examples. Choose at most [0-9]+.")
    expect(visitor.page.locator(".pg-notice.pg-bad").filter(has_text=refusal)).to_be_visible()
    expect(visitor.page.locator("#few_shot-field-k")).to_have_attribute("data-wrong", refusal)


def test_the_served_page_names_no_other_host(site):
    with urllib.request.urlopen(site.url, timeout=10) as answer:
        page = answer.read().decode()
    loaded = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?://[^"]+)"', page)
    assert [address for address in loaded if not address.startswith(site.url)] == []
    with urllib.request.urlopen(site.url + "/config", timeout=10) as answer:
        assert json.load(answer)["analytics_enabled"] is False
