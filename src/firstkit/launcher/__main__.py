# SPDX-License-Identifier: Apache-2.0
"""Run the launcher: `python3 launcher-<sha>.pyz job.json`. This file parses on any Python and says if it is too old."""

import sys

if sys.version_info < (3, 9):
    sys.stderr.write(
        "first: the launcher needs Python 3.9 or later, and %s is %d.%d; "
        "let the cluster's setup lines put a newer python3 first in PATH.\n"
        % (sys.executable, sys.version_info[0], sys.version_info[1])
    )
    sys.exit(1)

if __name__ == "__main__":
    # In the archive this file lies beside the package, in a source tree inside of it.
    package = __package__ or "firstkit_launcher"
    sys.exit(__import__(package + ".start", fromlist=["main"]).main(sys.argv[1:]))
