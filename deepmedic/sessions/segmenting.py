"""`-segment`: scans segmented with saved models alone, without any config file: one case, or a folder of cases."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path

from deepmedic import devices
from deepmedic.arguments import Arguments
from deepmedic.config.inference import TestConfig
from deepmedic.config.load import fit_test_config
from deepmedic.config.sections import OutputConfig
from deepmedic.data.case_headers import check_cases
from deepmedic.data.cases import Case
from deepmedic.data.dataset import DataSet
from deepmedic.data.output_names import without_extension
from deepmedic.errors import CommandLineError, DeepMedicError, OutputHeldError, ProblemList
from deepmedic.inference.results import ResultFiles
from deepmedic.logs import init_logging, log_refusal
from deepmedic.model.saved import SavedModel
from deepmedic.sessions.checking import check
from deepmedic.sessions.common import estimates
from deepmedic.sessions.common.paths import SessionPaths
from deepmedic.sessions.inference import testing
from deepmedic.sessions.inference.ensemble import (
    NamedModel,
    compare_spacings,
    expanded,
    needs_of,
    refuse_unlike,
    speaking_for_all,
    taken_from_others,
)
from deepmedic.sessions.inference.model_use import compare_with_training, other_spacing, trained_spacing
from deepmedic.sessions.inference.named_images import Channels, cases_in, images_beside_cases, named_case
from deepmedic.sessions.inference.single_case import trained_preprocessing
from deepmedic.sessions.models.weights import read_model

log = logging.getLogger(__name__)

_SESSION = "segment"
_ENDINGS = (".nii", ".nii.gz")
_MOST_SHOWN = 3


@dataclass(frozen=True)
class _OneImage(ResultFiles):
    """Results of a single case beside each other: the segmentation as it is named, the rest by its name."""

    ending: str = ".nii.gz"

    def segmentation(self, name: str) -> Path:
        return self.folder / f"{name}{self.ending}"

    def record(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _prediction(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}_{suffix}{self.ending}"


@dataclass(frozen=True)
class _OneFolder(ResultFiles):
    """Results of all cases in one folder."""

    def record(self, name: str) -> Path:
        return self.folder / f"{name}.json"

    def _prediction(self, name: str, suffix: str) -> Path:
        return self.folder / f"{name}_{suffix}.nii.gz"


@dataclass
class SegmentPlan(testing.TestPlan):
    """An inference session without a config file."""

    output: Path = field(kw_only=True)
    """The image, or the folder for many cases."""

    @property
    def several(self) -> bool:
        """Whether there may be many cases, in a folder."""
        return self.in_a_session

    @property
    def own_padding(self) -> bool:
        return True

    @property
    def files(self) -> ResultFiles:
        what = (self.config.output, self.model.architecture.classes)
        if self.several:
            return _OneFolder(self.output, *what, tables=False)
        return _OneImage(self.output.parent, *what, tables=False, ending=_ending(self.output))

    @property
    def label_tables(self) -> tuple[Path, str]:
        return (self.output, "") if self.several else (self.output.parent, f"{_stem(self.output)}_")

    @property
    def results(self) -> Path:
        return self.output


def run(arguments: Arguments) -> int:
    """Segment the images that the command line names, or check what that would use; return the exit code.

    Raises:
        DeepMedicError: what is wrong; noted in the log too, where a folder of cases has one already.
    """
    init_logging()
    try:
        plan = prepare(arguments)
        return check.testing(plan) if arguments.check else testing.run(plan)
    except DeepMedicError as problem:
        if arguments.output is not None and not arguments.check:
            log_refusal(SessionPaths(arguments.output, _SESSION).log, str(problem))
        raise


def prepare(arguments: Arguments) -> SegmentPlan:
    """Read the models, and match and check the images.

    Raises:
        DeepMedicError: everything that is wrong, listed together; nothing was written.
    """
    assert arguments.output is not None
    problems = ProblemList()
    device = None
    with problems.gather():
        device = devices.choose_device(arguments.device)
    folder = None
    with problems.gather():
        folder = _folder_of_cases(arguments.images)
        _check_output(arguments.output, folder)
    models: list[NamedModel] = []
    with problems.gather():
        models = [NamedModel(*read_model(path)) for path in expanded(arguments.segment, "-segment")]
        refuse_unlike(models)
    problems.raise_if_any()
    model = speaking_for_all(models)
    channels = Channels(model.architecture.input_channels, model.config.channel_names)
    cases: list[Case] = []
    with problems.gather():
        if folder is not None:
            cases = cases_in(folder, arguments.roi, channels)
        else:
            case = named_case(arguments.images, arguments.roi, channels)
            cases = [replace(case, name=_stem(arguments.output), output_name=_stem(arguments.output))]
    problems.raise_if_any()
    config = _config(arguments, model)
    with problems.gather():
        compare_spacings(models, config.preprocessing, refuse=True)
    data = _data_set(cases, config, model, problems)
    notes = [*taken_from_others(models), *(images_beside_cases(folder) if folder is not None else []), *data.notes]
    notes += [note for case in cases for note in channels.contradictions(case)]
    spacing = other_spacing(data, model, config.preprocessing.spacing_tolerance)
    if spacing:
        config = _resampling(config, model)
        data = _data_set(cases, config, model, problems)
        notes.append(f"{spacing} All cases are resampled as in training, and results return to each case's own grid.")
    for one in models:
        with problems.gather():
            notes += compare_with_training(data, one.model)
    notes = list(dict.fromkeys(notes))
    with problems.gather():
        place = arguments.output if folder is not None else arguments.output.parent
        estimates.check_disk(place, estimates.result_bytes(data, model.architecture.classes))
    problems.raise_if_any()
    assert device is not None
    paths = SessionPaths(place, _SESSION)
    plan = SegmentPlan(
        arguments, config, paths, device, data, models, notes, in_a_session=folder is not None, output=arguments.output
    )
    _refuse_foreign_files(plan)
    for case in cases[:_MOST_SHOWN]:
        log.info("%s: %s", case.name, channels.described(case))
    if len(cases) > _MOST_SHOWN:
        log.info("... and %d more cases likewise.", len(cases) - _MOST_SHOWN)
    return plan


def _config(arguments: Arguments, model: SavedModel) -> TestConfig:
    """The settings of training as far as the model knows them, and defaults."""
    assert arguments.output is not None
    chosen = None if arguments.probabilities else (False,) * model.architecture.classes
    config = TestConfig(
        session_name=_SESSION,
        folder_for_output=arguments.output,
        output=OutputConfig(save_probability_maps=chosen),
        preprocessing=trained_preprocessing(model),
    )
    return fit_test_config(config, model.config)


def _resampling(config: TestConfig, model: SavedModel) -> TestConfig:
    """The settings with the spacing of training, to which cases are to be resampled."""
    return replace(config, preprocessing=replace(config.preprocessing, resample_to=trained_spacing(model)))


def _data_set(cases: list[Case], config: TestConfig, model: SavedModel, problems: ProblemList) -> DataSet:
    notes: list[str] = []
    headers = check_cases(cases, config.preprocessing, problems, notes)
    problems.raise_if_any()
    return DataSet("inference", cases, headers, config.preprocessing, needs_of(model), notes)


def _folder_of_cases(words: tuple[str, ...]) -> Path | None:
    """The folder that `-images` names; None if it names images."""
    if len(words) == 1 and Path(words[0]).is_dir():
        return Path(words[0])
    for word in words:
        if Path(word).is_dir():
            raise CommandLineError(f"-images {word}: is a folder; give one folder of cases, or the images of one case.")
    return None


def _check_output(output: Path, folder: Path | None) -> None:
    """Refuse a name of results that does not fit the images.

    Raises:
        CommandLineError: an image for a folder of cases, or the other way round, or a folder inside the images.
    """
    is_image = output.name.lower().endswith(_ENDINGS)
    if folder is None and (not is_image or output.is_dir()):
        raise CommandLineError(
            f"-output {output}: the segmentation of one case needs a name ending in .nii.gz or .nii."
        )
    if folder is not None and (is_image or output.is_file()):
        raise CommandLineError(f"-output {output}: a folder of cases needs a folder for the results.")
    if folder is not None and output.resolve().is_relative_to(folder.resolve()):
        raise CommandLineError(
            f"-output {output}: lies in the folder of cases, {folder}, where it would be a case itself the next time; "
            "choose another folder."
        )


def _refuse_foreign_files(plan: SegmentPlan) -> None:
    """Refuse to replace the images themselves, or a JSON file beside them that is not a record of this program.

    Raises:
        CommandLineError: an image would be replaced.
        OutputHeldError: another JSON file is in the way.
    """
    inputs = {ref.path.resolve() for case in plan.data.cases for ref in (*case.channels, case.roi) if ref is not None}
    for case in plan.data.cases:
        name = str(case.output_name)
        for path in plan.files.all_of(name):
            if path.resolve() in inputs:
                raise CommandLineError(f"-output {plan.output}: {path} is one of the images; choose another name.")
        record = plan.files.record(name)
        if record.exists() and not plan.files.is_record(record):
            raise OutputHeldError(
                f"{record}: is in the way: it is not a record of this program, which writes one beside each "
                "segmentation. Choose another name with -output."
            )


def _stem(path: Path) -> str:
    return without_extension(path.name)


def _ending(path: Path) -> str:
    return path.name[len(_stem(path)) :]
