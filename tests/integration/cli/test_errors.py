# SPDX-License-Identifier: Apache-2.0
"""Every failure of the command line is one sentence on stderr that says what to do, and an exit code."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from firstkit.apps.cli.entry import COMMANDS, SECTIONS, run


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty folder, with nothing set."""
    for name in ("FIRST_BASE_URL", "FIRST_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_KEY", "FIRST_DATA", "FIRST_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def nobody() -> Iterator[str]:
    """Give a URL at which nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


class Answering(BaseHTTPRequestHandler):
    """Answers every request as the test says."""

    status: ClassVar[int] = 200
    body: ClassVar[bytes] = b""
    headers_sent: ClassVar[dict[str, str]] = {}
    seen: ClassVar[list[tuple[str, str | None]]] = []

    def _answer(self) -> None:
        length = int(self.headers.get("content-length", "0"))
        self.rfile.read(length)
        self.seen.append((f"{self.command} {self.path}", self.headers.get("authorization")))
        self.send_response(self.status)
        for name, value in self.headers_sent.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body)

    do_GET = do_POST = do_PUT = do_DELETE = _answer  # noqa: N815 the names are http.server's

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 the name is http.server's
        return


@pytest.fixture
def service() -> Iterator[str]:
    """Serve what `Answering` is told."""
    Answering.status, Answering.body, Answering.headers_sent = 200, b'{"data": []}', {}
    Answering.seen.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def first(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(arguments)
    out, err = capsys.readouterr()
    return code, out, err


def one_sentence(err: str) -> str:
    lines = err.strip().splitlines()
    assert len(lines) == 1, err
    assert lines[0].startswith("first: ")
    return lines[0].removeprefix("first: ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["modles"], "did you mean models?"),
        (["zzz"], "there is no command"),
        (["models", "--colour"], "no such option"),
        (["models", "extra"], "unexpected extra argument"),
        (["chat"], "missing argument"),
        (["wait", "m", "--timeout", "soon"], "no duration"),
        (["keys", "create", "x", "--role", "god"], "is not one of"),
        (["keys", "create", "x", "--rpm", "0"], "x>=1"),
        (["deploy", "scale", "d"], "MIN-MAX"),
        (["deploy", "scale", "d", "a-b"], "no MIN-MAX"),
        (["agent", "configure", "emacs"], "is not one of"),
        (["completion", "tcsh"], "is not one of"),
        (["bench", "m", "--rate", "0"], "x>0"),
        (["keys", "creat"], "creat"),
    ],
)
def test_misuse_is_exit_code_two(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    code, out, err = first(capsys, *arguments)
    assert code == 2
    assert out == ""
    sentence = one_sentence(err)
    assert words.lower() in sentence.lower()
    assert "--help`)" in sentence


CLIENT_COMMANDS = [
    ["models"],
    ["whoami"],
    ["wait", "m"],
    ["why", "m"],
    ["chat", "m", "hi"],
    ["clusters"],
    ["deployments"],
    ["instances"],
    ["instances", "--ended"],
    ["jobs"],
    ["usage"],
    ["explain", "req-1"],
    ["keys", "list"],
    ["keys", "create", "x"],
    ["keys", "revoke", "x"],
    ["deploy", "overrides"],
    ["deploy", "revisions"],
    ["deploy", "scale", "d", "1"],
    ["deploy", "cordon", "d"],
    ["deploy", "drain", "d", "--undo"],
    ["deploy", "release", "d"],
    ["deploy", "readmit", "c"],
    ["deploy", "logs", "i-1"],
    ["resume", "c"],
    ["agent", "configure", "codex"],
]


@pytest.mark.parametrize("arguments", CLIENT_COMMANDS, ids=" ".join)
def test_a_service_that_does_not_run_is_said_with_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, nobody: str, arguments: list[str]
) -> None:
    monkeypatch.setattr("sys.stdin", open("/dev/null"))  # noqa: SIM115, PTH123 closed with the test
    code, out, err = first(capsys, *arguments, "--url", nobody)
    sys.stdin.close()
    assert (code, out) == (1, "")
    assert nobody in one_sentence(err)


def test_a_state_folder_without_a_service_is_said_too(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, _, err = first(capsys, "instances", "--data", str(tmp_path))
    assert code == 1
    assert "first up" in one_sentence(err)


ERRORS = [
    (401, {"message": "that key is not known", "code": "invalid_api_key"}, "FIRST_API_KEY"),
    (403, {"message": "this is for operators", "code": "operator_only"}, "this is for operators"),
    (404, {"message": "there is no model", "code": "model_not_found"}, "there is no model"),
    (429, {"message": "slow down", "code": "rate_limit_exceeded"}, "slow down"),
    (500, {"message": "firstkit failed", "code": "internal_error"}, "firstkit failed"),
    (503, {"message": "the store is away", "code": "store_unavailable"}, "the store is away"),
]


@pytest.mark.parametrize(("status", "error", "words"), ERRORS, ids=str)
def test_what_the_service_says_is_passed_on(
    capsys: pytest.CaptureFixture[str], service: str, status: int, error: dict[str, str], words: str
) -> None:
    Answering.status, Answering.body = status, json.dumps({"error": error}).encode()
    code, out, err = first(capsys, "models", "--url", service)
    assert (code, out) == (1, "")
    assert words in one_sentence(err)


@pytest.mark.parametrize(("status", "body"), [(200, b"<html>"), (404, b"<html>"), (502, b""), (200, b"[]")])
def test_a_url_of_something_else_is_suspected(
    capsys: pytest.CaptureFixture[str], service: str, status: int, body: bytes
) -> None:
    Answering.status, Answering.body = status, body
    code, _, err = first(capsys, "models", "--url", service)
    assert code == 1
    assert service in one_sentence(err)


def test_every_mistake_of_a_file_is_listed_before_the_sentence(
    capsys: pytest.CaptureFixture[str], service: str, tmp_path: Path
) -> None:
    findings = [{"source": "f.yaml", "line": number, "column": 1, "problem": "bad"} for number in (3, 9)]
    error = {"message": "two mistakes", "code": "invalid_config", "findings": findings}
    Answering.status, Answering.body = 422, json.dumps({"error": error}).encode()
    file = tmp_path / "f.yaml"
    file.write_text("x")
    code, _, err = first(capsys, "deploy", "apply", str(file), "--url", service)
    assert code == 1
    assert err.splitlines()[:2] == ["f.yaml:3:1: bad", "f.yaml:9:1: bad"]
    assert "has 2 mistakes; nothing was changed" in err.splitlines()[2]


def test_a_missing_file_is_said_before_anybody_is_asked(capsys: pytest.CaptureFixture[str], service: str) -> None:
    code, _, err = first(capsys, "deploy", "apply", "none.yaml", "--url", service)
    assert code == 1
    assert "none.yaml cannot be read" in one_sentence(err)
    assert Answering.seen == []


def test_empty_listings_are_empty_json_and_a_sentence_for_people(
    capsys: pytest.CaptureFixture[str], service: str
) -> None:
    for command in ("models", "clusters", "deployments", "instances", "jobs", "usage"):
        code, out, _ = first(capsys, command, "--json", "--url", service)
        assert (code, json.loads(out)) == (0, [])
        code, out, err = first(capsys, command, "--url", service)
        assert (code, out) == (0, "")
        assert err.strip()


def test_a_file_for_a_new_key_must_be_new(capsys: pytest.CaptureFixture[str], service: str, tmp_path: Path) -> None:
    (tmp_path / "k").write_text("old")
    code, _, err = first(capsys, "keys", "create", "x", "--out", "k", "--url", service)
    assert code == 1
    assert "exists already" in one_sentence(err)
    assert Answering.seen == []


def test_a_key_that_cannot_be_a_key_is_never_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, service: str
) -> None:
    monkeypatch.setenv("FIRST_API_KEY", "hush hush\nX: y")
    code, _, err = first(capsys, "models", "--url", service)
    assert code == 1
    assert "FIRST_API_KEY holds is no API key" in one_sentence(err)
    assert "hush" not in err


def test_config_check_lists_mistakes_and_ends_with_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "first.yaml").write_text("modles: {}\nclusters: 3\n")
    code, out, err = first(capsys, "config", "check")
    assert (code, out) == (1, "")
    assert "first.yaml:1:1" in err
    assert err.strip().splitlines()[-1] == "first: first.yaml has 2 mistakes"
    code, out, _ = first(capsys, "config", "check", "--json")
    assert code == 1
    assert [finding["line"] for finding in json.loads(out)] == [1, 2]


# ------------------------------------------------------------------------------------------------------------ the rest
def test_every_command_has_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    import click

    from firstkit.apps.cli.entry import cli

    def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
        if isinstance(command, click.Group):
            for name in command.list_commands(click.Context(command)):
                inner = command.get_command(click.Context(command), name)
                assert inner is not None
                yield from walk(inner, f"{path} {name}")
        else:
            yield path, command

    for path, command in walk(cli, "first"):
        text = command.help or ""
        assert f"first {' '.join(path.split()[1:])}" in text, f"{path} shows no example"
        code, out, _ = first(capsys, *path.split()[1:], "--help")
        assert (code, path in out) == (0, True)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = first(capsys, "--help")
    assert code == 0
    for name in COMMANDS:
        assert f"\n  {name}" in out
    assert all(title in out for title in SECTIONS)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_name_the_program(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = first(capsys, "completion", shell)
    assert code == 0
    assert "_FIRST_COMPLETE" in out


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m firstkit.apps.cli --help | head -1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


GUARD = """
import sys
BANNED = {"alembic", "cryptography", "fastapi", "httptools", "msgspec", "prometheus_client", "psycopg", "pydantic",
          "ruamel", "sqlalchemy", "starlette", "uvicorn", "uvloop"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in BANNED:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Refuse())
from firstkit.apps.cli.entry import run
sys.exit(run(sys.argv[1:]))
"""


@pytest.mark.parametrize("arguments", [*CLIENT_COMMANDS, ["bench", "m", "-n", "1"]], ids=" ".join)
def test_client_commands_need_no_server_package(nobody: str, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARD, *arguments, "--url", nobody],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 1
    assert "server packages" not in done.stderr
    assert "Traceback" not in done.stderr
    assert nobody in done.stderr + done.stdout


def test_a_command_that_needs_them_says_how_to_install_them() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GUARD, "config", "check", "x.yaml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "pip install 'firstkit[server]'" in done.stderr
