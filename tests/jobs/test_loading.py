"""The code of a model card asks as the run did."""

import pytest
import tiny

from playground.jobs.loading import Base, code


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
