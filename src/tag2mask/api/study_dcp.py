"""Studies of a method, which take that method's settings."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tag2mask.data.datasets import Layout
from tag2mask.engine.environment import Environment
from tag2mask.engine.graph import run_stages
from tag2mask.engine.progress import Reporter
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import SettingsError
from tag2mask.methods.registry import find_method
from tag2mask.runs.input_check import check_input
from tag2mask.runs.settings import Configuration, as_arguments, parse_arguments
from tag2mask.study.dcp.graph import StudySettings, build_study, last_blocks
from tag2mask.study.dcp.page import write_study
from tag2mask.study.page import StudyResult

_METHOD = "dcp"


def study_dcp(
    data: str | Path,
    *,
    workspace: str | Path = "workspace",
    out: str | Path = "dcp-study",
    config: str | Path = "small/dcp",
    blocks: Sequence[str] | None = None,
    classes: Sequence[str] | None = None,
    photographs: int = 6,
    layout: Layout = "auto",
    train_list: str = "train",
    quiet: bool = False,
    **settings: Any,
) -> StudyResult:
    """Shows what class patterns are made of, block by block, on the training photographs.

    Luo & Yang, "Learning Saliency-Free Model with Generic Features for Weakly-Supervised Semantic Segmentation" (AAAI
    2020), figures 1 (e) to (g), 3 and 4. Classifier and CAMs are those that a run of `dcp` with the same settings has
    in the workspace or will find there, and a study that was killed goes on where it stopped. True masks, where there
    are any, give scores and colours and nothing else.

    Args:
        data: folder of tagged photographs.
        workspace: folder that keeps what is computed.
        out: gets ``report.html``, ``study.json`` and ``pictures/``.
        config: YAML of settings of the method `dcp`, or a preset's name.
        blocks: of the classifier's backbone; the last four by default.
        classes: names of those whose pixels are shown; the six with the most photographs by default.
        photographs: number in the figure of masks, evenly spread over the list, above 0.
        layout: of the data: "auto", "voc", "csv", "folders" or "coco".
        train_list: VOC's and COCO's layout: name or path of the list.
        quiet: no progress.
        settings: any other setting of a run of `dcp`, two underscores for a dot: ``patterns__long_side=448``.

    Returns:
        where everything is, and the figures.

    Raises:
        Tag2MaskError: bad settings or data, no weights, or a workspace that is in use.
    """
    if photographs < 1:
        raise SettingsError(f"photographs: {photographs} must be above 0")
    given = {"data": data, "workspace": workspace, "layout": layout, "train_list": train_list, **settings}
    configuration = _configuration(config, given)
    # As a run does it, so that images are held out of the same training.
    dataset, _ = configuration.run.dataset(configuration.runtime.seed)
    env = Environment(dataset, Workspace(Path(workspace)), configuration.runtime, Reporter(quiet=quiet))
    method = configuration.settings
    patterns = method.patterns.at(*(blocks or last_blocks(method.classifier.backbone)))
    study = build_study(StudySettings(method.classifier, method.cams, patterns, method.refinement), env, classes)
    env.workspace.check_free()
    check_input(study.stages(), env)
    with env.workspace.lock():
        runs = run_stages(study.stages(), env)
        return write_study(study, runs, photographs, env, Path(out))


def _configuration(config: str | Path, given: dict[str, Any]) -> Configuration:
    """Settings of the method, of a run of it and of the machine.

    Raises:
        SettingsError: there is no such file or preset, or it is another method's.
    """
    try:
        return parse_arguments(find_method(_METHOD), ["--config", str(config), *as_arguments(given)])
    except SettingsError as error:
        raise SettingsError(f"{error} (the study takes settings of the method {_METHOD}; config: {config})") from error
