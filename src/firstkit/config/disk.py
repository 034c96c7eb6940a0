# SPDX-License-Identifier: Apache-2.0
"""What is looked at on this machine's disk while a configuration is checked; nothing is made or changed."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path


class Disk:
    """This machine's file system."""

    def exists(self, path: Path) -> bool:
        """Tell whether there is anything; what may not be looked at counts as there."""
        try:
            path.stat()
        except PermissionError:
            return True
        except OSError:
            return False
        return True

    def is_folder(self, path: Path) -> bool:
        """Tell whether it is a folder."""
        try:
            return path.is_dir()
        except OSError:
            return False

    def readable(self, path: Path) -> bool:
        """Tell whether this user may read it."""
        return os.access(path, os.R_OK)

    def open_to_others(self, path: Path) -> bool:
        """Tell whether users beside the owner and the group may read or change it."""
        try:
            return bool(path.stat().st_mode & (stat.S_IROTH | stat.S_IWOTH))
        except OSError:
            return False

    def changed_by_others(self, path: Path) -> bool:
        """Tell whether anybody may change it."""
        try:
            return bool(path.stat().st_mode & stat.S_IWOTH)
        except OSError:
            return False

    def why_not_writable(self, folder: Path) -> str:
        """Say why a folder cannot be made or written into; "" when it can."""
        here = folder
        while not self.exists(here) and here != here.parent:
            here = here.parent
        if not self.is_folder(here):
            return f"{here} is no folder"
        if self.read_only(here):
            return f"{here} is on a file system that is mounted read-only"
        return "" if self.may_write(here) else f"{here} is not writable for this user"

    def why_not_ours(self, folder: Path) -> str:
        """Say why others could put their files in the place of ours in a folder; "" when not, or not there."""
        try:
            found = folder.stat()
        except OSError:
            return ""
        if found.st_uid != os.geteuid():
            return f"{folder} belongs to another user"
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            return f"{folder} can be written by others"
        return ""

    def may_write(self, folder: Path) -> bool:
        """Tell whether this user may make files in a folder that is there."""
        return os.access(folder, os.W_OK | os.X_OK)

    def read_only(self, folder: Path) -> bool:
        """Tell whether a folder that is there is on a file system that nobody can write."""
        try:
            return bool(os.statvfs(folder).f_flag & os.ST_RDONLY)
        except OSError:
            return False

    def why_no_certificate(self, certificate: Path, key: Path) -> str:
        """Say why a certificate and key cannot be used together; "" when they can."""

        def no_password() -> str:
            raise ValueError("the private key is encrypted; firstkit cannot ask for its password")

        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=no_password)
        except ValueError as error:
            return str(error)
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                return "the private key does not belong to the certificate"
            return "certificate and key are not PEM, or not what they should be"
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        return ""
