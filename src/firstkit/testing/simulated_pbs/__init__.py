# SPDX-License-Identifier: Apache-2.0
"""A simulation of OpenPBS for tests: commands, server and node daemon that behave as recorded from version 23.06.06.

It is not PBS, and shares no code with it. Jobs really run, as process groups; exit codes, texts, JSON, states and the
order of signals are those of the recordings, hangs, outages and lost nodes included. What was not recorded and had to
be made up is marked "made up" where it is done.
"""
