"""Files of a folder and all folders below it, links included; entries that are left out are counted."""

import os
import stat
from collections.abc import Collection

from tasks.data.errors import DataError
from tasks.data.left_out import LeftOut
from tasks.data.limits import Limits


def in_order(path: str) -> list[str]:
    """Returns the key to sort paths by, folder after folder."""
    return path.split(os.sep)  # noqa: PTH206 - a path object for every file of millions costs time


class Walk:
    """Lists folders; counts what it leaves out and how many entries it has read.

    Attributes:
        suffixes: endings, in lower case, of the files that are taken.
        left_out: what was not taken, by reason.
        bytes: the sizes of the files taken, together.
    """

    def __init__(self, suffixes: Collection[str], limits: Limits) -> None:
        self.suffixes = tuple(suffixes)
        self.left_out = LeftOut()
        self.bytes = 0
        self._limits, self._seen = limits, 0

    def folders_in(self, folder: str) -> list[str]:
        """Returns the names of the folders in a folder, sorted; other entries are left out.

        Raises:
            DataError: if the folder cannot be listed.
        """
        return self._listed(folder, keep_files=False)[1]

    def files_below(self, folder: str) -> dict[str, list[str]]:
        """Returns the paths of files by their folder, for the folder and all below it, sorted.

        Every folder is read once, also if links lead to it, or back to one above it, by several ways.

        Raises:
            DataError: if a folder cannot be listed, or there are more entries than the limits allow.
        """
        paths: dict[str, list[str]] = {}
        seen: set[tuple[int, int]] = set()
        waiting = [folder]
        while waiting:
            place = waiting.pop()
            status = os.stat(place)  # noqa: PTH116 - as above
            if (status.st_dev, status.st_ino) in seen:
                self.left_out.add("a linked folder that is read already", place)
                continue
            seen.add((status.st_dev, status.st_ino))
            files, folders = self._listed(place, keep_files=True)
            if files:
                paths[place] = [os.path.join(place, name) for name in files]  # noqa: PTH118 - as above
            waiting += [os.path.join(place, name) for name in reversed(folders)]  # noqa: PTH118 - as above
        return dict(sorted(paths.items(), key=lambda one: in_order(one[0])))

    def _listed(self, folder: str, *, keep_files: bool) -> tuple[list[str], list[str]]:
        files, folders = [], []
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    self._seen += 1
                    kind, reason = self._kind(entry, keep_files)
                    if kind == "folder":
                        folders.append(entry.name)
                    elif kind == "file":
                        files.append(entry.name)
                    else:
                        self.left_out.add(reason, entry.path)
        except OSError as error:
            raise DataError(
                f"{folder}: expected a folder that can be listed, received: {error.strerror}; change its permissions, "
                "or leave it out"
            ) from error
        self._limits.check_files(folder, self._seen)
        return sorted(files), sorted(folders)

    def _kind(self, entry: "os.DirEntry[str]", keep_files: bool) -> tuple[str, str]:
        """``folder`` or ``file`` if an entry is taken, else an empty string and the reason."""
        if entry.name.startswith((".", "__MACOSX")):
            return "", "hidden"
        taken = keep_files and entry.name.lower().endswith(self.suffixes)
        try:
            status = entry.stat()
        except OSError:  # a link to nothing, to itself, or to where this user may not look
            # With the name of a file that would be taken it is one that cannot be read.
            return ("file", "") if taken else ("", "a link to nothing")
        if stat.S_ISDIR(status.st_mode):
            return "folder", ""
        if not stat.S_ISREG(status.st_mode):
            return "", "a pipe, socket or device"
        if taken:
            self.bytes += status.st_size
            return "file", ""
        return "", self._reason(entry.name, keep_files)

    def _reason(self, name: str, keep_files: bool) -> str:
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - as above
        if not keep_files and suffix in self.suffixes:
            return f"a {suffix} file outside the class folders"
        return f"a {suffix} file" if suffix else "a file without an ending"
