"""Freeing what no run of a workspace uses."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

from tag2mask.base.files import ASIDE_SUFFIX
from tag2mask.engine.workspace import Workspace
from tag2mask.runs.listing import Pruned, checked_root, find_run, listed, what_goes


def prune_workspace(
    workspace: str | Path = "workspace",
    *,
    runs: Sequence[str | Path] = (),
    unfinished: bool = False,
    dry_run: bool = True,
) -> Pruned:
    """Frees what no run uses: whole stages that no run's record names, and what killed processes left half-written.

    Links are never followed, and nothing is deleted but below the workspace's ``stages/`` and ``runs/``.

    Args:
        workspace: its folder.
        runs: runs to be deleted too, with the stages that only they use: names, unique beginnings of names, or paths.
        unfinished: delete also unfinished runs and stages, which a killed run could have gone on from; stages that no
            record names among them, since early versions wrote a run's record at its end only.
        dry_run: delete nothing, only tell what would go.

    Returns:
        what went, or would go.

    Raises:
        WorkspaceError: there is no such folder, it is no workspace, another process is writing to it, a run is not
            there or its name fits several, or the record of a run that stays cannot be read.
    """
    root = checked_root(Path(workspace))
    if dry_run:
        listing = listed(root, locked=Workspace(root).is_locked())
        return what_goes(listing, [find_run(listing, run) for run in runs], unfinished=unfinished)
    with Workspace(root).lock():
        listing = listed(root, locked=False)
        going = what_goes(listing, [find_run(listing, run) for run in runs], unfinished=unfinished)
        # Runs first: killed in between, what is left is stages that nothing names and no record without its stages.
        for folder in (
            *(root / "runs" / name for name in going.runs),
            *(root / "stages" / name for name in going.stages),
        ):
            _delete_folder(folder)
        for path in (root / name for name in going.leftovers):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        return dataclasses.replace(going, deleted=True)


def _delete_folder(folder: Path) -> None:
    """Deletes a run's or a stage's folder; killed on the way, it is a leftover and not half an artifact."""
    aside = folder.with_name(folder.name + ASIDE_SUFFIX)
    if aside.is_dir():
        shutil.rmtree(aside)
    folder.rename(aside)
    shutil.rmtree(aside)
