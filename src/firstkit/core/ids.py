# SPDX-License-Identifier: Apache-2.0
"""Identifiers: what each looks like and how one is made from given randomness."""

from __future__ import annotations

import re

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32, lower case: no i, l, o, u
_BITS = 5

JobId = str
InstanceId = str
NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
"""Names of clusters and deployments."""
TAG = re.compile(r"first-(?P<installation>[0-9a-z]{8})-(?P<job>j-[0-9a-z]{12})")
"""The name of our jobs at a scheduler; opaque, since every user of a cluster can read it."""

_PARKS = re.compile(r"(i-[0-9a-z-]{1,60})\.park\.firstkit")


def encode(random: bytes, length: int) -> str:
    """Turn random bytes (at least length × 5 bits) into `length` characters."""
    number = int.from_bytes(random, "big")
    if len(random) * 8 < length * _BITS:
        raise ValueError("too little randomness for that length")
    return "".join(_ALPHABET[(number >> (_BITS * index)) & 31] for index in range(length))


def job_id(random: bytes) -> JobId:
    """Make a job id from 8 random bytes."""
    return "j-" + encode(random, 12)


def instance_id(random: bytes) -> InstanceId:
    """Make an instance id from 8 random bytes; new at every start, so it is its own fence."""
    return "i-" + encode(random, 12)


def installation_id(random: bytes) -> str:
    """Make an installation id from 5 random bytes."""
    return encode(random, 8)


def tag(*, installation: str, job: JobId) -> str:
    """Name a job at its scheduler."""
    return f"first-{installation}-{job}"


def read_tag(text: str) -> tuple[str, JobId] | None:
    """Take a job's name apart into installation and job id; None when it is not one of ours."""
    match = TAG.fullmatch(text)
    return (match["installation"], match["job"]) if match else None


def job_name(job: JobId) -> str:
    """Name a job in the certificate with which it reports."""
    return f"{job}.job.firstkit"


def door_name(job: JobId) -> str:
    """Name a job's doors in their certificate; the gateway checks it, so one job cannot pass for another."""
    return f"{job}.door.firstkit"


def park_name(instance: InstanceId) -> str:
    """Name an instance in the certificate with which its door parks connections."""
    return f"{instance}.park.firstkit"


def read_park_name(text: str) -> InstanceId | None:
    """Read whose door a certificate's name names; None when it names none."""
    match = _PARKS.fullmatch(text)
    return match[1] if match else None
