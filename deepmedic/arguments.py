"""The options of the command line, parsed strictly: single dashes, no abbreviations, contradictions refused.

`argparse` is not used because it accepts abbreviations of single-dash options even when told not to.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from deepmedic.argument_values import share, split_request, whole_number
from deepmedic.command_options import OPTIONS, CommandOption
from deepmedic.errors import CommandLineError

USAGE = "For help on the usage of this program, please use the option -h."
_WITH_OUTPUT = "-check, -inspect, -newConfigs, -adapt, -convert, -strip, -plot, -report or -segment"
_DEVICE = re.compile(r"cpu|auto|(cuda|gpu):?\d{0,4}")
_BY_NAME = {option.name: option for option in OPTIONS}
_COMMANDS = (
    *("new_model", "train", "test", "segment", "adapt", "convert", "strip", "plot", "report", "new_configs", "analyse"),
    *("find_lr", "analyse_layers", "compare"),
    *("inspect", "self_test", "explain", "version", "help"),
)


@dataclass
class Arguments:
    """What was asked for on the command line; None or False: not given."""

    new_model: Path | None = None
    train: Path | None = None
    test: Path | None = None
    model: Path | None = None
    """The first of `models`."""
    models: tuple[Path, ...] = ()
    load: Path | None = None
    pretrained: Path | None = None
    pretrained_config: Path | None = None
    layers: tuple[int, ...] | None = None
    initialisation: str | None = None
    """What is taken of the layers of `pretrained`; None: their weights."""
    grow: str | None = None
    adapt: Path | None = None
    classes: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()
    class_frequencies: tuple[float, ...] | None = None
    convert: tuple[Path, Path] | None = None
    """A TensorFlow checkpoint and its model config."""
    strip: Path | None = None
    segment: tuple[Path, ...] = ()
    """Saved models or folders of them; several are averaged."""
    images: tuple[str, ...] = ()
    """Files, or NAME=file, or one folder; - for a missing channel."""
    roi: str | None = None
    probabilities: bool = False
    new_configs: Path | None = None
    plot: tuple[Path, ...] = ()
    analyse: Path | None = None
    """An analysis config, or a train config."""
    find_lr: Path | None = None
    analyse_layers: Path | None = None
    compare: Path | None = None
    detailed: bool = False
    plot_classes: tuple[int, ...] = ()
    moving_average: int = 1
    report: tuple[Path, ...] = ()
    reset_optimizer: bool = False
    split: tuple[float, ...] | Path | None = None
    """Shares of training, validation and maybe test, which sum to 1; or a stored split."""
    cross_validate: int | None = None
    """Number of folds."""
    fold: int | None = None
    device: str = "auto"
    check: bool = False
    inspect: Path | None = None
    json: bool = False
    export_parameters: Path | None = None
    self_test: bool = False
    explain: str | None = None
    output: Path | None = None
    part: tuple[int, int] | None = None
    """The number of the part, from 1, and of how many."""
    overwrite: bool = False
    seed: int = 0
    version: bool = False
    help: bool = False
    given: tuple[str, ...] = field(default=())
    """The options as they were written, in order."""
    words: tuple[str, ...] = field(default=())
    """Everything as it was written."""


def parse(words: Sequence[str]) -> Arguments:
    """Parse the words after the program's name.

    Raises:
        CommandLineError: an unknown or abbreviated option, a missing value, a value twice, or options that
            contradict each other.
    """
    arguments = Arguments()
    given: list[str] = []
    position = 0
    while position < len(words):
        word = words[position]
        option = _find(word)
        if any(_BY_NAME[name].attribute == option.attribute for name in given):
            raise CommandLineError(f"{word} is given twice; give it once.")
        given.append(word)
        position += 1
        values = _values(option, words[position:])
        position += len(values)
        setattr(arguments, option.attribute, _convert(option, values) if option.metavar else True)
    arguments.given, arguments.words = tuple(given), tuple(words)
    arguments.model = next(iter(arguments.models), None)
    if not arguments.help:
        _refuse_contradictions(arguments)
    return arguments


def help_text() -> str:
    """What `-h` prints."""
    width = max(len(option.name) + len(option.metavar) for option in OPTIONS) + 2
    lines = ["usage: deepmedic OPTIONS   (or: python deepmedic_run.py OPTIONS)", "", "options:"]
    lines += [f"  {f'{option.name} {option.metavar}'.ljust(width)} {option.help}" for option in OPTIONS]
    lines += [
        "",
        "typical calls:",
        "  deepmedic -newModel model.cfg -train train.cfg            create a model and train it",
        "  deepmedic -train train.cfg -model output/cnnModels/X.save train a saved model",
        "  deepmedic -test test.cfg -model output/cnnModels/SESSION  segment with a session's newest model",
        "  deepmedic -segment X.save -images T1=t1.nii.gz -output labels.nii.gz   segment without any config",
        "  deepmedic -newModel model.cfg -pretrained A.save          a new model that starts from what A learnt",
        "  deepmedic -train train.cfg -model X.save -check           check everything, start nothing",
        "  deepmedic -explain learningRate                           what a config key means",
    ]
    return "\n".join(lines)


def _looks_like_option(word: str) -> bool:
    """True for what cannot be a value: a path that begins with a dash is written ./-path, a negative number is one."""
    return word.startswith("-") and not word.lstrip("-").isdecimal()


def _find(word: str) -> CommandOption:
    if word in _BY_NAME:
        return _BY_NAME[word]
    if not word.startswith("-"):
        raise CommandLineError(f"'{word}' does not belong to any option. {USAGE}")
    bare = "-" + word.lstrip("-")
    if bare in _BY_NAME:
        raise CommandLineError(f"Unknown option {word}: options have a single dash, {bare}.")
    longer = [name for name in _BY_NAME if name.lower().startswith(bare.lower())]
    near = longer or difflib.get_close_matches(bare, list(_BY_NAME), n=1)
    if longer:
        raise CommandLineError(
            f"Unknown option {word}: options are not abbreviated; did you mean {' or '.join(longer)}?"
        )
    advice = f" Did you mean {near[0]}?" if near else f" {USAGE}"
    raise CommandLineError(f"Unknown option {word}.{advice}")


def _values(option: CommandOption, following: Sequence[str]) -> list[str]:
    """The words after an option that belong to it: as many as it needs, or all up to the next option."""
    values: list[str] = []
    for word in following:
        if _looks_like_option(word) or (len(values) == option.fewest and not option.several):
            break
        values.append(word)
    if len(values) < option.fewest:
        found = f", found {following[len(values)]}" if len(following) > len(values) else ""
        wanted = "a value" if option.fewest == 1 else f"{option.fewest} values"
        raise CommandLineError(f"{option.name} needs {wanted}{found}: {option.name} {option.metavar}")
    return values


def _convert(option: CommandOption, values: list[str]) -> object:
    if not all(values):
        raise CommandLineError(f"{option.name} needs a value, an empty one was given: {option.name} {option.metavar}")
    if option.attribute == "device" and not _DEVICE.fullmatch(values[0].lower()):
        raise CommandLineError(f"-dev {values[0]}: allowed are cpu, cuda, cuda0, cuda1, ..., gpu and auto.")
    if option.attribute == "part":
        return _part(values[0])
    if option.attribute == "split":
        return split_request(option.name, values)
    kind = {item.name: str(item.type) for item in fields(Arguments)}[option.attribute]
    convert = next((convert for name, convert in _CONVERTERS.items() if name in kind), lambda _, value: value)
    converted = tuple(convert(option, value) for value in values)
    return converted if kind.startswith("tuple") else converted[0]


def _part(value: str) -> tuple[int, int]:
    found = re.fullmatch(r"([1-9]\d{0,5})/([1-9]\d{0,5})", value)
    if found is None or int(found[1]) > int(found[2]):
        raise CommandLineError(f"-part {value}: allowed is i/n with whole numbers, i from 1 to n, for instance 2/5.")
    return int(found[1]), int(found[2])


_LOWEST = {"seed": 0, "plot_classes": 0, "cross_validate": 2}
_CONVERTERS: dict[str, Callable[[CommandOption, str], object]] = {
    "Path": lambda _, value: Path(value),
    "int": lambda option, value: whole_number(option.name, value, _LOWEST.get(option.attribute, 1)),
    "float": lambda option, value: share(option.name, value),
}


def _refuse_contradictions(arguments: Arguments) -> None:
    given = set(arguments.given)
    commands = [name for name in _COMMANDS if getattr(arguments, name)]
    if commands in (["new_model", "train"], ["new_model", "find_lr"]):
        commands = commands[1:]
    if len(commands) > 1:
        names = [name for name in arguments.given if _BY_NAME[name].attribute in commands]
        raise CommandLineError(f"{' and '.join(names)} cannot be given together; run one after the other.")
    if not commands:
        subject = " ".join(arguments.given)
        raise CommandLineError(f"{subject + ' alone does nothing. ' if subject else ''}{USAGE}")
    _refuse_misplaced(arguments, given)
    if arguments.adapt and not (arguments.classes or arguments.channels):
        raise CommandLineError("-adapt needs to know for what: add -classes NAME... or -channels NAME..., or both.")
    if len(arguments.models) > 1 and not (arguments.test or arguments.analyse or arguments.analyse_layers):
        raise CommandLineError(
            f"-model {' '.join(map(str, arguments.models))}: several models only have a meaning with -test, which "
            "averages them, -analyse, which ranks them, or -analyseLayers, which compares two; name one."
        )
    missing = [name for name in ("-images", "-output") if name not in given]
    if arguments.segment and missing:
        raise CommandLineError(
            f"-segment needs {' and '.join(missing)} too: "
            "-segment MODEL -images NAME=scan.nii.gz ... -output segmentation.nii.gz"
        )
    if arguments.new_configs and not arguments.output:
        raise CommandLineError("-newConfigs needs to know where to write: add -output FOLDER.")
    _refuse_other_folds(arguments)
    if arguments.grow and arguments.initialisation:
        raise CommandLineError("-grow and -initialisation contradict each other: what grows computes what it did.")
    if arguments.new_model and (arguments.model or arguments.load):
        other = "-model" if arguments.model else "-load"
        raise CommandLineError(f"-newModel and {other} contradict each other: a model is either new or loaded.")


def _refuse_other_folds(arguments: Arguments) -> None:
    """Refuse to split the cases in two ways, and a fold that a cross-validation does not have."""
    if arguments.split and arguments.cross_validate:
        raise CommandLineError("-split and -crossValidate contradict each other: the cases are split in one way.")
    if arguments.fold and arguments.cross_validate and arguments.fold > arguments.cross_validate:
        raise CommandLineError(
            f"-fold {arguments.fold}: allowed are 1 to {arguments.cross_validate}, the folds of -crossValidate."
        )


def _refuse_misplaced(arguments: Arguments, given: set[str]) -> None:
    """Refuse options that have no effect in this command."""
    session = bool(arguments.train or arguments.test)
    reset = next((name for name in arguments.given if _BY_NAME[name].attribute == "reset_optimizer"), None)
    if reset and not arguments.train:
        raise CommandLineError(f"{reset} only has a meaning with -train; add -train TRAIN.cfg or leave {reset} out.")
    if reset and arguments.new_model:
        raise CommandLineError(f"{reset} and -newModel contradict each other: a new model has no optimiser state yet.")
    starting = session or bool(arguments.find_lr)
    running = starting or bool(
        arguments.new_model or arguments.segment or arguments.analyse_layers or arguments.compare
    )
    analysing = bool(arguments.analyse or arguments.analyse_layers)
    checked = "-newModel, -train, -test, -findLr, -analyse, -analyseLayers, -segment or -compare"
    rules = (
        (starting or analysing, ("-model",), "-train, -test, -findLr, -analyse or -analyseLayers"),
        (starting, ("-load",), "-train, -test or -findLr"),
        (running or analysing, ("-check",), checked),
        (
            running or analysing or bool(arguments.new_configs),
            ("-overwrite",),
            "-newModel, -train, -test, -segment, -newConfigs, -findLr, -analyse, -analyseLayers or -compare",
        ),
        (bool(arguments.segment), ("-images", "-roi", "-probabilities"), "-segment"),
        (bool(arguments.train or arguments.find_lr), ("-split",), "-train or -findLr"),
        (bool(arguments.train), ("-crossValidate",), "-train"),
        (bool(arguments.cross_validate), ("-fold",), "-crossValidate"),
        (bool(arguments.test or arguments.compare), ("-part",), "-test or -compare"),
        (bool(arguments.inspect), ("-json", "-exportParameters"), "-inspect"),
        (_writes_a_file(arguments), ("-output",), _WITH_OUTPUT),
        (bool(arguments.new_model), ("-pretrained",), "-newModel"),
        (bool(arguments.pretrained), ("-pretrainedConfig", "-layers", "-initialisation", "-grow"), "-pretrained"),
        (bool(arguments.adapt), ("-classes", "-channels", "-classFrequencies"), "-adapt"),
        (bool(arguments.plot), ("-detailed", "-plotClasses", "-movingAverage"), "-plot"),
    )
    for allowed, names, partner in rules:
        misplaced = [name for name in names if name in given]
        if misplaced and not allowed:
            raise CommandLineError(f"{misplaced[0]} only has a meaning with {partner}.")


def _writes_a_file(arguments: Arguments) -> bool:
    """Whether the command writes one file that -output may name."""
    attributes = (*("check", "inspect", "new_configs", "segment", "adapt", "convert", "strip"), "plot", "report")
    return any(getattr(arguments, name) for name in attributes)
