# SPDX-License-Identifier: Apache-2.0
"""Settings and catalog from one YAML file and the environment; nothing is imported here, so that clients stay light.

`loading` reads a file, `schema` describes it, `explaining` answers what a key means, `changes`
compares two loaded files, `environment` is the project's only reader of the environment.
"""
