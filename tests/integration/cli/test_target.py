# SPDX-License-Identifier: Apache-2.0
"""Which service is meant, and which key may go there."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from firstkit.adapters.clients.target import DEFAULT_URL, Asked, Target, operator_target, public_target
from firstkit.core.errors import ConfigError


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """Make the state folder of a service that runs."""
    folder = tmp_path / "state"
    (folder / "run").mkdir(parents=True)
    (folder / "api-key").write_text("fk-folder\n")
    (folder / "run" / "public.json").write_text(json.dumps({"base_url": "http://127.0.0.1:9999"}))
    with socket.socket(socket.AF_UNIX) as admin:
        admin.bind(str(folder / "run" / "admin.sock"))
        admin.listen()
        yield folder


def found(target: Target) -> tuple[str, str | None]:
    return target.base_url, target.key


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (DEFAULT_URL, None)),
        ({"FIRST_BASE_URL": "https://a/"}, ("https://a", None)),
        ({"FIRST_BASE_URL": "https://a/v1", "FIRST_API_KEY": "k"}, ("https://a", "k")),
        ({"OPENAI_BASE_URL": "https://b/v1", "OPENAI_API_KEY": "sk-b"}, ("https://b", "sk-b")),
        (
            {"FIRST_BASE_URL": "https://a", "OPENAI_BASE_URL": "https://b", "OPENAI_API_KEY": "sk-b"},
            ("https://a", None),
        ),
        ({"FIRST_BASE_URL": "https://a", "OPENAI_API_KEY": "fk-b"}, ("https://a", "fk-b")),
        ({"OPENAI_API_KEY": "sk-b"}, (DEFAULT_URL, None)),
        ({"OPENAI_API_KEY": "fk-b"}, (DEFAULT_URL, "fk-b")),
        ({"FIRST_BASE_URL": "http://[::1]:8000"}, ("http://[::1]:8000", None)),
    ],
)
def test_without_a_state_folder_the_environment_says(
    environ: dict[str, str], expected: tuple[str, str | None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert found(public_target(Asked(), environ)) == expected


def test_the_folder_of_a_running_service_says_where_it_is_and_has_its_key(data: Path) -> None:
    expected = ("http://127.0.0.1:9999", "fk-folder")
    assert found(public_target(Asked(data=data), {})) == expected
    assert found(public_target(Asked(), {"FIRST_DATA": str(data)})) == expected
    assert found(public_target(Asked(data=data), {"FIRST_BASE_URL": "https://a"})) == expected


def test_in_the_folder_where_it_was_started_nothing_has_to_be_said(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data.rename(data.parent / ".first")
    monkeypatch.chdir(data.parent)
    assert found(public_target(Asked(), {})) == ("http://127.0.0.1:9999", "fk-folder")
    assert operator_target(Asked(), {}).socket == Path(".first/run/admin.sock")


def test_an_address_that_a_dead_service_left_is_not_believed(data: Path) -> None:
    (data / "run" / "admin.sock").unlink()
    assert public_target(Asked(data=data), {}).base_url == DEFAULT_URL


def test_a_folders_key_does_not_leave_this_machine(data: Path) -> None:
    environ = {"FIRST_DATA": str(data), "FIRST_BASE_URL": "https://elsewhere.example.org"}
    assert found(public_target(Asked(), environ)) == ("https://elsewhere.example.org", None)
    assert public_target(Asked(url="https://elsewhere.example.org"), environ).key is None
    assert public_target(Asked(url="http://localhost:1"), environ).key == "fk-folder"


def test_a_key_file_is_taken_before_everything(data: Path, tmp_path: Path) -> None:
    (tmp_path / "k").write_text(" fk-mine \n")
    target = public_target(Asked(data=data, key_file=tmp_path / "k"), {"FIRST_API_KEY": "x"})
    assert target.key == "fk-mine"
    with pytest.raises(ConfigError, match="cannot be read"):
        public_target(Asked(key_file=tmp_path / "none"), {})


def test_operators_go_through_the_admin_socket_unless_a_url_is_given(data: Path) -> None:
    assert operator_target(Asked(data=data), {}).socket == data / "run" / "admin.sock"
    assert operator_target(Asked(data=data), {"FIRST_BASE_URL": "https://a"}).socket is not None
    assert operator_target(Asked(), {"FIRST_DATA": str(data), "FIRST_BASE_URL": "https://a"}).socket is not None
    assert operator_target(Asked(url="https://a"), {"FIRST_DATA": str(data)}).socket is None
    assert operator_target(Asked(), {"FIRST_BASE_URL": "https://a"}).base_url == "https://a"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://", "https://ada:secret@x"])
def test_what_is_no_base_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        public_target(Asked(url=url), {})
    if "secret" in url:
        assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "loopback"),
    [("http://127.0.0.1:1", True), ("http://localhost", True), ("http://[::1]:1", True), ("https://a.org", False)],
)
def test_requests_on_this_machine_use_no_proxy(url: str, loopback: bool) -> None:
    assert Target(base_url=url, named="x").loopback is loopback


def test_a_key_is_not_in_the_words_of_a_target() -> None:
    assert "fk-secret" not in repr(Target(base_url="http://x", named="x", key="fk-secret"))
