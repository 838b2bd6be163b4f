import pytest

from playground.errors import RunFailed
from playground.training.saving import atomic_folder, clear_leftovers


def test_folder_appears_whole(tmp_path):
    path = tmp_path / "runs" / "adapter"
    with atomic_folder(path) as partial:
        (partial / "a.txt").write_text("a")
        assert not path.exists()
    assert [file.name for file in path.iterdir()] == ["a.txt"]
    assert [folder.name for folder in path.parent.iterdir()] == ["adapter"]


def test_folder_is_replaced(tmp_path):
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "adapter") as partial:
            (partial / text).write_text(text)
    assert [file.name for file in (tmp_path / "adapter").iterdir()] == ["new"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["adapter"]


def test_an_error_leaves_the_old_folder_and_nothing_else(tmp_path):
    with atomic_folder(tmp_path / "adapter") as partial:
        (partial / "old").touch()
    with pytest.raises(KeyError), atomic_folder(tmp_path / "adapter") as partial:
        (partial / "new").touch()
        raise KeyError
    assert [file.name for file in (tmp_path / "adapter").iterdir()] == ["old"]
    assert [folder.name for folder in tmp_path.iterdir()] == ["adapter"]


def test_full_disk_is_said_and_nothing_is_left(tmp_path):
    with pytest.raises(RunFailed, match="disk is full"), atomic_folder(tmp_path / "adapter") as partial:
        (partial / "weights").write_text("some")
        with open("/dev/full", "w") as full:
            full.write("x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    (tmp_path / ".adapter.partial").mkdir()
    (tmp_path / ".adapter.partial" / "half").touch()
    (tmp_path / ".best.replaced").mkdir()  # killed between the two renames
    (tmp_path / ".best.replaced" / "weights").touch()
    clear_leftovers(tmp_path)
    assert [folder.name for folder in tmp_path.iterdir()] == ["best"]
    assert (tmp_path / "best" / "weights").exists()
