"""What a visitor uploads: once it is taken over, and once it is deleted, no copy of it stays on the server."""

import re

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from playground.settings import ASSETS

pytestmark = [pytest.mark.browser, pytest.mark.starter]
PLACE = "52.5200 N, 13.4050 E"


def files_with(home, *needles):
    """Files of the server's home that hold one of these bytes; the models are none of a visitor's."""
    files = (path for path in home.rglob("*") if path.is_file() and "models" not in path.parts)
    return [path for path in files if any(needle in path.read_bytes() for needle in needles)]


def photo(path, number):
    """A JPEG that says where it was taken."""
    exif = Image.Exif()
    exif[0x010E] = PLACE
    pixels = np.random.default_rng(number).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((160, 160), Image.Resampling.NEAREST).save(path, exif=exif)
    return path.read_bytes()


@pytest.mark.skipif(not (ASSETS / "starter-image").is_dir(), reason="no starter image model is shipped yet")
def test_photos_leave_no_original_and_a_deleted_subject_nothing(visit, site, tmp_path):
    visitor = visit()
    page = visitor.page
    paths = [tmp_path / f"holiday-{number}.jpg" for number in range(4)]
    originals = [photo(path, number) for number, path in enumerate(paths)]
    visitor.arrive()
    visitor.tab("DreamBooth")
    page.click("#dreambooth-own > button")
    page.set_input_files("#dreambooth-photos input[type=file]", paths)
    expect(page.locator("#dreambooth-preview img")).to_have_count(4)
    assert len(files_with(site.home, *originals)) == 4
    page.fill("#dreambooth-title :is(textarea, input)", "My tent")
    page.fill("#dreambooth-class :is(textarea, input)", "tent")
    page.fill("#dreambooth-token :is(textarea, input)", "zwx")
    page.click("#dreambooth-save-own")
    expect(page.locator("#dreambooth-own-told")).to_contain_text("is saved")
    expect(page.locator("#dreambooth-pictures img")).to_have_count(4)
    expect(page.locator("#dreambooth-preview img")).to_have_count(0)
    assert files_with(site.home, PLACE.encode(), *originals) == []
    kept = [path.read_bytes() for path in (site.home / "subjects").rglob("*.png")]
    assert len(kept) == 4
    page.click("#dreambooth-delete")
    page.click("#dreambooth-delete-yes")
    expect(page.get_by_text("It is deleted.")).to_be_visible()
    assert files_with(site.home, *kept) == []
    assert visitor.errors == []


def test_documents_go_with_the_index(visit, site, tmp_path):
    visitor = visit()
    page = visitor.page
    visitor.arrive()
    visitor.tab("RAG")
    page.locator("#rag-source input").click()
    page.get_by_role("option", name="None, only my files").click()
    for name, text in (("boats.md", "The Marlin leaves at seven."), ("trains.md", "The Heron waits.")):
        (tmp_path / name).write_text(text)
        page.set_input_files("#rag-files input[type=file]", str(tmp_path / name))
        expect(page.locator("#rag-files")).to_contain_text(name.partition(".")[0])
        page.click("#build-index")
        expect(page.locator("#index-status")).to_contain_text("The index is ready")
        expect(page.locator("#index-status")).to_contain_text(re.compile(name.partition(".")[0]))
    visitor.reload()  # the field is empty now, the index is not
    visitor.tab("RAG")
    expect(page.locator("#index-status")).to_contain_text("from before is still here")
    page.click("#delete-index")
    page.click("#delete-index-yes")
    expect(page.locator("#index-status")).to_contain_text("Your index is deleted")
    assert files_with(site.home, b"The Marlin leaves", b"The Heron waits") == []
    assert visitor.errors == []


def test_the_file_of_a_task_goes_when_the_task_is_saved(visit, site, tmp_path):
    visitor = visit()
    page = visitor.page
    rows = "".join(f"Question {n} of the file,{'yes' if n % 2 else 'no'}\n" for n in range(24))
    (tmp_path / "mine.csv").write_text("question,answer\n" + rows)
    visitor.arrive()
    page.locator("#task-file input[type=file]").set_input_files(str(tmp_path / "mine.csv"))
    expect(page.locator("#task-preview")).to_contain_text("24 rows")
    page.fill("#task-title input, #task-title textarea", "Of a file")
    page.click("#save-task")
    expect(page.locator("#task-preview")).not_to_contain_text("24 rows")
    expect(page.locator("#task-problem")).to_contain_text("is saved")
    assert files_with(site.home, (tmp_path / "mine.csv").read_bytes()) == []
    page.click("#save-task")
    expect(page.locator("#task-problem")).to_contain_text("Choose a file first")
    page.locator("#task-file input[type=file]").set_input_files(str(tmp_path / "mine.csv"))
    expect(page.locator("#task-problem")).to_have_text("")
    page.locator("#task-file button:is([aria-label='Remove this file'], [aria-label=Clear])").first.click()
    expect(page.locator("#task-preview")).not_to_contain_text("24 rows")
    assert visitor.errors == []


def test_what_nobody_saved_goes_when_the_server_stops(serve, tmp_path):
    left = tmp_path / "uploads" / "digest" / "left.csv"
    left.parent.mkdir(parents=True)
    left.write_text("left by a server that was killed")
    with serve(tmp_path) as site:
        sent = httpx.post(
            f"{site.url}/gradio_api/upload", files={"files": ("sent.csv", b"sent and not saved")}
        )
        assert sent.status_code == 200
        assert len(files_with(tmp_path, b"sent and not saved", left.read_bytes())) == 2
    assert files_with(tmp_path, b"sent and not saved", b"left by a server") == []
