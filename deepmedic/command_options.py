"""The options of the command line: their names, how many values they take, and what `-h` says about them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CommandOption:
    """One option: how many values it takes and what `-h` says about it."""

    name: str
    attribute: str
    help: str
    metavar: str = ""
    """Empty for a switch; one word per value, the last one with "..." for any number of them."""

    @property
    def fewest(self) -> int:
        """Values that the option needs at least."""
        return len(self.metavar.split())

    @property
    def several(self) -> bool:
        """Whether there may be more values than that."""
        return self.metavar.endswith("...")


OPTIONS = (
    CommandOption(
        "-newModel", "new_model", "Create and save an untrained model; may be followed by -train.", "MODEL.cfg"
    ),
    CommandOption("-train", "train", "A training session. Repeated, it goes on where it stopped.", "TRAIN.cfg"),
    CommandOption("-test", "test", "An inference session: segment the listed scans.", "TEST.cfg"),
    CommandOption(
        "-model",
        "models",
        "A saved model (.save), a session's folder (its newest model), or an architecture .cfg; several with -test, "
        "whose probabilities are averaged, and with -analyse, which ranks them.",
        "X...",
    ),
    CommandOption("-load", "load", "The weights to start from, when -model names an architecture .cfg.", "X"),
    CommandOption("-pretrained", "pretrained", "With -newModel: take parameters over from another model.", "X"),
    CommandOption(
        "-pretrainedConfig", "pretrained_config", "The architecture of X, where X does not hold it.", "MODEL.cfg"
    ),
    CommandOption("-layers", "layers", "With -pretrained: only these depths of X, counted from 1.", "DEPTH..."),
    CommandOption(
        "-initialisation",
        "initialisation",
        "With -pretrained: what is taken of layers: WT (weights), ST (only their statistics), WT-ST-3, shuffle.",
        "NAME",
    ),
    CommandOption("-grow", "grow", "With -pretrained: make the larger model compute what X computes.", "exact"),
    CommandOption("-adapt", "adapt", "Write a model like A for other classes or channels.", "A.save"),
    CommandOption("-classes", "classes", "With -adapt: names of the classes, or their number.", "NAME..."),
    CommandOption("-channels", "channels", "With -adapt: names of the image channels, or their number.", "NAME..."),
    CommandOption("-classFrequencies", "class_frequencies", "With -adapt: share of voxels of each class.", "SHARE..."),
    CommandOption("-convert", "convert", "Write a TensorFlow checkpoint or an .npz file as .save.", "X MODEL.cfg"),
    CommandOption(
        "-strip", "strip", "Write a model without what only its own training needs, to pass it on.", "X.save"
    ),
    CommandOption(
        "-segment",
        "segment",
        "Segment scans with a saved model (several are averaged), without a config file.",
        "MODEL...",
    ),
    CommandOption(
        "-images", "images", "With -segment: NAME=scan.nii.gz per channel, or a folder of cases.", "NAME=FILE..."
    ),
    CommandOption("-roi", "roi", "With -segment: the mask; for a folder, a word in the names of masks.", "MASK"),
    CommandOption("-probabilities", "probabilities", "With -segment: save the probability of every class too."),
    CommandOption(
        "-newConfigs", "new_configs", "Write configs for a data folder, a CSV, a dataset.json or a BIDS tree.", "SOURCE"
    ),
    CommandOption("-plot", "plot", "Draw the curves of one or several sessions.", "SESSION..."),
    CommandOption(
        "-analyse", "analyse", "Before training: is a model worth transferring to new cases, and how?", "CONFIG.cfg"
    ),
    CommandOption("-analyseLayers", "analyse_layers", "After training: what it did to every layer.", "TEST.cfg"),
    CommandOption("-findLr", "find_lr", "Which learning rate suits a training? Tried on short ones.", "TRAIN.cfg"),
    CommandOption("-compare", "compare", "Equal trainings that differ in how models start: what helps?", "COMPARE.cfg"),
    CommandOption("-detailed", "detailed", "With -plot: all metrics, not only accuracy."),
    CommandOption("-plotClasses", "plot_classes", "With -plot: only these classes.", "CLASS..."),
    CommandOption("-movingAverage", "moving_average", "With -plot: smooth over so many subepochs.", "N"),
    CommandOption("-report", "report", "Make the report of finished sessions (again).", "SESSION..."),
    CommandOption("-resetOptimizer", "reset_optimizer", "With -train: keep the weights, start optimisation anew."),
    CommandOption("-resetopt", "reset_optimizer", "The same as -resetOptimizer."),
    CommandOption("-split", "split", "With -train, -findLr: split cases by subject, as 0.8 0.1 0.1.", "SHARE..."),
    CommandOption("-crossValidate", "cross_validate", "With -train: one session per fold, and a table.", "K"),
    CommandOption("-fold", "fold", "With -crossValidate: only this fold, counted from 1.", "I"),
    CommandOption("-dev", "device", "cpu, cuda, cuda0, cuda1, ..., gpu or auto (default).", "DEVICE"),
    CommandOption("-check", "check", "Read and check everything the run would use; write nothing."),
    CommandOption("-inspect", "inspect", "Describe a saved model or a model .cfg.", "X"),
    CommandOption("-json", "json", "With -inspect: print JSON."),
    CommandOption("-exportParameters", "export_parameters", "With -inspect: write the parameters as arrays.", "P.npz"),
    CommandOption("-selfTest", "self_test", "Test this installation on the chosen device, in under a minute."),
    CommandOption("-explain", "explain", "Explain the config keys that match a word.", "WORD"),
    CommandOption(
        "-output",
        "output",
        "The file (-newConfigs: folder) to write, with -check (JSON), -inspect (SVG), -adapt, -convert, -strip, -plot, "
        "-report and -segment.",
        "FILE",
    ),
    CommandOption("-part", "part", "With -test or -compare: only the i-th of n parts, for array jobs.", "i/n"),
    CommandOption("-overwrite", "overwrite", "Replace results, or start a session anew, that an earlier run left."),
    CommandOption("-seed", "seed", "Seed of everything random (default 0).", "N"),
    CommandOption("-version", "version", "Versions of this program, of torch, CUDA and the driver."),
    CommandOption("-h", "help", "This help."),
    CommandOption("--help", "help", "This help."),
)
