"""Creates all folders and files of heterofed. Only this user can access them, whatever the umask.

A folder gets mode 0700 and a file mode 0600. A file appears whole or not at all, and is on disk
when the call returns. Symbolic links in place of heterofed's files are never followed, and nothing
is written to a folder that is a link or belongs to another user. This package knows nothing of the
content of files.
"""

from heterofed.files.folders import (
    OWN_HOME,
    UNMAPPED,
    heterofed_home,
    make_folder,
    move_aside,
    own_folder,
    private_folder,
    rename_folder,
    try_folder,
)
from heterofed.files.opened import OWN_RESULTS
from heterofed.files.private_files import (
    DRAFT,
    append,
    append_json,
    close_to_others,
    drop_drafts,
    file_lock,
    new_file,
    put_in_place,
    read,
    truncate,
    writing,
)
from heterofed.files.scratch import temporary_folder
from heterofed.files.streams import fill_standard_streams
from heterofed.files.whole_folder import whole_folder

__all__ = [
    "DRAFT",
    "OWN_HOME",
    "OWN_RESULTS",
    "UNMAPPED",
    "append",
    "append_json",
    "close_to_others",
    "drop_drafts",
    "file_lock",
    "fill_standard_streams",
    "heterofed_home",
    "make_folder",
    "move_aside",
    "new_file",
    "own_folder",
    "private_folder",
    "put_in_place",
    "read",
    "rename_folder",
    "temporary_folder",
    "truncate",
    "try_folder",
    "whole_folder",
    "writing",
]
