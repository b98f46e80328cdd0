"""The built-in demo."""

from pathlib import Path
from typing import Any

from tag2mask.api.run import run
from tag2mask.data.demo import write_demo_data
from tag2mask.engine.progress import Reporter
from tag2mask.runs.folder import RunResult


def demo(
    out: str | Path = "tag2mask-demo", *, config: str = "demo/cam", quiet: bool = False, **settings: Any
) -> RunResult:
    """Draws the demo data, trains `cam` on its tags and the upper bound on its masks.

    Args:
        out: folder for data and workspace.
        config: the preset.
        quiet: no progress.
        settings: any other setting of the method `cam`, two underscores for a dot.
    """
    reporter = Reporter(quiet=quiet)
    data = Path(out) / "data"
    reporter.say(f"drawing the demo data in {data}")
    write_demo_data(data, progress=reporter.callback("demo data"))
    return run(
        "cam", data, workspace=Path(out) / "workspace", config=config, quiet=quiet, **{"bound": True, **settings}
    )
