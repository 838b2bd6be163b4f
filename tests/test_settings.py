"""The settings: what "auto" means as a device, told without PyTorch."""

from types import SimpleNamespace

import pytest
from fresh import loaded

from playground import settings as module
from playground.errors import InvalidInput
from playground.settings import Settings


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make this machine look like another: does it have an NVIDIA driver, and what PyTorch's version file says."""

    def make(driver, cuda):
        (tmp_path / "version.py").write_text(f"from typing import Optional\ncuda: Optional[str] = {cuda!r}\n")
        (tmp_path / "nvidia0").unlink(missing_ok=True)
        if driver:
            (tmp_path / "nvidia0").touch()
        found = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
        monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: found)
        monkeypatch.setattr(module, "DRIVERS", (str(tmp_path / "nvidia[0-9]*"),))
        monkeypatch.setattr(module.sys, "platform", "linux")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        module._built_for_cuda.cache_clear()

    yield make
    module._built_for_cuda.cache_clear()


@pytest.mark.parametrize(
    ("driver", "cuda", "kind"),
    [(True, "12.8", "cuda"), (True, None, "cpu"), (False, "12.8", "cpu"), (False, None, "cpu")],
)
def test_a_gpu_needs_a_driver_and_a_torch_that_was_built_for_it(machine, driver, cuda, kind):
    machine(driver, cuda)
    assert Settings().device_kind == kind


@pytest.mark.parametrize(("visible", "kind"), [("", "cpu"), ("-1", "cpu"), ("0", "cuda"), ("1,0", "cuda")])
def test_a_hidden_gpu_is_none(machine, monkeypatch, visible, kind):
    machine(True, "12.8")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert Settings().device_kind == kind


@pytest.mark.parametrize(("processor", "kind"), [("arm64", "mps"), ("x86_64", "cpu")])
def test_a_mac_has_one_of_its_own(machine, monkeypatch, processor, kind):
    machine(False, None)
    monkeypatch.setattr(module.sys, "platform", "darwin")
    monkeypatch.setattr(module.platform, "machine", lambda: processor)
    assert Settings().device_kind == kind


@pytest.mark.parametrize(
    ("device", "kind"), [("cpu", "cpu"), ("cuda", "cuda"), ("cuda:1", "cuda"), ("mps", "mps")]
)
def test_a_device_that_is_named_is_that_one(machine, device, kind):
    machine(False, None)
    assert Settings(device=device).device_kind == kind


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("threads", "-3", "PLAYGROUND_THREADS='-3' is below 0"),
        ("max_rows", "-1", "is below 0"),
        ("port", "many", "PLAYGROUND_PORT='many' is not a int"),
    ],
)
def test_a_wrong_number_is_refused(name, text, words):
    with pytest.raises(InvalidInput, match=words) as caught:
        Settings.from_environment({f"PLAYGROUND_{name.upper()}": text})
    assert caught.value.field == name


def test_no_threads_stand_for_as_many_as_are_fastest():
    assert Settings.from_environment({"PLAYGROUND_THREADS": "0"}).threads == 0


def test_torch_is_not_loaded_for_it():
    code = "from playground import settings; settings.DRIVERS = ('/',); settings.Settings().device_kind"
    assert loaded(code, ["torch"]) == []


def test_it_is_what_a_run_will_choose():
    from playground.models import device

    assert Settings().device_kind == device.choose(Settings()).name
