"""A finished run's page, written again."""

import dataclasses
from pathlib import Path

from tag2mask.engine.progress import Reporter
from tag2mask.errors import SettingsError
from tag2mask.runs.listing import find_run_folder
from tag2mask.runs.prepare import prepare
from tag2mask.runs.record import read_record
from tag2mask.runs.report import REPORT_FILE, check_artifacts, recorded_configuration, write_report


def report(
    run: str | Path,
    *,
    out: str | Path | None = None,
    gallery: int | None = None,
    allow_pickle: bool = False,
    quiet: bool = False,
) -> Path:
    """Writes a finished run's page again, from what is in its workspace; nothing is trained, and nothing locked.

    The run's device need not be there.

    Args:
        run: the run's folder or a file in it, or its name in the folder ``workspace`` or the beginning of that.
        out: the HTML file; ``report.html`` in the run's folder by default.
        gallery: photographs in the gallery, 0 for none; as many as the run's own by default.
        allow_pickle: read the run's `labels_npy`, which can run any code of whoever made it; needed if it has one,
            whatever was allowed when it was made.
        quiet: no progress.

    Returns:
        the page. If nothing has changed, it has the same bytes as the run's own.

    Raises:
        Tag2MaskError: there is no such run, it is not finished, or its data or stages are not there any more or have
            changed.
    """
    folder = find_run_folder(run)
    record = read_record(folder)
    configuration = recorded_configuration(folder, record, allow_pickle=allow_pickle)
    if gallery is not None:
        configuration = dataclasses.replace(configuration, run=dataclasses.replace(configuration.run, gallery=gallery))
    env, plan = prepare(configuration, Reporter(quiet=quiet), device_needed=False)
    check_artifacts(folder, record, plan, env)
    path = Path(out) if out is not None else folder / REPORT_FILE
    if path.is_dir():
        raise SettingsError(f"--out {path}: is a folder; give the name of the HTML file")
    return write_report(path, folder.name, record, plan, env, gallery=configuration.run.gallery)
