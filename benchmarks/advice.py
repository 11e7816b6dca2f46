"""Is the advice of `-analyse` good? Trainings as advised beside the default, and beside a bad choice, over seeds.

    python benchmarks/advice.py [--data shipped|brats] [--seeds 6] [--work FOLDER] [--shared FOLDER] [--negatives 5]

A repetition has a seed and gives every person one role: on the scans of one a source model learnt another task, those
of others are the new task's few labelled cases, and one is only measured. In each repetition and for each source

    analysed       `-analyse` of the source model and the new task's train config, with its forecast
    default        the train config as it is, from random weights         } `-compare`, which also adds
    fine-tuned     the same from all of the source's hidden layers        } what came true to the ledger
    as advised     `-train advised.train.cfg`, as it was written
    frozen         from all of the source's hidden layers, of which none learns any more

are equally many steps on the same cases, and each model is scored on the whole scan of the person left over, by the
mean Dice of the classes but the background. The bad choice is the opposite of the advice: "frozen" where it was to
transfer, "fine-tuned" where it was not. `--steps` gives other lengths of the trainings than 120 steps.

Labels that have nothing to do with the images (`--negatives`, seeds of each kind) are analysed with the shipped model.
No verdict but "do not transfer" is right; those of the opposite place can be learnt a little, by a brain's outline.

`--data brats` needs `--shared FOLDER` with brats/train and brats/validation below it. Finished parts are kept:
repeated, the script goes on, and prints the tables. Writes `<data><steps>.json`, `.txt` and `.png` into `--work`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from advice_data import (
    NEGATIVES,
    PEOPLE,
    ROOT,
    STUDIES,
    Roles,
    Source,
    Study,
    negative_labels,
    prepare,
    read,
    source_labels,
    write_labels,
)
from advice_results import write_results

from deepmedic import cli
from deepmedic.analysis.ledger import ledger_file
from deepmedic.model_files import saved_files
from deepmedic.planning.config_text import toml_value
from deepmedic.sessions.transfer.comparison import dice_of_subjects

EPOCHS, BATCH, STEPS = 8, 10, 120
SOURCE_STEPS = 160
RATE = 0.002


@dataclass(frozen=True)
class Repetition:
    """One seed, with everybody's role."""

    study: Study
    seed: int
    steps: int
    work: Path

    @property
    def roles(self) -> Roles:
        return self.study.roles(self.seed)

    @property
    def images(self) -> Path:
        return self.work / "images" / self.study.name

    @property
    def sources(self) -> Path:
        """Source models, which repetitions of all lengths share."""
        return self.work / "sources" / self.study.name

    @property
    def results(self) -> Path:
        """Of all repetitions of this length."""
        return self.work / f"{self.study.name}{self.steps}"

    @property
    def folder(self) -> Path:
        return self.results / f"seed{self.seed}"

    @property
    def output(self) -> Path:
        """Of all commands, so that there is one ledger."""
        return self.results / "output"


def main() -> None:
    """Run what is not finished yet, and write the results."""
    arguments = _arguments()
    torch.set_num_threads(1)
    study, work = STUDIES[arguments.data], arguments.work.absolute()
    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    repetitions = [Repetition(study, seed, arguments.steps, work) for seed in seeds]
    images, results = repetitions[0].images, repetitions[0].results
    prepare(study, images, arguments.shared)
    found = []
    for each in repetitions:
        found += kept(each.folder / "outcomes.json", lambda one=each: repeat(one))
    negatives = []
    for seed in range(arguments.negatives if study.name == "shipped" else 0):
        folder = work / "negatives" / f"seed{seed}"
        negatives += kept(folder / "verdicts.json", lambda at=folder, one=seed: plant(at, images, one))
    sys.stdout.write(write_results(results, found, negatives, ledger_file(results / "output")))


def repeat(one: Repetition) -> list[dict[str, Any]]:
    """Train the sources, analyse them, train on the new task in every way, and score; an outcome for each source."""
    one.folder.mkdir(parents=True, exist_ok=True)
    write_task(one)
    models = {source.name: train_source(one, source) for source in one.study.sources}
    analyses = {name: analyse(one, name, model) for name, model in models.items()}
    compared = compare(one, list(models.values()))
    outcomes = []
    for source in one.study.sources:
        name, (analysis, seconds) = source.name, analyses[source.name]
        advice = analysis["models"][0]["recommendation"]
        dice = {"default": compared["RI"], "fine-tuned": compared[models[name].stem]}
        advised = one.output / "analyses" / f"{name}{one.seed}" / "advised.train.cfg"
        run("-train", advised, "-seed", one.seed)
        dice["as advised"] = score(one, f"{name}{one.seed}Advised")
        if advice["verdict"] == "transfer":
            frozen = write(one.folder / f"frozen_{name}.cfg", {**training(one, f"{name}{one.seed}Frozen"), **FROZEN})
            target = one.folder / "target.cfg"
            run("-newModel", target, "-pretrained", models[name], "-train", frozen, "-seed", one.seed)
            dice["frozen"] = score(one, f"{name}{one.seed}Frozen")
        outcomes.append(
            {
                "source": name,
                "seed": one.seed,
                "roles": {"source": one.roles.source, "target": one.roles.target, "test": one.roles.test},
                "verdict": advice["verdict"],
                "layers": advice["layers"],
                "keepClasses": advice["keepClasses"],
                "forecast": advice["predictedGain"],
                "probeGainOnVolumes": analysis["models"][0]["evidence"]["gainOnVolumes"],
                "analysisSeconds": seconds,
                "dice": dice,
            }
        )
    return outcomes


def plant(folder: Path, images: Path, seed: int) -> list[dict[str, Any]]:
    """Analyse the shipped model on the shipped scans, with labels that have nothing to do with them."""
    folder.mkdir(parents=True, exist_ok=True)
    verdicts = []
    for kind in NEGATIVES:
        for number, person in enumerate(PEOPLE):
            real, mask = read(images, person, "labels"), read(images, person, "mask")
            drawn = negative_labels(kind, real, mask, 100 * seed + number)
            write_labels(images, person, f"{kind}{seed}", drawn)
        settings = {
            "sessionName": kind,
            "folderForOutput": folder,
            "sourceModels": [ROOT / "examples" / "models" / "tissues.save"],
            "channelsTarget": [listing(folder, "T1", images, PEOPLE)],
            "gtLabelsTarget": listing(folder, f"{kind}{seed}", images, PEOPLE),
            "roiMasksTarget": listing(folder, "mask", images, PEOPLE),
            "norm_zscore_prms": {"apply_to_all_channels": True},
        }
        run("-analyse", write(folder / f"{kind}.cfg", settings), "-seed", seed)
        analysis = json.loads((folder / "analyses" / kind / "analysis.json").read_text(encoding="utf-8"))
        verdict = analysis["models"][0]["recommendation"]["verdict"]
        verdicts.append({"kind": kind, "seed": seed, "verdict": verdict})
    return verdicts


def write_task(one: Repetition) -> None:
    """The configs of the new task: model, training from scratch as a user would write it, and scoring."""
    study, folder, output = one.study, one.folder, one.output
    write(folder / "target.cfg", model("target", study.classes, study.channels, output))
    write(folder / "train.cfg", training(one, f"default{one.seed}"))
    person = (one.roles.test,)
    names = folder / "names.cfg"
    names.write_text(f"{one.roles.test}\n", encoding="utf-8")
    test = {
        "sessionName": "scored",
        "folderForOutput": output,
        "channels": [listing(folder, channel, one.images, person, "test") for channel in study.channels],
        "gtLabels": listing(folder, "labels", one.images, person, "test"),
        "roiMasks": listing(folder, "mask", one.images, person, "test"),
        "namesForPredictionsPerCase": names,
        "saveProbMapsForEachClass": [False] * len(study.classes),
        "lesionCounts": False,
        **PREPROCESSING,
    }
    write(folder / "test.cfg", test)


def train_source(one: Repetition, source: Source) -> Path:
    """Train a source model, unless it is there."""
    people, folder = source.people or one.roles.source, one.sources
    session = "_".join((source.name, *people))
    model_file = folder / f"{session}.save"
    if model_file.exists():
        return model_file
    folder.mkdir(parents=True, exist_ok=True)
    for number, person in enumerate(people):
        real, mask = read(one.images, person, "labels"), read(one.images, person, "mask")
        write_labels(one.images, person, source.name, source_labels(source.name, real, mask, number))
    cases = {
        "channelsTraining": [listing(folder, name, one.images, people, session) for name in source.channels],
        "gtLabelsTraining": listing(folder, source.name, one.images, people, session),
        "roiMasksTraining": listing(folder, "mask", one.images, people, session),
    }
    settings = {"sessionName": session, "folderForOutput": folder, **cases, **learning(SOURCE_STEPS)}
    network = write(folder / f"model_{session}.cfg", model("source", source.classes, source.channels, folder))
    run("-newModel", network, "-train", write(folder / f"{session}.cfg", settings))
    model_file.write_bytes(final_model(folder, session).read_bytes())
    return model_file


def analyse(one: Repetition, name: str, source: Path) -> tuple[dict[str, Any], float]:
    """Analyse a source for the new task, and return what was found, and the seconds that it took."""
    settings = {
        "sessionName": f"{name}{one.seed}",
        "folderForOutput": one.output,
        "modelConfig": one.folder / "target.cfg",
        "trainConfig": one.folder / "train.cfg",
    }
    config = write(one.folder / f"analysis_{name}.cfg", settings)
    seconds = run("-analyse", config, "-model", source, "-seed", one.seed)
    results = one.output / "analyses" / f"{name}{one.seed}" / "analysis.json"
    return json.loads(results.read_text(encoding="utf-8")), seconds


def compare(one: Repetition, sources: Sequence[Path]) -> dict[str, float]:
    """Train from every source, and from random weights; return the Dice by the source's file, and of "RI"."""
    settings = {
        "sessionName": f"compare{one.seed}",
        "folderForOutput": one.output,
        "sourceModels": sources,
        "modelConfigs": [one.folder / "target.cfg"],
        "trainConfig": one.folder / "train.cfg",
        "testConfig": one.folder / "test.cfg",
        "initialisations": ["WT", "RI"],
        "seeds": [one.seed],
    }
    run("-compare", write(one.folder / "compare.cfg", settings))
    results = one.output / "comparisons" / f"compare{one.seed}" / "comparison.json"
    runs = json.loads(results.read_text(encoding="utf-8"))["runs"]
    stems = {path.stem for path in sources}
    found = {}
    for each in runs:
        [dice] = each["dice"].values()
        name = "RI" if each["source"] is None else each["source"].rpartition("-")[0]
        if name not in {"RI", *stems}:
            raise SystemExit(f"{results}: found the source {each['source']}; expected {sorted(stems)}")
        found[name] = dice
    return found


def score(one: Repetition, session: str) -> float:
    """Segment the person left over with the final model of a session, and return the mean foreground Dice."""
    settings = json.loads((one.folder / "test.json").read_text(encoding="utf-8"))
    config = write(one.folder / f"test_{session}.cfg", {**settings, "sessionName": f"{session}_scored"})
    run("-test", config, "-model", final_model(one.output, session))
    metrics = one.output / "predictions" / f"{session}_scored" / "metrics.json"
    rows = json.loads(metrics.read_text(encoding="utf-8"))["rows"]
    [dice] = dice_of_subjects(rows, {row["case"]: row["case"] for row in rows}).values()
    return dice


def final_model(output: Path, session: str) -> Path:
    """The model at the end of a session."""
    [found] = [file.path for file in saved_files(output / "cnnModels" / session)[0] if file.tag == "final"]
    return found


PREPROCESSING = {"norm_zscore_prms": {"apply_to_all_channels": True}, "report": False}
FROZEN = {"layersToFreezeNormal": [1, 2, 3], "layersToFreezeSubsampled": [1, 2, 3], "layersToFreezeFC": [1]}
"""All layers that are transferred: the classification layer alone learns."""


def model(name: str, classes: Sequence[str], channels: Sequence[str], output: Path) -> dict[str, Any]:
    """A model config: the small network of `examples/transfer_study`, with smaller segments."""
    return {
        "modelName": name,
        "folderForOutput": output,
        "numberOfOutputClasses": len(classes),
        "classNames": classes,
        "numberOfInputChannels": len(channels),
        "channelNames": channels,
        "numberFMsPerLayerNormal": [6, 6, 12],
        "kernelDimPerLayerNormal": [[3, 3, 3]] * 3,
        "useSubsampledPathway": True,
        "subsampleFactor": [[3, 3, 3]],
        "numberFMsPerLayerFC": [16],
        "dropoutRatesFc": [0.0, 0.0],
        "segmentsDimTrain": [15, 15, 15],
        "segmentsDimInference": [45, 45, 45],
    }


def training(one: Repetition, session: str) -> dict[str, Any]:
    """A train config of the new task."""
    cases = one.roles.target
    return {
        "sessionName": session,
        "folderForOutput": one.output,
        "channelsTraining": [listing(one.folder, name, one.images, cases) for name in one.study.channels],
        "gtLabelsTraining": listing(one.folder, "labels", one.images, cases),
        "roiMasksTraining": listing(one.folder, "mask", one.images, cases),
        **learning(one.steps),
    }


def learning(steps: int) -> dict[str, Any]:
    """How all models learn, in equally many steps per epoch."""
    return {
        "typeOfSamplingForTraining": 3,
        "numberOfEpochs": EPOCHS,
        "numberOfSubepochs": 1,
        "numberTrainingSegmentsLoadedOnGpuPerSubep": steps // EPOCHS * BATCH,
        "batchsize_train": BATCH,
        "sgd0orAdam1orRms2": 1,
        "losses_and_weights": {"xentr": 1.0, "dsc": 1.0},
        "learningRate": RATE,
        "typeOfLearningRateSchedule": "poly",
        "numEpochsToWaitBeforeLoweringLr": 0,
        "L1_reg": 0.0,
        "L2_reg": 0.00001,
        "keepLastCheckpoints": 1,
        **PREPROCESSING,
    }


def listing(folder: Path, kind: str, images: Path, cases: Sequence[str], role: str = "all") -> Path:
    """Write a listing file of one kind of image of some cases."""
    path = folder / f"list_{role}_{kind}.cfg"
    path.write_text("".join(f"{images / f'{case}_{kind}.nii.gz'}\n" for case in cases), encoding="utf-8")
    return path


def write(path: Path, settings: Mapping[str, Any]) -> Path:
    """Write a config in TOML, and as JSON beside it."""
    text = json.dumps(settings, default=str)
    lines = [f"{key} = {toml_value(value)}\n" for key, value in json.loads(text).items()]
    path.write_text("".join(lines), encoding="utf-8")
    path.with_suffix(".json").write_text(text, encoding="utf-8")
    return path


def kept(path: Path, make: Callable[[], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """What was found before, or what is found now, which is kept."""
    if not path.exists():
        found = make()
        path.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return list(json.loads(path.read_text(encoding="utf-8")))


def run(*words: Any) -> float:
    """Run a command line on the CPU; return its seconds of processor time."""
    begun, clock = time.process_time(), time.perf_counter()
    code = cli.main([str(word) for word in (*words, "-dev", "cpu")])
    if code:
        sys.exit(code)
    seconds = time.process_time() - begun
    sys.stderr.write(f"### {words[0]} {Path(words[1]).name}: {seconds:.1f} s, {time.perf_counter() - clock:.1f} s\n")
    return seconds


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(STUDIES), default="shipped")
    parser.add_argument("--seeds", type=int, default=6, help="repetitions (default 6)")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of each training (default {STEPS})")
    parser.add_argument("--negatives", type=int, default=5, help="seeds of planted negatives (default 5)")
    parser.add_argument("--work", type=Path, default=Path("advice"))
    parser.add_argument("--shared", type=Path, help="folder with brats/train and brats/validation")
    given = parser.parse_args()
    if given.steps < EPOCHS or given.steps % EPOCHS:
        parser.error(f"--steps: found {given.steps}; allowed: multiples of {EPOCHS}, the number of epochs")
    return given


if __name__ == "__main__":
    main()
