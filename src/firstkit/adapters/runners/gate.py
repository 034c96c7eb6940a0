# SPDX-License-Identifier: Apache-2.0
"""The far end of the ssh runner, in one file that a cluster's own Python runs: standard library, 3.9 or later.

The runner sends it along with each call, so that nothing is installed. Or an administrator installs it, with a policy
beside it, as all that a key may run (one line in authorized_keys, see `first gate install`):

    restrict,command="/usr/bin/python3 -I /opt/first/gate.py /opt/first/gate.json" ssh-ed25519 ...

It reads one request from its standard input and carries it out: commands one after the other, each in a session of its
own and an environment from an allow-list, or files that are put, read or removed. Nothing is begun before the whole
request has come. Whoever asked has gone when the standard input ends: what runs then is killed, nothing more is begun.

    request:  a JSON object in one line · the bytes that it announces · NONCE
    answer:   NONCE ready 1 · then for each result a JSON object in one line, the bytes that it announces, NONCE

The nonce is new for each call, so what a login shell prints before, or another process between, is taken for no answer,
and a result is whole when its nonce is there.
"""

import sys

if sys.version_info < (3, 9):  # all of this file parses from 3.6 on
    sys.stderr.write("first: Python 3.9 or later is needed here, this is %d.%d\n" % sys.version_info[:2])
    sys.exit(127)

import contextlib
import fcntl
import hashlib
import json
import os
import re
import selectors
import shutil
import signal
import stat
import subprocess
import time
from typing import Any, Dict, Generator, Iterable, List, Optional, Sequence, Tuple

VERSION = 1
ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "SLURM_CONF", "PBS_CONF_FILE", "PBS_SERVER")
"""All that a scheduler's command sees of the login's environment; no secret is among them."""
MAX_HEAD = 16 << 20
MAX_BODY = 256 << 20
MAX_OUTPUT = 64 << 20
CHUNK = 1 << 16

Answer = Dict[str, Any]


class HungUp(Exception):
    """Nobody waits for the answer any more."""


class Denied(Exception):
    """The policy does not allow it; the message says what."""


class Wire:
    """One call's request and answer, on standard input and output."""

    def __init__(self, nonce: str) -> None:
        self._nonce = nonce.encode()

    def greet(self) -> None:
        """Say that the request may come."""
        self._write(b"\n%s ready %d\n" % (self._nonce, VERSION))

    def request(self) -> Tuple[Dict[str, Any], List[bytes]]:
        """Read the request; HungUp where it breaks off."""
        source = sys.stdin.buffer
        try:
            head = json.loads(source.readline(MAX_HEAD))
            sizes = [int(size) for size in head["sizes"]]
        except (ValueError, KeyError, TypeError):
            raise HungUp from None
        if min(sizes, default=0) < 0 or sum(sizes) > MAX_BODY:
            raise HungUp
        blobs = [source.read(size) for size in sizes]
        if source.readline(len(self._nonce) + 1) != self._nonce + b"\n":
            raise HungUp
        return head, blobs

    def answer(self, head: Answer, *blobs: bytes) -> None:
        """Write one result, whole."""
        head["sizes"] = [len(blob) for blob in blobs]
        self._write(b"%s\n%s%s\n" % (json.dumps(head).encode(), b"".join(blobs), self._nonce))

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(1, left) :]
        except OSError:
            raise HungUp from None


# ------------------------------------------------------------------------------------------------------------ commands


def environment(path: Optional[str]) -> Dict[str, str]:
    """Keep of our environment what commands may see."""
    kept = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    kept["PATH"] = path or kept.get("PATH", "/usr/local/bin:/usr/bin:/bin")
    return kept


def run(wire: Wire, head: Dict[str, Any], inputs: Sequence[bytes], until: float, policy: "Optional[Policy]") -> None:
    """Run commands in order; after one that did not end the rest are refused, since order matters."""
    clean, unended = environment(policy.path if policy else head.get("path")), False
    for argv, data in zip(head["commands"], inputs):
        if unended:
            wire.answer({"state": "refused", "detail": "not tried: the command before it did not end"}, b"", b"")
            continue
        try:
            if policy is not None:
                policy.check_command([str(word) for word in argv], data, clean, until)
        except Denied as denied:
            wire.answer({"state": "refused", "detail": str(denied)}, b"", b"")
            continue
        head, out, err = run_one(list(argv), data, clean, until)
        unended = head["state"] == "unknown"
        wire.answer(head, out, err)


def run_one(argv: List[str], data: bytes, clean: Dict[str, str], until: float) -> Tuple[Answer, bytes, bytes]:
    """Run one command to its end or the deadline; leave nothing of it then."""
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd="/",
            env=clean,
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        return {"state": "refused", "detail": "%s: %s" % (argv[0], why)}, b"", b""
    try:
        trouble, out, err = attend(child, data, until)
        if trouble is None:
            return {"state": "done", "code": child.wait(max(0.0, until - time.monotonic()))}, out, err
    except subprocess.TimeoutExpired:
        trouble = "did not end in time"
    finally:
        if child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for pipe in (child.stdin, child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    return {"state": "unknown", "detail": "%s %s" % (argv[0], trouble)}, b"", b""


def attend(child: "subprocess.Popen[bytes]", data: bytes, until: float) -> Tuple[Optional[str], bytes, bytes]:
    """Feed a command and collect what it prints, until it closes both outputs; say what went wrong, if anything."""
    assert child.stdin is not None and child.stdout is not None and child.stderr is not None  # noqa: S101, PT018
    feed, collect = child.stdin.fileno(), {child.stdout.fileno(): bytearray(), child.stderr.fileno(): bytearray()}
    out, err = collect.values()
    left = memoryview(data)
    with selectors.PollSelector() as selector:
        selector.register(0, selectors.EVENT_READ)
        for number in collect:
            selector.register(number, selectors.EVENT_READ)
        os.set_blocking(feed, False)
        selector.register(feed, selectors.EVENT_WRITE)
        waiting = set(collect)
        while waiting:
            remaining = until - time.monotonic()
            if remaining <= 0:
                return "did not end in time", b"", b""
            for key, _ in selector.select(remaining):
                if key.fd == 0:
                    if not os.read(0, CHUNK):
                        raise HungUp
                elif key.fd == feed:
                    left = feed_some(feed, left)
                    if not left:
                        selector.unregister(feed)
                        child.stdin.close()
                else:
                    chunk = os.read(key.fd, CHUNK)
                    collect[key.fd] += chunk
                    if not chunk:
                        selector.unregister(key.fd)
                        waiting.discard(key.fd)
                    if len(out) + len(err) > MAX_OUTPUT:
                        return "printed more than %d bytes" % MAX_OUTPUT, b"", b""
    return None, bytes(out), bytes(err)


def feed_some(descriptor: int, left: memoryview) -> memoryview:
    """Write as much as fits; nothing is left when the command reads no more."""
    try:
        return left[os.write(descriptor, left[:CHUNK]) :] if left else left
    except BlockingIOError:
        return left
    except OSError:
        return left[:0]


# --------------------------------------------------------------------------------------------------------------- files


def put(files: Iterable[Tuple[str, int, bytes]]) -> Answer:
    """Write files, each by rename; one of the same content is left as it is."""
    try:
        for path, mode, data in files:
            put_one(path, mode, data)
    except OSError as error:
        return {"state": "refused", "detail": "%s: %s" % (error.filename or "run directory", error.strerror or error)}
    return {"state": "done"}


def put_one(path: str, mode: int, data: bytes) -> None:
    """Write one file whole or not at all; folders that are missing are made for us alone."""
    folder, name = os.path.split(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)  # the umask holds for the folders above
    if same(path, data):
        return
    temporary = os.path.join(folder, ".%s.%s.new" % (name, os.urandom(6).hex()))
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            os.fchmod(handle.fileno(), mode)
        os.replace(temporary, path)
    except OSError:
        os.unlink(temporary)
        raise


def same(path: str, data: bytes) -> bool:
    """Tell whether a file holds just that already."""
    try:
        with open(path, "rb") as handle:
            return os.fstat(handle.fileno()).st_size == len(data) and handle.read() == data
    except FileNotFoundError:
        return False


def read_many(wire: Wire, paths: Sequence[str], limit: int, flags: int) -> Answer:
    """Answer with each file that exists; the last `limit` bytes of a longer one."""
    for number, path in enumerate(paths):
        try:
            data = read(path, limit, flags)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            return {"state": "unknown", "detail": "%s: %s" % (path, error.strerror or error)}
        wire.answer({"state": "file", "number": number}, data)
    return {"state": "done"}


def read(path: str, limit: int, flags: int = 0) -> bytes:
    """Read the end of a regular file; a pipe or device is an error instead of a wait."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | flags), "rb") as handle:
        told = os.fstat(handle.fileno())
        if not stat.S_ISREG(told.st_mode):
            raise OSError(0, "is not a regular file")
        handle.seek(max(0, told.st_size - limit))
        return handle.read(limit)


def remove(folders: Iterable[str]) -> Answer:
    """Remove whole folders; an absent one is no error."""
    try:
        for folder in folders:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)
    except OSError as error:
        return {"state": "refused", "detail": "%s: %s" % (error.filename, error.strerror or error)}
    return {"state": "done"}


# -------------------------------------------------------------------------------------------------------------- policy

JOB = "j-[0-9a-z]{12}"
_FILE = re.compile(r"(?P<job>%s)/(?:i-[0-9a-z]{12}/)?(?P<name>[A-Za-z0-9_][A-Za-z0-9_.-]*)" % JOB)
_LAUNCHER = re.compile(r"launcher-([0-9a-f]{12})[.]pyz")
_NAMED_LAUNCHER = re.compile(r"/(launcher-[0-9a-f]{12}[.]pyz)")
_TOLD_AFTERWARDS = "desired.json"
_SECRETS = ("control.key", "door.key", "door.crt", "ca.crt")
_UNREADABLE = re.compile(r"job[.]json|.*[.]key")
_PASSING = (
    (re.compile(r"(?m)^#SBATCH --(time|signal|exclude)=[^\s]*$"), r"#SBATCH --\1"),
    (re.compile(r"\bwalltime=[0-9:]+"), "walltime"),
)
"""What may differ between two jobs of one deployment besides their names, and decides nothing."""


def fingerprint(job: str, files: Dict[str, bytes], launcher: bytes, argv: Sequence[str]) -> str:
    """Digest what a job would run: its files but the secrets, its launcher, and how it is submitted.

    `files` by their path in the job's folder. Two jobs of one deployment have the same: the names of this job and its
    instances are left out, but those of others are not, or a job might be sent into a folder that nobody looked at.
    """
    document = json.loads(files["job.json"])
    names = {job: "j-"}
    for number, instance in enumerate(document["instances"]):
        if not re.fullmatch("i-[0-9a-z]{12}", instance["instance"]):
            raise ValueError("no instance's name: %s" % instance["instance"])
        names[instance["instance"]] = "i-%d" % number
        instance["engine"]["key"] = None
    document["walltime_s"] = None

    def passing(text: str) -> str:
        for name, instead in names.items():
            text = text.replace(name, instead)
        for found, instead in _PASSING:
            text = found.sub(instead, text)
        return text

    whole = hashlib.sha256(hashlib.sha256(launcher).digest())
    whole.update(passing("\0".join(argv)).encode())
    for path in sorted(files, key=passing):
        name = os.path.basename(path)
        if name in _SECRETS or name == _TOLD_AFTERWARDS:
            continue
        text = files[path].decode("utf-8", "surrogateescape")
        if path == "job.json":
            text = json.dumps(document, sort_keys=True)
        told = passing(text).encode("utf-8", "surrogateescape")
        whole.update(b"%s\0%d\0" % (passing(path).encode(), len(told)) + told)
    return whole.hexdigest()


class Policy:
    """What a key may do: put, read and remove files of jobs in one folder, and run the commands that are listed.

    `commands`: patterns of whole command lines, words parted by NUL, by what they are for. `whose`: how to ask the
    scheduler for the name of a job before it is cancelled. `files`: what else may lie in the folder, by its SHA-256.
    """

    def __init__(self, path: str) -> None:
        with open(path) as handle:
            document = json.load(handle)
        self.run_dir = os.path.normpath(document["run_dir"])
        self.path = str(document.get("path") or "/usr/local/bin:/usr/bin:/bin")
        self._tag = re.compile(document["tag"])
        self._files: Dict[str, str] = document.get("files", {})
        self._whose: Dict[str, Any] = document["whose"]
        self._approvals: Optional[str] = document.get("approvals")
        self._commands = [(kind, re.compile(text)) for kind, texts in document["commands"].items() for text in texts]
        if self._approvals is not None:
            for one in (path, self._approvals, os.path.abspath(__file__)):
                untouchable(one)

    # ------------------------------------------------------------------------------------------------------- files
    @contextlib.contextmanager
    def alone(self) -> Generator[None, None, None]:
        """Let no other call change files meanwhile: what was looked at is what is submitted."""
        os.makedirs(self.run_dir, mode=0o700, exist_ok=True)
        with open(os.path.join(self.run_dir, ".gate.lock"), "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def check_put(self, path: str, mode: int, data: bytes) -> None:
        """Allow a job's own files, launchers that are what their names say, and the scheduler's programs of ours."""
        inner = self._inner(path)
        if mode not in (0o600, 0o700):
            raise Denied("the gate puts files for this account alone, not with mode %o" % mode)
        launcher, file = _LAUNCHER.fullmatch(inner), _FILE.fullmatch(inner)
        digest = hashlib.sha256(data).hexdigest()
        if launcher and digest.startswith(launcher[1]):
            if self._approvals is not None and os.path.exists(path) and not same(path, data):
                raise Denied("the gate replaces no launcher: %s" % path)
        elif file:
            told = file["name"] == _TOLD_AFTERWARDS
            if self._approvals is not None and not told and os.path.exists(self._mark(file["job"])):
                raise Denied("the gate changes no file of a job that was submitted: %s" % path)
        elif self._files.get(inner) != digest and inner != ".doctor":
            raise Denied("the gate puts no such file: %s" % path)

    def check_read(self, path: str) -> None:
        """Allow what a job writes for us; no secret is among it."""
        inner = self._inner(path)
        file = _FILE.fullmatch(inner)
        if not (file and not _UNREADABLE.fullmatch(file["name"])) and inner != ".doctor":
            raise Denied("the gate reads no such file: %s" % path)

    def check_remove(self, folder: str) -> None:
        """Allow a job's folder."""
        if not re.fullmatch(JOB, self._inner(folder)):
            raise Denied("the gate removes folders of jobs alone, not %s" % folder)

    def _inner(self, path: str) -> str:
        """Return a path's part below the run directory; no link may lead out of it."""
        if os.path.normpath(path) != path or not path.startswith(self.run_dir + "/"):
            raise Denied("the gate has nothing to do with %s" % path)
        inner = path[len(self.run_dir) + 1 :]
        folder, base = os.path.dirname(inner), os.path.realpath(self.run_dir)
        if os.path.realpath(os.path.join(self.run_dir, folder)) != os.path.normpath(os.path.join(base, folder)):
            raise Denied("the gate follows no link: %s" % path)
        return inner

    def _mark(self, job: str) -> str:
        """Name the file that says that a job was submitted."""
        return os.path.join(self.run_dir, ".submitted", job)

    # ---------------------------------------------------------------------------------------------------- commands
    def check_command(self, argv: List[str], data: bytes, clean: Dict[str, str], until: float) -> None:
        """Allow a command that is listed: submissions of what was approved, cancellations of our own jobs."""
        line = "\0".join(argv)
        for kind, pattern in self._commands:
            match = pattern.fullmatch(line)
            if match is None or data:
                continue
            if kind == "submit" and self._approvals is not None:
                self._check_approved(match["job"], argv)
            if kind == "cancel":
                for number in match["ids"].split("\0"):
                    self._check_ours(number, clean, until)
            return
        raise Denied("the gate runs no such command: %s" % " ".join(argv)[:300])

    def _check_ours(self, number: str, clean: Dict[str, str], until: float) -> None:
        """Ask the scheduler for a job's name. One that it does not know cannot be harmed."""
        argv = [word.replace("{id}", number) for word in self._whose["argv"]]
        head, out, err = run_one(argv, b"", clean, until)
        said = (out + err).decode("utf-8", "replace")
        name = re.search(self._whose["name"].replace("{id}", re.escape(number)), said)
        if name is not None and self._tag.fullmatch(name[1]):
            return
        absent = re.search(self._whose["absent"].replace("{id}", re.escape(number)), said)
        if name is not None or head["state"] != "done" or absent is None:
            raise Denied("the gate cancels jobs of this installation alone, and %s is not known to be one" % number)

    def _check_approved(self, job: str, argv: Sequence[str]) -> None:
        """Compare what the job would run with what an administrator has listed; from now on its files stay."""
        with self.alone():
            folder = os.path.join(self.run_dir, job)
            self._inner(os.path.join(folder, "start.sh"))
            if os.path.exists(self._mark(job)):
                raise Denied("the gate submits a job once, and %s was submitted" % job)
            files: Dict[str, bytes] = {}
            for place, _, names in os.walk(folder):
                for name in names:
                    file = os.path.join(place, name)
                    files[os.path.relpath(file, folder)] = read(file, MAX_BODY, os.O_NOFOLLOW)
            named = _NAMED_LAUNCHER.search(files.get("start.sh", b"").decode("utf-8", "replace"))
            launcher = read(os.path.join(self.run_dir, named[1]), MAX_BODY, os.O_NOFOLLOW) if named else b""
            try:
                digest = fingerprint(job, files, launcher, argv)
            except (ValueError, KeyError, TypeError):
                raise Denied("the gate cannot read what %s would run" % job) from None
            with open(str(self._approvals)) as handle:
                if digest not in {words[0] for words in map(str.split, handle) if words}:
                    raise Denied("no administrator has approved what %s would run: %s" % (job, digest))
            os.makedirs(os.path.dirname(self._mark(job)), mode=0o700, exist_ok=True)
            os.close(os.open(self._mark(job), os.O_WRONLY | os.O_CREAT, 0o600))


def untouchable(path: str) -> None:
    """See that this account can change neither a file nor the folders that lead to it."""
    me = os.geteuid()
    while True:
        told = os.stat(path)
        sticky = told.st_mode & stat.S_ISVTX and stat.S_ISDIR(told.st_mode)
        if told.st_uid == me or (os.access(path, os.W_OK) and not sticky):
            raise Denied("this account itself can change %s: let it belong to somebody else" % path)
        if path == "/":
            return
        path = os.path.dirname(os.path.realpath(path))


# ---------------------------------------------------------------------------------------------------------------- call


def serve(nonce: str, policy: Optional[Policy]) -> int:
    """Carry out one call."""
    os.umask(0o077)
    os.chdir("/")
    wire = Wire(nonce)
    try:
        wire.greet()
        head, blobs = wire.request()
        until = time.monotonic() + float(head["deadline_s"])
        try:
            answer(wire, head, blobs, until, policy)
        except Denied as denied:
            wire.answer({"state": "refused", "detail": str(denied)})
        wire.answer({"state": "end"})
    except HungUp:
        return 1
    return 0


def answer(wire: Wire, head: Dict[str, Any], blobs: List[bytes], until: float, policy: Optional[Policy]) -> None:
    """Do what is asked for, as far as the policy allows it."""
    kind = head["op"]
    if kind == "run":
        run(wire, head, blobs, until, policy)
    elif kind == "put":
        files = [(str(path), int(mode) & 0o777, blob) for (path, mode), blob in zip(head["files"], blobs)]
        if policy is None:
            wire.answer(put(files))
            return
        with policy.alone():
            for file in files:
                policy.check_put(*file)
            wire.answer(put(files))
    elif kind == "read-many":
        if policy is not None:
            for path in head["paths"]:
                policy.check_read(str(path))
        flags = os.O_NOFOLLOW if policy is not None else 0
        wire.answer(read_many(wire, head["paths"], int(head["limit"]), flags))
    elif kind == "remove":
        if policy is None:
            wire.answer(remove(head["folders"]))
            return
        with policy.alone():
            for folder in head["folders"]:
                policy.check_remove(str(folder))
            wire.answer(remove(head["folders"]))


def main(argv: Sequence[str]) -> int:
    """Take the call's nonce from the command line where this was sent along, else from what the key's owner asked."""
    if argv[0] == "-c":
        return serve(argv[1], None)
    asked = re.fullmatch(r"first-gate ([0-9a-f]{32})", os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    try:
        if asked is None:
            raise Denied("this key runs first-gate and nothing else; set `gate: true` for the runner")
        return serve(asked[1], Policy(argv[1]))
    except (Denied, OSError, ValueError, KeyError, TypeError, IndexError, re.error) as error:
        sys.stderr.write("first gate: %s\n" % error)
        return 126


if __name__ == "__main__":
    sys.exit(main(sys.argv))
