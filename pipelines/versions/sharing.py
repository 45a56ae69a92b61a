"""Equal files of a store are one file on its disk: a version that changes 1 % of its rows takes about that much more.

    draft/rows/part-00007.parquet ──same sha256 in another manifest, same bytes on the disk──▶ a hard link to that file

Links are made in the draft, by one rename each, before the draft becomes a version; so a kill at any instant leaves whole
versions, and removing one takes nothing from the others. Where the file system makes no links the draft keeps its copy.
"""

import filecmp
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tracemill.pipelines.versions.dataset import Dataset, homes_of, versions_of
from tracemill.pipelines.versions.durable import says_full
from tracemill.pipelines.versions.manifest import listed_files
from tracemill.pipelines.versions.parquet import FileFacts
from tracemill.schemas.errors import TracemillError

KIND = ".parquet"
"""Tables and views; what else a version holds is smaller than a link is worth."""


@dataclass(slots=True)
class Shared:
    """What a commit shared with older versions: files and their bytes, out of how many, and what it had to copy and why."""

    files: int = 0
    bytes: int = 0
    of_files: int = 0
    of_bytes: int = 0
    copied: int = 0
    why: str = ""


def share(draft: Path, files: Sequence[FileFacts], root: Path) -> Shared:
    """Put hard links in the place of those files of a draft that an older version of the store at `root` holds already."""
    done = Shared()
    known = _by_hash(root) if files else {}
    for file in files:
        if not file.path.endswith(KIND):
            continue
        done.of_files += 1
        done.of_bytes += file.bytes
        if (twin := known.get(file.sha256)) is None:
            continue
        try:
            linked = _link(twin, draft / file.path)
        except OSError as error:
            if says_full(error):
                raise
            done.copied += 1
            done.why = error.strerror or str(error)
        else:
            done.files += linked
            done.bytes += file.bytes if linked else 0
    return done


def _by_hash(root: Path) -> Mapping[str, Path]:
    """The files of all versions, by what their manifests say of them."""
    found = {}
    for home in homes_of(root):
        for version in versions_of(home):
            dataset = Dataset(home.name, version, home / version)
            try:
                listed = listed_files(dataset.manifest())
            except (TracemillError, KeyError, TypeError):
                continue  # damaged, or of a newer release: nothing to build on
            for path, facts in listed.items():
                if path.endswith(KIND):
                    found[str(facts["sha256"])] = dataset.path / path
    return found


def _link(twin: Path, place: Path) -> bool:
    """Replace `place` by a link to `twin`; False where that is gone, or is not what its manifest says it is."""
    try:
        if twin.is_symlink() or not filecmp.cmp(twin, place, shallow=False):
            return False  # damaged on the disk: what was just written is better
        beside = place.with_name(f".{place.name}-{secrets.token_hex(4)}")
        os.link(twin, beside, follow_symlinks=False)
    except FileNotFoundError:
        return False  # its version was removed meanwhile
    beside.replace(place)
    return True
