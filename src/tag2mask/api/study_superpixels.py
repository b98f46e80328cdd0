"""`tag2mask study superpixels` as a function."""

import dataclasses
from argparse import ArgumentError
from collections.abc import Sequence
from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from tag2mask.data.datasets import Layout, open_dataset
from tag2mask.data.samples import Dataset, Split
from tag2mask.engine.environment import Environment, Runtime
from tag2mask.engine.graph import run_stages
from tag2mask.engine.progress import Reporter
from tag2mask.engine.workspace import Workspace
from tag2mask.errors import DataError, SettingsError
from tag2mask.evaluation.pictures import evenly_spread
from tag2mask.study.page import StudyResult
from tag2mask.study.superpixels.contenders import build_study
from tag2mask.study.superpixels.report import write_study
from tag2mask.study.superpixels.settings import StudySettings


def study_superpixels(
    data: str | Path,
    *,
    workspace: str | Path = "workspace",
    out: str | Path = "superpixel-study",
    photographs: int | None = None,
    tau: Sequence[float] | None = None,
    config: str | Path | None = None,
    settings: StudySettings | None = None,
    layout: Layout = "auto",
    train_list: str = "train",
    device: str = "auto",
    precision: str = "32-true",
    threads: int = 0,
    quiet: bool = False,
) -> StudyResult:
    """Compares discovered superpixels with other features, other rules and other algorithms.

    Kim, "A Study on Weakly Supervised Semantic Segmentation Using Image Masking and Clustering" (dissertation, Seoul
    National University, 2022), sections 3.4.3 and 3.4.4. Superpixels and scores are kept in the workspace, and a study
    that was killed goes on where it stopped.

    Args:
        data: folder of photographs with true masks; those of the training list are studied.
        workspace: folder that keeps what is computed.
        out: gets ``report.html``, ``study.json``, tables as CSV and ``pictures/``.
        photographs: how many, evenly spread over the list; 0 for all. The settings' own number by default.
        tau: thresholds of ours, of highest degree first and of Ncut, at least 0 and below 1; the settings' by default.
        config: YAML of `StudySettings`.
        settings: the settings, in place of `config`.
        layout: of the data: "auto", "voc", "csv", "folders" or "coco".
        train_list: VOC's and COCO's layout: name or path of the list.
        device: "auto", "cpu", "cuda" or "cuda:1".
        precision: "32-true" or "bf16-mixed".
        threads: of the processor; 0 takes all.
        quiet: no progress.

    Returns:
        where everything is, and the figures.

    Raises:
        Tag2MaskError: bad settings or data, no true masks, no weights for ours, or a workspace that is in use.
    """
    if config is not None and settings is not None:
        raise SettingsError("give config or settings, not both")
    chosen = settings or (read_study_settings(config) if config is not None else StudySettings())
    if photographs is not None:
        chosen = dataclasses.replace(chosen, photographs=photographs)
    if tau is not None:
        chosen = dataclasses.replace(chosen, taus=tuple(sorted(set(tau))))
    dataset = _studied(open_dataset(data, layout=layout, train_list=train_list), chosen.photographs)
    runtime = Runtime(device=device, precision=precision, threads=threads)
    env = Environment(dataset, Workspace(Path(workspace)), runtime, Reporter(quiet=quiet))
    env.workspace.check_free()
    study = build_study(chosen, env.runtime)
    with env.workspace.lock():
        stages = [run.stage for run in run_stages(study.stages(), env)]
        return write_study(study, stages, env, Path(out))


def read_study_settings(path: str | Path) -> StudySettings:
    """Settings of a YAML file.

    Raises:
        SettingsError: the file cannot be read, or has a key or value that does not fit.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(StudySettings)
    try:
        built = parser.instantiate(parser.parse_path(Path(path)))
        return StudySettings(**{field.name: built[field.name] for field in dataclasses.fields(StudySettings)})
    except (ArgumentError, SettingsError, TypeError, ValueError, OSError, yaml.YAMLError) as error:
        raise SettingsError(f"--config {path}: {' '.join(str(error).split())}") from error


def _studied(dataset: Dataset, photographs: int) -> Dataset:
    """The images of the study as the only list of a data set.

    Raises:
        DataError: no training image has a true mask.
    """
    masked = [sample for sample in dataset.train if sample.mask is not None]
    if not masked:
        raise DataError(f"{dataset.root}: the study needs true masks, and no photograph of the training list has one")
    chosen = tuple(masked[index] for index in evenly_spread(photographs or len(masked), len(masked)))
    return dataclasses.replace(dataset, train=Split(dataset.train.name, chosen), val=None)
