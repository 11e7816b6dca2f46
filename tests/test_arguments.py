"""Options are parsed strictly: nothing is guessed, contradictions are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from deepmedic.arguments import Arguments, help_text, parse
from deepmedic.command_options import OPTIONS
from deepmedic.errors import CommandLineError


def parsed(text: str) -> Arguments:
    return parse(text.split())


def test_values_are_converted():
    found = parsed("-train t.cfg -model X.save -resetOptimizer -dev cuda1 -seed 12 -overwrite")
    assert (found.train, found.model) == (Path("t.cfg"), Path("X.save"))
    assert (found.reset_optimizer, found.device, found.seed, found.overwrite) == (True, "cuda1", 12, True)
    assert found.given == ("-train", "-model", "-resetOptimizer", "-dev", "-seed", "-overwrite")
    assert (found.test, found.check, found.load) == (None, False, None)


def test_both_spellings_of_the_reset_are_the_same():
    assert parsed("-train t.cfg -load x -resetopt").reset_optimizer


@pytest.mark.parametrize(
    "text",
    [
        "-newModel m.cfg",
        "-newModel m.cfg -train t.cfg",
        "-model m.cfg -train t.cfg -load x.model.ckpt",
        "-test t.cfg -load x",
        "-train t.cfg",
        "-train t.cfg -check -output found.json",
        "-inspect x -json -exportParameters p.npz",
        "-selfTest -dev cpu",
        "-explain learningRate",
        "-version",
        "--help",
        "-h -train",
    ],
)
def test_commands_of_both_versions_are_accepted(text):
    words = text.split()
    if words == ["-h", "-train"]:
        words.append("t.cfg")
    assert parse(words).given[0] == words[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-mod x", "Unknown option -mod: options are not abbreviated; did you mean -model?"),
        (
            "-train t -resetop",
            "Unknown option -resetop: options are not abbreviated; did you mean -resetOptimizer or -resetopt?",
        ),
        ("-d cpu", "Unknown option -d: options are not abbreviated; did you mean -detailed or -dev?"),
        ("--train t", "Unknown option --train: options have a single dash, -train."),
        ("-trian t", "Unknown option -trian. Did you mean -train?"),
        ("-frobnicate", "Unknown option -frobnicate. For help on the usage"),
        ("train t", "'train' does not belong to any option. For help on the usage"),
        ("-train", "-train needs a value: -train TRAIN.cfg"),
        ("-train -model x", "-train needs a value, found -model: -train TRAIN.cfg"),
        ("-model -trian t", "-model needs a value, found -trian: -model X"),
        ("-train t -train u", "-train is given twice; give it once."),
        ("-train t -model x -resetopt -resetOptimizer", "-resetOptimizer is given twice; give it once."),
        ("-train t -seed 1.5", "-seed 1.5: allowed are whole numbers from 0 to 9223372036854775807."),
        ("-train t -seed -1", "-seed -1: allowed are whole numbers from 0"),
        (f"-train t -seed {'9' * 5000}", "allowed are whole numbers from 0"),
        ("-train t -dev tpu", "-dev tpu: allowed are cpu, cuda, cuda0, cuda1, ..., gpu and auto."),
        ("-train t -dev cuda99999", "-dev cuda99999: allowed are"),
        ("-train t -test u", "-train and -test cannot be given together; run one after the other."),
        ("-newModel m -test u", "-newModel and -test cannot be given together"),
        ("-train t -inspect x", "-train and -inspect cannot be given together"),
        ("", "For help on the usage of this program, please use the option -h."),
        ("-dev cpu", "-dev alone does nothing. For help on the usage"),
        ("-newModel m -train t -model x", "-newModel and -model contradict each other"),
        ("-newModel m -train t -load x", "-newModel and -load contradict each other"),
        ("-newModel m -train t -resetopt", "-resetopt and -newModel contradict each other"),
        ("-test t -model x -resetOptimizer", "-resetOptimizer only has a meaning with -train"),
        ("-newModel m -resetopt", "-resetopt only has a meaning with -train"),
        ("-inspect x -model y", "-model only has a meaning with -train, -test, -findLr, -analyse or -analyseLayers."),
        (
            "-inspect x -overwrite",
            "-overwrite only has a meaning with -newModel, -train, -test, -segment, -newConfigs, -findLr, -analyse, "
            "-analyseLayers or -compare.",
        ),
        ("-newModel m -pretrained a -layers", "-layers needs a value: -layers DEPTH..."),
        ("-newModel m -pretrained a -layers 1 x", "-layers x: allowed are whole numbers from 1"),
        ("-newModel m -layers 1", "-layers only has a meaning with -pretrained."),
        ("-train t -pretrained a", "-pretrained only has a meaning with -newModel."),
        ("-convert x.model.ckpt -output f", "-convert needs 2 values, found -output: -convert X MODEL.cfg"),
        ("-adapt a", "-adapt needs to know for what: add -classes NAME... or -channels NAME..., or both."),
        ("-adapt a -classes 2 -classFrequencies 0.5 none", "-classFrequencies none: allowed are numbers above 0"),
        ("-train t -json", "-json only has a meaning with -inspect."),
        (
            "-train t -output f",
            "-output only has a meaning with -check, -inspect, -newConfigs, -adapt, -convert, -strip, -plot, -report "
            "or -segment.",
        ),
        ("-adapt a.save", "-adapt needs to know for what: add -classes NAME... or -channels NAME..., or both."),
        ("-adapt a.save -classes", "-classes needs a value: -classes NAME..."),
        ("-convert x.ckpt", "-convert needs 2 values: -convert X MODEL.cfg"),
        ("-convert x.ckpt -dev cpu", "-convert needs 2 values, found -dev: -convert X MODEL.cfg"),
        ("-pretrained a.save", "-pretrained alone does nothing"),
        ("-train t -pretrained a.save", "-pretrained only has a meaning with -newModel."),
        ("-newModel m -layers 1 2", "-layers only has a meaning with -pretrained."),
        ("-newModel m -pretrained a -layers 1 0", "-layers 0: allowed are whole numbers from 1 to"),
        ("-adapt a -classes x y -classFrequencies 0.5 0", "-classFrequencies 0: allowed are numbers above 0"),
        ("-test t -split 0.8 0.2", "-split only has a meaning with -train or -findLr."),
        ("-train t -split 0.8 0.1", "-split 0.8 0.1: give the shares of training, validation and, if some cases are"),
        ("-train t -split 0.4 0.3 0.2 0.1", "they sum to 1, for instance 0.8 0.1 0.1. Or name a stored split."),
        ("-train t -split 1.0", "-split 1.0: give the shares of"),
        ("-train t -split 0.8 x", "-split x: allowed are numbers above 0"),
        ("-train t -split 0.8 0.2 -crossValidate 5", "-split and -crossValidate contradict each other"),
        ("-train t -crossValidate 1", "-crossValidate 1: allowed are whole numbers from 2 to"),
        ("-train t -crossValidate 5 -fold 6", "-fold 6: allowed are 1 to 5, the folds of -crossValidate."),
        ("-train t -fold 1", "-fold only has a meaning with -crossValidate."),
        ("-newModel m -crossValidate 5", "-crossValidate only has a meaning with -train."),
        ("-findLr t -train u", "-findLr and -train cannot be given together; run one after the other."),
        ("-findLr t -model x -resetopt", "-resetopt only has a meaning with -train"),
        ("-plot a -adapt b -classes 2", "-plot and -adapt cannot be given together"),
    ],
)
def test_everything_else_is_refused(text, message):
    with pytest.raises(CommandLineError) as refusal:
        parsed(text)
    assert message in str(refusal.value)
    assert refusal.value.exit_code == 2


def test_empty_path_is_refused():
    with pytest.raises(CommandLineError, match=r"-train needs a value, an empty one was given: -train TRAIN\.cfg"):
        parse(["-train", ""])


def test_path_that_begins_with_a_dash_can_be_given():
    assert parse(["-train", "./-t.cfg"]).train == Path("-t.cfg")


def test_help_names_every_option():
    text = help_text()
    assert all(f"  {option.name} " in text for option in OPTIONS)
    assert "typical calls:" in text


def test_options_with_several_values():
    arguments = parsed("-newModel m.cfg -pretrained a.save -layers 1 2 5 -grow exact -seed 3")
    assert arguments.layers == (1, 2, 5)
    assert (arguments.grow, arguments.seed) == ("exact", 3)
    assert parsed("-convert x.model.ckpt m.cfg").convert == (Path("x.model.ckpt"), Path("m.cfg"))
    adapted = parsed("-adapt a.save -classes background tumour -classFrequencies 0.9 0.1 -channels 2")
    assert adapted.classes == ("background", "tumour")
    assert adapted.class_frequencies == (0.9, 0.1)
    assert adapted.channels == ("2",)
    assert parsed("-train t -split 0.8 0.1 0.1").split == (0.8, 0.1, 0.1)
    assert parsed("-train t -split a/split.json").split == Path("a/split.json")
    assert parsed("-plot a b c -plotClasses 0 2").plot == (Path("a"), Path("b"), Path("c"))
