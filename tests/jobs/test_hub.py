"""A push over real HTTP to a small Hub on loopback; where the token may and may not go."""

import dataclasses

import fake_hub
import pytest

from playground.errors import HubError, InvalidInput
from playground.events import result_of
from playground.jobs import hub
from playground.models import sources
from playground.settings import Settings


@pytest.fixture
def server(monkeypatch):
    opened = fake_hub.FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", opened.url)
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    sources._hub_answer.clear()
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "adapter"
    made.mkdir()
    (made / "README.md").write_text("# A card")
    (made / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 20)
    return made


def push(folder, to):
    return result_of(hub.push(folder, to))


def prepare(typed=fake_hub.TOKEN, repo="me/mine", offline=False, **more):
    return hub.prepare(repo, typed, Settings(offline=offline), **more)


def test_a_push_makes_a_private_repository_with_the_very_files(server, folder):
    address = push(folder, prepare())
    assert address == f"{server.url}/me/mine"
    repo = server.repos["me/mine"]
    assert repo["private"] is True
    assert repo["files"] == {path.name: path.read_bytes() for path in folder.iterdir()}
    uploads = [given for _, path, given in server.seen if path.startswith("/upload/")]
    assert uploads == [""]  # the storage behind the Hub does not see the token


def test_a_public_one_is_public_only_when_asked(server, folder):
    push(folder, prepare(private=False))
    assert server.repos["me/mine"]["private"] is False
    with pytest.raises(HubError, match="is there already and is public"):
        push(folder, prepare())


def test_a_second_push_goes_into_the_same_repository(server, folder):
    push(folder, prepare())
    (folder / "README.md").write_text("# Another card")
    push(folder, prepare())
    assert server.repos["me/mine"]["files"]["README.md"] == b"# Another card"


@pytest.mark.parametrize(
    ("token", "match"),
    [("hf_wrong_token_0123456789", "does not know this token"), (fake_hub.READER, "may not write")],
)
def test_a_refusal_is_said_without_the_token(server, folder, token, match):
    with pytest.raises(HubError, match=match) as caught:
        push(folder, prepare(token))
    assert token not in str(caught.value) and caught.value.__cause__ is None
    assert token not in repr(prepare(token))


def test_whatever_the_client_says_the_token_is_taken_out(folder, server, monkeypatch):
    def quote(*_, **__):
        raise ValueError(f"Illegal header value b'Bearer {fake_hub.TOKEN}'")

    monkeypatch.setattr("huggingface_hub.HfApi.create_repo", quote)
    with pytest.raises(HubError, match="Illegal header value") as caught:
        push(folder, prepare())
    assert fake_hub.TOKEN not in str(caught.value)


def test_the_servers_own_token_is_not_for_visitors(server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", fake_hub.TOKEN)
    with pytest.raises(HubError, match="type one of yours"):
        prepare(typed="")
    assert hub.prepare("me/mine", "", Settings(allow_push=True)).token == fake_hub.TOKEN
    assert prepare(typed="", own=True).token == fake_hub.TOKEN
    assert prepare(typed="hf_of_the_visitor").token == "hf_of_the_visitor"


def test_a_setting_lets_visitors_use_it():
    assert Settings.from_environment({}).allow_push is False
    assert Settings.from_environment({"PLAYGROUND_ALLOW_PUSH": "1"}).allow_push is True


def test_without_a_token_or_a_network_it_says_so_at_once(server, monkeypatch):
    with pytest.raises(HubError, match="set HF_TOKEN"):
        prepare(typed=None, own=True)
    with pytest.raises(HubError, match="PLAYGROUND_OFFLINE"):
        prepare(offline=True)
    server.close()
    sources._hub_answer.clear()
    with pytest.raises(HubError, match="does not answer"):
        prepare()
    assert server.seen == []


@pytest.mark.parametrize(
    "name", ["", "mine", "me/", "/mine", "a/b/c", "me/mi ne", "me/../x", "me/a--b", "me/.x", "me/x.git", "../../etc", "me/x\n", "m" * 99 + "/x"]
)  # fmt: skip
def test_a_name_that_is_none_is_refused(name):
    if name == "me/x\n":
        assert hub.repository(name) == "me/x"
        return
    with pytest.raises(InvalidInput, match="owner/name"):
        hub.repository(name)


@pytest.mark.parametrize("token", ["with space 123", "hf_x\nEvil: header", "short", "ünïcode_token_123"])
def test_a_token_that_could_break_a_header_is_refused(server, token):
    with pytest.raises(InvalidInput, match="not a Hub token") as caught:
        prepare(token)
    assert token not in str(caught.value)
    assert server.seen == []


def test_a_push_does_not_show_its_token():
    made = prepare_without_network()
    assert fake_hub.TOKEN not in repr(made) and fake_hub.TOKEN not in str(made)
    assert fake_hub.TOKEN in str(dataclasses.asdict(made))


def prepare_without_network():
    return hub.Push("me/mine", fake_hub.TOKEN)
