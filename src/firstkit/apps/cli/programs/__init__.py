# SPDX-License-Identifier: Apache-2.0
"""Programs that commands of `first` run elsewhere; standard library only."""
