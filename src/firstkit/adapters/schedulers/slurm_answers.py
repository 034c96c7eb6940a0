# SPDX-License-Identifier: Apache-2.0
"""What Slurm prints, read: refusals, listings, accounting, reservations. What is not understood is no event (law 1).

The words were seen on 22.05; those only documented, or of other versions, are understood besides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from firstkit.adapters.schedulers.slurm_nodes import expand
from firstkit.core import ids
from firstkit.core.reasons import Reason
from firstkit.ports.rehearsal import Rehearsed
from firstkit.ports.runner import Done, Refused, Result
from firstkit.ports.scheduler import Accepted, JobPhase, Observation, Rejected, SeenJob, Unsure, Window

FIELDS = ("JobID:0|", "Name:0|", "State:0|", "exit_code:0|", "TimeLeft:0|", "StartTime:0|", "NodeList:0|", "Reason:0")
"""Fields of squeue's --Format, each with a bar behind it and nothing cut off. What may hold anything comes last."""
END = "end-of-listing"
ACCOUNTED = ("JobID", "JobName", "State", "ExitCode")
"""Fields of sacct's --format."""
WORDS_KEPT = 500

PHASES: Mapping[str, JobPhase] = {
    "PENDING": JobPhase.WAITING,
    "CONFIGURING": JobPhase.WAITING,
    "REQUEUED": JobPhase.WAITING,
    "REQUEUE_FED": JobPhase.WAITING,
    "REQUEUE_HOLD": JobPhase.WAITING,
    "SPECIAL_EXIT": JobPhase.WAITING,
    "RUNNING": JobPhase.RUNNING,
    "SIGNALING": JobPhase.RUNNING,
    "RESIZING": JobPhase.RUNNING,
    "SUSPENDED": JobPhase.RUNNING,
    "STOPPED": JobPhase.RUNNING,
    "COMPLETING": JobPhase.ENDING,
    "STAGE_OUT": JobPhase.ENDING,
    "COMPLETED": JobPhase.ENDED,
    "FAILED": JobPhase.ENDED,
    "CANCELLED": JobPhase.ENDED,
    "TIMEOUT": JobPhase.ENDED,
    "DEADLINE": JobPhase.ENDED,
    "NODE_FAIL": JobPhase.ENDED,
    "BOOT_FAIL": JobPhase.ENDED,
    "PREEMPTED": JobPhase.ENDED,
    "OUT_OF_MEMORY": JobPhase.ENDED,
}
"""States by name; any other (REVOKED, and whatever comes) is unknown."""
ENDS: Mapping[str, Reason] = {
    "CANCELLED": Reason.CANCELLED,
    "TIMEOUT": Reason.WALLTIME,
    "DEADLINE": Reason.WALLTIME,
    "NODE_FAIL": Reason.NODE_FAILURE,
    "BOOT_FAIL": Reason.NODE_FAILURE,
    "PREEMPTED": Reason.PREEMPTED,
    "OUT_OF_MEMORY": Reason.OUT_OF_MEMORY,
}
_REMARKABLE = frozenset({"CONFIGURING", "SUSPENDED", "STOPPED", "REQUEUED", "REQUEUE_HOLD", "SPECIAL_EXIT"})
_HOLDS_NODES = frozenset({JobPhase.RUNNING, JobPhase.ENDING})
_NEVER_STARTS = re.compile(
    r"PartitionTimeLimit|BadConstraints|InvalidAccount|InvalidQOS|DependencyNeverSatisfied|launch failed"
    r"|(QOS|Assoc)Max\w*PerJob\w*|QOSMin\w+"
)
"""Reasons of waiting jobs that waiting does not mend. A job held by a person is not among them: it may be let go."""

_FAILED = "Batch job submission failed: "
_ON_THE_WAY = re.compile(
    r"timed? ?out|unable to contact|connect|communicat|message|zero bytes|not all data|length|standby|transport"
    r"|broken pipe|reset by peer|authentication|input/output error|interrupted|unknown error|no error|success",
    re.IGNORECASE,
)
"""The request or its answer got lost: a hung controller keeps such requests and runs them when it is back."""
_REHEARSED = re.compile(r"Job \d+ to start at (?P<start>\S+) (?P<rest>.*)")
_DRY_FAILED = "allocation failure: "
_TOO_MANY = re.compile(r"Max\w*Submit|Grp\w*Submit|job submit limit|too many jobs|MaxJobCount", re.IGNORECASE)
_PASSES = re.compile(
    r"not available now|temporarily|not usable now|busy|down, drained|presently disabled|try again", re.IGNORECASE
)


def read_submission(result: Result) -> Accepted | Rejected | Unsure:
    """Read what sbatch answered (`17`, of a federated site `17;cluster`), or how it failed."""
    if isinstance(result, Refused):
        return Rejected(detail=result.detail, reason=Reason.SUBMIT_FAILED)
    if not isinstance(result, Done):
        return Unsure(detail=result.detail)
    number = result.out.decode("ascii", "replace").strip().partition(";")[0]
    words = _words(result.err)
    if result.code == 0:
        return Accepted(scheduler_id=number) if number.isdigit() else Unsure(detail=words or f"it printed {number!r}")
    if result.code < 0 or 128 < result.code < 255:
        return Unsure(detail=words or f"sbatch ended with {result.code}")
    refusal = words.rpartition(_FAILED)[2] if _FAILED in words else ""
    if refusal and _ON_THE_WAY.search(refusal):
        return Unsure(detail=words)
    return Rejected(detail=words or f"sbatch ended with exit code {result.code}", reason=_why_refused(words))


def _why_refused(words: str) -> Reason:
    """Tell refusals that pass by themselves from those that hold; a limit for each job is no limit of their number."""
    if re.search(r"PerJob|Wall", words) and not re.search(r"Submit\w*Limit", words):
        return Reason.SUBMIT_REJECTED
    if _TOO_MANY.search(words):
        return Reason.SITE_LIMIT
    passes = _PASSES.search(words) or "fatal:" in words
    return Reason.SUBMIT_FAILED if passes else Reason.SUBMIT_REJECTED


def read_rehearsal(results: Sequence[Result]) -> Rehearsed:
    """Read what `sbatch --test-only` said, and after it the cluster's time (`date +%s`)."""
    said, clock = results
    if not isinstance(said, Done):
        return Rehearsed(accepted=None, detail=said.detail)
    words = _words(said.err)
    if said.code != 0:
        lost = _DRY_FAILED in words and _ON_THE_WAY.search(words.rpartition(_DRY_FAILED)[2])
        return Rehearsed(accepted=None if lost else False, detail=words.replace(_DRY_FAILED, ""))
    match = _REHEARSED.search(words)
    if match is None:
        return Rehearsed(accepted=None, detail=words or "sbatch said nothing")
    now = clock.out.decode("ascii", "replace").strip() if isinstance(clock, Done) else ""
    known = match["start"].isdigit() and now.isdigit()
    starts_in_s = max(0.0, float(match["start"]) - float(now)) if known else None
    return Rehearsed(accepted=True, detail=match["rest"], starts_in_s=starts_in_s)


def _words(err: bytes) -> str:
    """Keep what was said, without the program's name before each line."""
    lines = [
        re.sub(r"^(sbatch|squeue|slurm_load_jobs|scancel): (error: )?", "", line)
        for line in err.decode("utf-8", "replace").splitlines()
    ]
    return "; ".join(line for line in lines if line.strip())[-WORDS_KEPT:]


def read_listing(result: Result, *, tags: str) -> Observation:
    """Read squeue's lines; without the closing one nothing may be concluded from absence."""
    if not isinstance(result, Done):
        return Observation(complete=False, detail=result.detail)
    lines = result.out.decode("utf-8", "replace").split("\n")
    cluster_s = _closing(lines)
    complete = result.code == 0 and cluster_s is not None
    jobs = {seen.scheduler_id: seen for seen in _listed(lines, tags=tags, cluster_s=cluster_s)}
    detail = "" if complete else _words(result.err) or "squeue's listing broke off"
    return Observation(complete=complete, jobs=tuple(jobs.values()), detail=detail)


def _closing(lines: list[str]) -> float | None:
    """Return the cluster's time from the last line, which a newline must end; None where it is cut."""
    match = re.fullmatch(rf"{END} (\d+)", lines[-2]) if len(lines) > 1 and not lines[-1] else None
    return float(match[1]) if match else None


def _listed(lines: list[str], *, tags: str, cluster_s: float | None) -> Iterator[SeenJob]:
    """Yield our jobs; a line that is cut, or part of somebody's free text, is none."""
    for line in lines[:-1]:
        number, bar, rest = line.partition("|")
        fields = rest.split("|", len(FIELDS) - 2)
        if not bar or len(fields) < len(FIELDS) - 1 or not number.isdigit() or not _ours(fields[0], tags):
            continue
        tag, state, code, left, start, nodes, reason = (field.strip() for field in fields)
        phase = PHASES.get(state, JobPhase.UNKNOWN)
        waits = phase is JobPhase.WAITING
        yield SeenJob(
            scheduler_id=number,
            tag=tag,
            phase=phase,
            reason=_reason(phase, state, reason),
            detail=_detail(phase, state, code, reason),
            time_left_s=_duration_s(left) if phase is JobPhase.RUNNING else None,
            starts_in_s=max(0.0, float(start) - cluster_s) if waits and start.isdigit() and cluster_s else None,
            nodes=expand(nodes) if phase in _HOLDS_NODES else frozenset(),
        )


def _ours(tag: str, tags: str) -> bool:
    return tag.startswith(tags) and ids.read_tag(tag) is not None


def _reason(phase: JobPhase, state: str, reason: str) -> Reason | None:
    """Say why a job ended, or that it waits in vain; None where Slurm does not know better than the launcher."""
    if phase is JobPhase.WAITING:
        return Reason.SUBMIT_REJECTED if _NEVER_STARTS.search(reason) else None
    if state == "FAILED" and reason == "BadConstraints":
        return Reason.SUBMIT_REJECTED  # what sbatch was refused is kept as a failed job for a while
    return ENDS.get(state) if phase is JobPhase.ENDED else None


def _detail(phase: JobPhase, state: str, code: str, reason: str) -> str:
    """Keep what Slurm says, as far as it says something."""
    said = "" if reason == "None" else reason
    if phase is JobPhase.ENDED:
        if state in {"COMPLETED", "FAILED"} and said in {"", "NonZeroExitCode", "JobLaunchFailure"}:
            return _exit(code)
        return said
    if phase is JobPhase.UNKNOWN or state in _REMARKABLE:
        return f"{state}: {said}" if said else state
    return said


def _exit(code: str) -> str:
    """Say how a process ended: a raw wait status (22.05's squeue), or exit code and signal (`3:0`)."""
    exit_code, colon, signal = code.partition(":")
    if not exit_code.isdigit() or (colon and not signal.isdigit()):
        return f"exit code {code}" if code else ""
    number, by = (int(exit_code), int(signal)) if colon else (int(exit_code) >> 8, int(exit_code) & 0x7F)
    return f"signal {by}" if by else f"exit code {number}"


def _duration_s(text: str) -> float | None:
    """Read Slurm's `[days-]hours:minutes:seconds` or `minutes:seconds`; None for UNLIMITED, INVALID and the like."""
    match = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


def read_accounting(result: Result, *, tags: str) -> tuple[SeenJob, ...]:
    """Read sacct's lines: only our jobs, only ends; whatever else it says, or that it says nothing, proves nothing.

    Jobs that were started twice have a line for each start: the last one counts.
    """
    if not isinstance(result, Done):
        return ()
    ended: dict[str, SeenJob] = {}
    for line in result.out.decode("utf-8", "replace").split("\n")[:-1]:
        fields = [field.strip() for field in line.split("|")]
        if len(fields) != len(ACCOUNTED) or not fields[0].isdigit() or not _ours(fields[1], tags):
            continue
        number, tag, states, code = fields
        state = states.partition(" ")[0]  # CANCELLED by 1000
        ended.pop(number, None)
        if PHASES.get(state) is JobPhase.ENDED:
            ended[number] = SeenJob(
                scheduler_id=number,
                tag=tag,
                phase=JobPhase.ENDED,
                reason=ENDS.get(state),
                detail=_exit(code) if state in {"COMPLETED", "FAILED"} else "",
            )
    return tuple(ended.values())


def read_windows(result: Result) -> tuple[Window, ...] | None:
    """Read scontrol's reservations, one a line; those of licences alone keep no node from anybody.

    A maintenance takes no jobs, whoever names it. A line that is not understood makes the listing unknown.
    """
    if not isinstance(result, Done) or result.code != 0:
        return None
    lines = result.out.decode("utf-8", "replace").split("\n")
    cluster_s = _closing(lines)
    if cluster_s is None:
        return None
    windows: list[Window] = []
    for line in lines[:-2]:
        if not line.startswith("ReservationName="):
            continue
        facts = {key: value for key, _, value in (word.partition("=") for word in line.split())}
        start, end = facts.get("StartTime", ""), facts.get("EndTime", "")
        nodes = facts.get("Nodes", "(null)")
        if not start.isdigit() or not end.isdigit():
            return None
        if nodes == "(null)":
            continue
        flags = facts.get("Flags", "").split(",")
        windows.append(
            Window(
                name=facts["ReservationName"],
                starts_in_s=float(start) - cluster_s,
                ends_in_s=float(end) - cluster_s,
                nodes=None if "ALL_NODES" in flags else expand(nodes) or None,
                jobs="MAINT" not in flags,
            )
        )
    return tuple(windows)
