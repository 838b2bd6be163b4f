"""The code of a model card asks as the run did."""

import pytest
import tiny

from playground.jobs.loading import Base, base, code
from playground.results.runs import Run

RUN = Run(1, "k", "lora", {}, "tiny", "t", 0, None, None, "done")


@pytest.mark.parametrize(
    "day", ["strftime_now('%d %B %Y') == '26 July 2024'", "date_string == '26 Jul 2024'"]
)
def test_the_code_asks_with_the_date_that_the_runs_prompts_had(tmp_path, monkeypatch, day):
    lm = tiny.language_model()
    lm.tokenizer.chat_template = f"{{{{ 'red ' if {day} else 'blue ' }}}}{tiny.TEMPLATE}"
    lm.model.save_pretrained(tmp_path / "got")
    lm.tokenizer.save_pretrained(tmp_path / "got")
    text = code("merged", "transformers", Base("a/b"), dtype="float32", instruction="say where", name="got")
    monkeypatch.chdir(tmp_path)
    known = {}
    exec(text.split("```python\n")[1].removesuffix("```"), known)
    messages = [{"role": "system", "content": "say where"}, {"role": "user", "content": "your text"}]
    assert lm.text(messages).startswith("red ")
    assert known["inputs"]["input_ids"][0].tolist() == lm.encode(messages)


@pytest.mark.parametrize(
    ("template", "dated"), [(tiny.TEMPLATE, False), ("{{ strftime_now('%Y') }}" + tiny.TEMPLATE, True)]
)
def test_the_code_speaks_of_the_date_where_the_template_asks_for_it(tmp_path, template, dated):
    lm = tiny.language_model()
    lm.tokenizer.chat_template = template
    lm.tokenizer.save_pretrained(tmp_path)
    found = base("a/b", "", RUN, tmp_path)
    assert (found.chat, found.dated) == (True, dated)
    text = code("merged", "transformers", found, dtype="float32", instruction="say where", name="got")
    assert ("strftime_now" in text) is dated
    known = text.split("```python\n")[1].removesuffix("```")
    compile(known, "card", "exec")
