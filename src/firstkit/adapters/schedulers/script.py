# SPDX-License-Identifier: Apache-2.0
"""start.sh, which every scheduler runs: the setup lines in a login shell, then the launcher in the shell's place."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from firstkit.ports.scheduler import Submission

FAILED = "setup.failed"
OUTPUT = "job.out"
_TEMPLATE = """\
#!/bin/bash{login}
{header}
umask 077
cd {run_dir} || exit 1
exec >>{output} 2>&1

# A setup line that fails ends the job; which one, and what was printed last, is kept in {failed}.
setup_failed() {{
    trap - DEBUG
    {{ echo "exit code $1 at line $2 of start.sh: $(sed -n "$2p" start.sh)"; tail -n 20 {output}; }} >{failed}.new
    mv {failed}.new {failed}
}}
trap 'setup_failed $? $line' EXIT
trap 'trap - EXIT; exit 143' TERM INT HUP
trap '((LINENO > 1)) && line=$LINENO' DEBUG
shopt -s execfail
set -e
# ---------------------------------------------------------------- setup lines of cluster and engine
{setup}
# ---------------------------------------------------------------- the launcher takes this shell's place
set +e
exec {command} || exit
"""


def start_script(
    submission: Submission, *, setup: str, launcher: str, python: str, login: bool, directives: Sequence[str] = ()
) -> str:
    """Render start.sh; `directives` are the scheduler's own comment lines (#SBATCH, #PBS), right below the first.

    `login`: in a login shell, as sites expect it that set up `module` and the like in their profiles.
    """
    header = [
        *directives,
        f"# {submission.tag}: started by firstkit; what is started is described in job.json beside this file",
    ]
    return _TEMPLATE.format(
        login=" -l" if login else "",
        header="\n".join(header),
        run_dir=shlex.quote(submission.run_dir),
        output=OUTPUT,
        failed=FAILED,
        setup=setup.strip("\n"),
        command=shlex.join([python, "-I", "-S", launcher, "job.json"]),
    )
