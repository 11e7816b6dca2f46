"""Cases in small, a page with them, and one browser for all tests of a process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from headless_browser import Browser, find_browser
from small_cases import NASTY, PART, SIZE, SPACING, WHOLE, head, truth

from deepmedic.config.architecture import Architecture, Pathway
from deepmedic.data.cases import ImageRef
from deepmedic.report.content import CaseImages, Chart, Facts, Line, Model, ReportContent, Table


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without a browser its tests are not run, and the summary of all tests says so."""
    if find_browser() is not None:
        return
    needing = [item for item in items if "browser" in getattr(item, "fixturenames", ())]
    items[:] = [item for item in items if item not in needing]


@pytest.fixture(scope="session")
def browser_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = find_browser()
    assert program is not None
    started = Browser(program, tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture
def browser(browser_once: Browser) -> Browser:
    """The browser; tests that ask for it are not run where there is none."""
    return browser_once


@pytest.fixture
def write_image(tmp_path: Path) -> Callable[..., ImageRef]:
    """Write voxels [x, y, z], given to right, anterior, superior, with the axes of a file as `codes` says."""

    def write(name: str, voxels: np.ndarray, codes: str = "RAS", affine: np.ndarray | None = None) -> ImageRef:
        image = nib.Nifti1Image(voxels, np.diag([*SPACING, 1.0]) if affine is None else affine)
        wanted = nib.orientations.axcodes2ornt(tuple(codes))
        turned = image.as_reoriented(nib.orientations.ornt_transform(nib.io_orientation(image.affine), wanted))
        path = tmp_path / "images" / f"{name}.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(turned, path)
        return ImageRef(path)

    return write


@pytest.fixture
def make_case(write_image: Callable[..., ImageRef]) -> Callable[..., CaseImages]:
    """A case whose prediction misses the bright corner; every file with the axes that `codes` says."""

    def make(name: str, codes: str = "RAS", score: float | None = None, stem: str = "case") -> CaseImages:
        prediction = truth()
        prediction[PART] = 1
        probability = np.zeros(SIZE, np.float32)
        probability[WHOLE] = 0.75
        return CaseImages(
            name=name,
            channels=(write_image(f"{stem}_t1", head(), codes), None, write_image(f"{stem}_t2", 200 - head(), codes)),
            labels=write_image(f"{stem}_labels", truth(), codes),
            segmentation=write_image(f"{stem}_segm", prediction, codes),
            probabilities={1: write_image(f"{stem}_prob", probability, codes)},
            score=score,
        )

    return make


@pytest.fixture(scope="session")
def model() -> Model:
    """Two pathways and three classes, one of them with a name that would be a script."""

    def pathway(name: str, maps: tuple[int, ...], factor: tuple[int, int, int] = (1, 1, 1)) -> Pathway:
        kernel = (1, 1, 1) if name == "fc" else (3, 3, 3)
        depth = len(maps)
        residual = (2,) if name == "normal" else ()
        return Pathway(name, maps, (kernel,) * depth, ("valid",) * depth, (0.0,) * depth, residual, (), factor)

    architecture = Architecture(
        3, 3, pathway("normal", (4, 4)), (pathway("subsampled1", (3, 2), (3, 3, 3)),), pathway("fc", (5, 3))
    )
    memory = Table(("segment", "inference"), (("9x9x9", "1.0 MiB"),))
    return Model(architecture, {"training": (9, 9, 9)}, ("background", NASTY, "lesion"), ("T1", NASTY, "T2"), memory)


@pytest.fixture
def make_content(make_case: Callable[..., CaseImages], model: Model) -> Callable[..., ReportContent]:
    """A report of some cases, with everything in it that a page can have; the names of users are nasty."""

    def make(*names: str, codes: str = "RAS") -> ReportContent:
        cases = tuple(
            make_case(name, codes, score=0.2 + 0.1 * number, stem=f"case{number}") for number, name in enumerate(names)
        )
        rows = tuple(
            (name, named, dice, 10 - number, float("nan") if number == 1 else float(number))
            for number, name in enumerate(names)
            for named, dice in (("whole foreground", 0.9), (NASTY, 0.25 - 0.1 * number), ("lesion", 0.5))
        )
        curve = Line("training", (0.5, 1.5, 2.5), (0.3, float("nan"), 0.6))
        return ReportContent(
            session=NASTY,
            kind="inference",
            facts=(
                Facts(
                    "Run",
                    {
                        "command": NASTY,
                        "further": {"seed": 0, "none": None, NASTY: [1, 2], "a": {"b": {"stage": "samples"}}},
                    },
                ),
            ),
            warnings=(NASTY,),
            charts=(Chart(NASTY, (curve, Line(NASTY, (1.0, 2.0), (0.4, 0.8), True, 1)), unit_range=True),),
            summary=Table(("class", "over cases", "dice"), (("lesion", "mean", 0.5),)),
            metrics=Table(("case", "class", "dice", "voxels", NASTY), rows),
            cases=cases,
            model=model,
            transfer=Table(("layer", "from layer"), (("normal/1", NASTY),)),
            transfer_note=NASTY,
            settings={NASTY: NASTY},
            headline={"Cases": str(len(cases)), NASTY: NASTY},
            notes=(NASTY,),
        )

    return make
