"""Contenders as stages, and their scores as rows of a table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np

from tag2mask.engine.environment import Environment, Runtime
from tag2mask.engine.stage import Stage
from tag2mask.errors import SettingsError, WeightsError
from tag2mask.evidence.classic_superpixels import ClassicAlgorithm, find_ximgproc
from tag2mask.study.superpixels.features import open_features
from tag2mask.study.superpixels.settings import FeatureSet, StudySettings
from tag2mask.study.superpixels.stages import (
    ClassicSuperpixels,
    ClassicSuperpixelSettings,
    FeatureSuperpixels,
    FeatureSuperpixelSettings,
    MatchSettings,
    MatchThreshold,
    Positiveness,
    PositivenessSettings,
    Rule,
    ScoreSettings,
    ScoreSuperpixels,
    SuperpixelMaps,
)

OURS, HIGHEST, NCUT = "Ours", "Highest degree first", "Ncut"
"""Names of the contenders that take our features."""

Group = Literal["rule", "classic", "features"]
"""Kind of contender, by what it has in common with ours: its features, nothing, or its rule."""


@dataclass(frozen=True)
class Contender:
    """One way to make superpixels.

    Args:
        name: in tables.
        group: what it has in common with ours.
        maps: the stage that makes them; None if it cannot be run.
        missing: what it lacks, "package" or "weights".
        why: the one line that says what to do about it.
    """

    name: str
    group: Group
    maps: SuperpixelMaps | None
    missing: str = ""
    why: str = ""


@dataclass(frozen=True)
class Row:
    """Scores of a contender at one parameter.

    Args:
        name: of the contender.
        group: of the contender.
        parameter: the name of its map.
        setting: the parameter as people read it.
        photographs: how many were averaged.
        scores: by the rule for boundaries, as `SuperpixelScores.to_dict` gives them; empty if it was not run.
        note: "not run: weights" and what to do about it; empty if it was run.
    """

    name: str
    group: Group
    parameter: str
    setting: str
    photographs: int
    scores: dict[str, dict[str, float | None]]
    note: str = ""

    def score(self, name: str, rule: str = "labelled") -> float | None:
        """One score; None if it was not run or is undefined."""
        return self.scores.get(rule, {}).get(name)


@dataclass(frozen=True)
class Study:
    """The graph of the study.

    Args:
        settings: of all.
        contenders: in the order of the tables, ours first.
        scores: by contender's name.
        ours_beside_ncut: ours on the images that Ncut was run on.
        positiveness: for figure 3.14.
    """

    settings: StudySettings
    contenders: tuple[Contender, ...]
    scores: dict[str, ScoreSuperpixels]
    ours_beside_ncut: ScoreSuperpixels
    positiveness: Positiveness

    def stages(self) -> Iterator[Stage]:
        """Stages wanted of the graph, the first table's scores first."""
        yield from self.scores.values()
        yield self.ours_beside_ncut
        yield self.positiveness

    def maps(self, name: str) -> SuperpixelMaps | None:
        """Maps of the contender of a name; None if it was not run."""
        return next((contender.maps for contender in self.contenders if contender.name == name), None)

    def rows(self, env: Environment) -> list[Row]:
        """The scores of all contenders, and those that were not run, in the tables' order."""
        found: list[Row] = []
        for contender in self.contenders:
            if contender.maps is None:
                note = f"not run: {contender.missing} ({contender.why})"
                found.append(Row(contender.name, contender.group, "", "", 0, {}, note))
            else:
                found += _rows(contender, self.scores[contender.name], env)
        return found

    def ours_on_ncuts_photographs(self, env: Environment) -> list[Row]:
        """Ours on the images that Ncut was run on."""
        return list(_rows(self.contenders[0], self.ours_beside_ncut, env))


def _rows(contender: Contender, scored: ScoreSuperpixels, env: Environment) -> Iterator[Row]:
    result = scored.metrics(env)
    for parameter, scores in result["scores"].items():
        setting = _setting(scored.maps, parameter, env)
        yield Row(contender.name, contender.group, parameter, setting, result["photographs"], scores)


def _setting(maps: SuperpixelMaps, parameter: str, env: Environment) -> str:
    if isinstance(maps, FeatureSuperpixels):
        return f"tau {maps.match.metrics(env)['tau']:.4f}" if maps.match is not None else f"tau {parameter}"
    return f"{parameter} asked" if maps.settings.algorithm == "SEEDS" else f"{parameter} px"


def build_study(settings: StudySettings, runtime: Runtime) -> Study:
    """The graph of the study. Networks are loaded once here to find out whose weights can be had.

    Raises:
        WeightsError: those of ours cannot.
        SettingsError: a set of features has the name of another row.
    """
    open_features(settings.ours, runtime)
    chosen = settings.superpixels
    taus = tuple(sorted({*settings.taus, chosen.tau}))

    def found_in(features: FeatureSet, rule: Rule = "lowest", match: MatchThreshold | None = None) -> SuperpixelMaps:
        return FeatureSuperpixels(
            FeatureSuperpixelSettings(
                features=features,
                rule=rule,
                taus=() if match is not None else taus,
                confidence=chosen.confidence,
                crf=chosen.crf,
                max_pixels=chosen.max_pixels,
                photographs=settings.ncut_photographs if rule == "ncut" else 0,
            ),
            match,
        )

    contenders = [Contender(OURS, "rule", found_in(settings.ours)), *_classic(settings)]
    contenders += [
        Contender(HIGHEST, "rule", found_in(settings.ours, "highest")),
        Contender(NCUT, "rule", found_in(settings.ours, "ncut")),
    ]
    for name, features in settings.features.items():
        if name in (each.name for each in contenders):
            raise SettingsError(f"features: '{name}' is the name of another row; give another")
        try:
            open_features(features, runtime)
        except WeightsError as error:
            contenders.append(Contender(name, "features", None, "weights", str(error)))
            continue
        match = MatchThreshold(MatchSettings(features, settings.ours, chosen.tau, settings.match_photographs))
        contenders.append(Contender(name, "features", found_in(features, match=match)))
    ours = contenders[0].maps
    assert ours is not None
    return Study(
        settings,
        tuple(contenders),
        {each.name: ScoreSuperpixels(each.maps, _as_many(each.maps)) for each in contenders if each.maps is not None},
        ScoreSuperpixels(ours, ScoreSettings(settings.ncut_photographs)),
        Positiveness(PositivenessSettings(settings.ours, settings.pictures)),
    )


def _as_many(maps: SuperpixelMaps) -> ScoreSettings:
    """All images that there are maps of."""
    return ScoreSettings(maps.settings.photographs)


def _classic(settings: StudySettings) -> Iterator[Contender]:
    amounts = {"SLIC": settings.slic_sizes, "SEEDS": settings.seeds_numbers, "LSC": settings.lsc_sizes}
    try:
        find_ximgproc()
    except SettingsError as error:
        for name in get_args(ClassicAlgorithm):
            yield Contender(name, "classic", None, "package", str(error))
        return
    for name in get_args(ClassicAlgorithm):
        chosen = ClassicSuperpixelSettings(
            cast(ClassicAlgorithm, name), amounts[name], settings.iterations, settings.reference_side
        )
        if chosen.amounts:
            yield Contender(name, "classic", ClassicSuperpixels(chosen))


def ours_at(rows: Sequence[Row], superpixels: float, score: str) -> float | None:
    """Score that ours would have at a number of superpixels: on the line between its neighbours in ours' curve.

    Args:
        rows: of ours.
        superpixels: the number.
        score: name of the score.

    Returns:
        the score; None outside the curve.
    """
    points = sorted(
        (count, value)
        for row in rows
        if (count := row.score("superpixels")) is not None and (value := row.score(score)) is not None
    )
    if not points or not points[0][0] <= superpixels <= points[-1][0]:
        return None
    counts, values = zip(*points, strict=True)
    return float(np.interp(superpixels, counts, values))


def comparison(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """UE and ASA of SLIC, SEEDS and LSC beside ours at as many superpixels.

    Those with more than ours ever has stand beside ours at its most, which gives ours no advantage: both scores improve
    with the number. Those with fewer are left out.
    """
    ours = [row for row in rows if row.name == OURS]
    most = max((row.score("superpixels") or 0 for row in ours), default=0)
    found = []
    for row in rows:
        count = row.score("superpixels")
        if row.group != "classic" or count is None:
            continue
        entry: dict[str, Any] = {"name": row.name, "setting": row.setting, "superpixels": count}
        entry["ours_superpixels"] = min(count, most)
        for score in ("undersegmentation_error", "achievable_accuracy"):
            entry[score], entry[f"ours_{score}"] = row.score(score), ours_at(ours, entry["ours_superpixels"], score)
        if entry["ours_achievable_accuracy"] is not None:
            found.append(entry)
    return found


def nearest_parameter(counts: dict[str, int], wanted: float) -> str:
    """The parameter whose map of an image has the number of superpixels closest to the one wanted."""
    return min(counts, key=lambda parameter: abs(counts[parameter] - wanted))
