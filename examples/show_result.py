"""The quickstart's result: a table beside two simple methods, and a picture.

    python examples/show_result.py examples/output

Reads what `-train` and `-test` wrote into a folder, prints the Dice of each tissue on the scan that was not trained
on, says whether the quickstart's target was reached, and draws `quickstart.png` there. The data are real MRI with
automatically derived labels: Dice says how well those labels are reproduced.

Exit code 0: target reached; 1: missed; 2: the folder does not hold what is needed; 6: no matplotlib for the picture.
"""

import argparse
import csv
import sys
from dataclasses import dataclass
from pathlib import Path

from baselines import TEST_SUBJECT, TISSUES, baseline_dice

from deepmedic.errors import DeepMedicError
from deepmedic.plots.segmentation import SegmentationRequest, segmentation_figure

EXAMPLES = Path(__file__).resolve().parent
DATA = EXAMPLES / "data"
TEST_CASE = f"subject{TEST_SUBJECT}"
LOWEST_MEAN_DICE = 0.95
CAPTION = f"Real MRI, automatically derived labels. Subject {TEST_SUBJECT} was not trained on."


class ResultMissingError(Exception):
    """The folder does not hold what is needed; the message says what to do."""


@dataclass(frozen=True)
class Scores:
    """Dice per tissue on the test scan, in the order of `TISSUES`."""

    atlas: list[float]
    lookup: list[float]
    model: list[float]

    def missed(self) -> list[str]:
        """What keeps the target from being reached, in words; empty when it is. An undefined Dice reaches nothing."""
        reasons = []
        mean = _mean(self.model)
        if not mean >= LOWEST_MEAN_DICE:
            reasons.append(f"the mean Dice is {mean:.4f}, below {LOWEST_MEAN_DICE}")
        for tissue, atlas, lookup, model in zip(TISSUES.values(), self.atlas, self.lookup, self.model, strict=True):
            for method, dice in (("atlas prior", atlas), ("intensity lookup", lookup)):
                if not model > dice:
                    reasons.append(f"{tissue} is at {model:.4f}, not above the {method} with {dice:.4f}")
        return reasons

    def table(self) -> str:
        """One row per tissue and one for their mean."""
        columns = {"atlas prior": self.atlas, "intensity lookup": self.lookup, "this model": self.model}
        rows = [["tissue", *columns]]
        rows += [
            [tissue, *(f"{dice[index]:.4f}" for dice in columns.values())]
            for index, tissue in enumerate(TISSUES.values())
        ]
        rows.append(["mean", *(f"{_mean(dice):.4f}" for dice in columns.values())])
        first = max(len(row[0]) for row in rows)
        lines = [row[0].ljust(first) + "".join(cell.rjust(19) for cell in row[1:]) for row in rows]
        return "\n".join(lines)


def model_dice(metrics: Path, case: str = TEST_CASE) -> list[float]:
    """Dice per tissue of one case in a `metrics.csv`."""
    with open(metrics, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = {int(row["class_index"]): float(row["dice"]) for row in rows if row["case"] == case}
    if not set(TISSUES) <= set(found):
        cases = ", ".join(sorted({row["case"] for row in rows})) or "none"
        raise ResultMissingError(f"{metrics}: has no scores of all tissues for the case {case}; cases there: {cases}.")
    return [found[label] for label in TISSUES]


def inference_results(output: Path, name: str | None) -> Path:
    """The folder of the inference session's results: the named one, or the only one below `predictions`."""
    if name is not None:
        if not (output / "predictions" / name / "metrics.csv").is_file():
            raise ResultMissingError(
                f"{output}/predictions/{name}/metrics.csv is not there; run the -test session first."
            )
        return output / "predictions" / name
    trained = {path.name for path in (output / "cnnModels").glob("*/")}
    found = sorted(path.parent for path in (output / "predictions").glob("*/metrics.csv"))
    tested = [folder for folder in found if folder.name not in trained]  # training leaves validation results there too
    return _only_one(tested, f"{output}/predictions/<session>/metrics.csv", "-test", "--test")


def training_history(output: Path, name: str | None) -> Path:
    """The metric history of the training session: the named one, or the only one."""
    if name is not None:
        found = [output / "logs" / f"{name}.metrics.csv"]
    else:
        found = sorted((output / "logs").glob("*.metrics.csv"))
    return _only_one(
        [path for path in found if path.is_file()], f"{output}/logs/<session>.metrics.csv", "-train", "--training"
    )


def _only_one(found: list[Path], pattern: str, command: str, option: str) -> Path:
    if not found:
        raise ResultMissingError(f"There is no {pattern}; run the quickstart's {command} session first.")
    if len(found) > 1:
        listing = "".join(f"\n  {path}" for path in found)
        raise ResultMissingError(f"There are several {pattern}; name one session with {option}:{listing}")
    return found[0]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def show(output: Path, test: str | None, training: str | None) -> bool:
    """Print the table and the verdict, draw the picture; return whether the target was reached."""
    results = inference_results(output, test)
    history = training_history(output, training)
    baselines = {name: [float(value) for value in dice] for name, dice in baseline_dice(DATA).items()}
    scores = Scores(baselines["atlas"], baselines["lookup"], model_dice(results / "metrics.csv"))
    missed = scores.missed()
    print(f"\nDice on the scan of subject {TEST_SUBJECT}, which was not trained on")
    print("(real MRI, automatically derived labels)\n")
    print(scores.table() + "\n")
    target = f"mean Dice of at least {LOWEST_MEAN_DICE}, and every tissue above both simple methods"
    print(f"Target {'missed' if missed else 'reached'}: {target}.")
    for reason in missed:
        print(f"  - {reason}")
    picture = segmentation_figure(
        SegmentationRequest(
            scan=DATA / TEST_CASE / "T1.nii.gz",
            labels=DATA / TEST_CASE / "labels.nii.gz",
            prediction=results / "predictions" / f"{TEST_CASE}_Segm.nii.gz",
            class_names=("background", *TISSUES.values()),
            history=history,
            output=output / "quickstart.png",
            title=f"Subject {TEST_SUBJECT}: mean Dice {_mean(scores.model):.3f} on a scan that was not trained on",
            caption=CAPTION,
        )
    )
    print(f"Table:        {results / 'metrics.csv'}")
    print(f"Segmentation: {results / 'predictions' / f'{TEST_CASE}_Segm.nii.gz'}")
    print(f"Picture:      {picture}")
    report = output / "reports" / f"{results.name}.html"
    if report.is_file():
        print(f"Report:       {report} (open it in a browser)")
    return not missed


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Table and picture of the quickstart's result.")
    parser.add_argument(
        "output", type=Path, nargs="?", default=EXAMPLES / "output", help="folderForOutput of the sessions"
    )
    parser.add_argument("--test", help="name of the inference session, where there are several")
    parser.add_argument("--training", help="name of the training session, where there are several")
    arguments = parser.parse_args()
    try:
        return 0 if show(arguments.output, arguments.test, arguments.training) else 1
    except ResultMissingError as problem:
        print(problem, file=sys.stderr)
        return 2
    except DeepMedicError as problem:
        print(problem, file=sys.stderr)
        return problem.exit_code


if __name__ == "__main__":
    sys.exit(main())
