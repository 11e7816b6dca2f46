"""Cases from listing files and tables: everything wrong is said in one run."""

from pathlib import Path

import pytest

from deepmedic.config.sections import DataConfig
from deepmedic.data.cases import Case, ImageRef, duplicates_between, list_cases, read_cases
from deepmedic.errors import ConfigError, DataError, ModelError, ProblemList


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two subjects with two channels, labels and masks; what the files hold does not matter here."""
    for subject in ("p1", "p2"):
        (tmp_path / "data" / subject).mkdir(parents=True)
        for name in ("t1", "t2", "labels", "roi"):
            (tmp_path / "data" / subject / f"{name}.nii.gz").write_bytes(b"x")
    (tmp_path / "lists").mkdir()
    for name in ("t1", "t2", "labels", "roi"):
        write(tmp_path, name, f"../data/p1/{name}.nii.gz", f"../data/p2/{name}.nii.gz")
    return tmp_path


def write(folder: Path, name: str, *lines: str) -> Path:
    path = folder / "lists" / f"{name}.cfg"
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def config(folder: Path, **replaced: object) -> DataConfig:
    lists = folder / "lists"
    values = {"channels": (lists / "t1.cfg", lists / "t2.cfg"), "labels": lists / "labels.cfg", **replaced}
    return DataConfig(**values)


def refusals(data: DataConfig, role: str = "training", **needs: object) -> list[Exception]:
    problems = ProblemList()
    read_cases(data, role, problems, [], **needs)
    return list(problems.problems)


def cases(data: DataConfig, role: str = "training", notes: list[str] | None = None, **needs: object) -> list[Case]:
    problems = ProblemList()
    found = read_cases(data, role, problems, notes, **needs)
    problems.raise_if_any()
    return found


def test_paths_are_relative_to_the_listing_file(folder: Path) -> None:
    first, second = cases(config(folder, roi_masks=folder / "lists" / "roi.cfg"), needs_labels=True)
    assert first.channels[0] == ImageRef(folder / "data" / "p1" / "t1.nii.gz", None, f"{folder / 'lists' / 't1.cfg'}:1")
    assert second.channels[1].path == folder / "data" / "p2" / "t2.nii.gz"
    assert second.labels.path == folder / "data" / "p2" / "labels.nii.gz"
    assert second.roi.listed_at == f"{folder / 'lists' / 'roi.cfg'}:2"
    assert (first.name, second.name) == ("p1", "p2")
    assert first.output_name is None


def test_a_missing_channel_may_be_the_first_one_and_is_noted(folder: Path) -> None:
    write(folder, "t1", "-", "../data/p2/t1.nii.gz")
    notes: list[str] = []
    first, second = cases(config(folder), notes=notes)
    assert first.channels[0] is None
    assert second.channels[0] is not None
    assert notes == ["training: channel 1 is missing in 1 of 2 cases and is set to zero there"]


def test_a_case_without_any_channel_is_refused(folder: Path) -> None:
    write(folder, "t1", "-", "../data/p2/t1.nii.gz")
    write(folder, "t2", "-", "../data/p2/t2.nii.gz")
    (problem,) = refusals(config(folder))
    assert "t1.cfg:1" in str(problem)
    assert "t2.cfg:1: all channels of this case are missing" in str(problem)


def test_missing_labels_are_allowed_only_where_none_are_needed(folder: Path) -> None:
    labels = write(folder, "labels", "../data/p1/labels.nii.gz", "-")
    assert [case.labels is None for case in cases(config(folder), "inference")] == [False, True]
    (problem,) = refusals(config(folder), needs_labels=True)
    assert str(problem) == f"{labels}:2: labels are needed here, '-' is not allowed."


def test_one_volume_of_a_4d_file_is_picked_by_a_suffix(folder: Path) -> None:
    write(folder, "t2", "../data/p1/t1.nii.gz[12]", "../data/p2/t1.nii.gz[0]")
    first, second = cases(config(folder))
    assert (first.channels[1].path.name, first.channels[1].volume) == ("t1.nii.gz", 12)
    assert second.channels[1].volume == 0
    assert str(first.channels[1]).endswith("p1/t1.nii.gz[12]")


def test_lists_of_different_lengths_are_refused_with_all_counts(folder: Path) -> None:
    write(folder, "t2", "../data/p1/t2.nii.gz")
    (problem,) = refusals(config(folder))
    assert isinstance(problem, DataError)
    assert "training: the listing files differ in their number of cases" in str(problem)
    for count, title in ((2, "channel 1"), (1, "channel 2"), (2, "labels")):
        assert f"{count}  {title}: {folder / 'lists'}" in str(problem)


def test_all_missing_files_are_listed_and_their_cases_left_out(folder: Path) -> None:
    (folder / "data" / "p1" / "t1.nii.gz").unlink()
    (folder / "data" / "p1" / "labels.nii.gz").unlink()
    (folder / "data" / "p1" / "labels.nii.gz").symlink_to("gone.nii.gz")
    (folder / "data" / "p1" / "t2.nii.gz").unlink()
    (folder / "data" / "p1" / "t2.nii.gz").mkdir()
    problems = ProblemList()
    left = read_cases(config(folder), "training", problems)
    texts = [str(problem) for problem in problems.problems]
    assert len(texts) == 3
    assert texts[0].startswith("1 of 2 files of channel 1 cannot be read:")
    assert f"t1.cfg:1: {folder / 'data' / 'p1' / 't1.nii.gz'}: no such file" in texts[0]
    assert "a folder, not a file" in texts[1]
    assert "a dangling link to gone.nii.gz" in texts[2]
    assert [case.name for case in left] == ["p2"]


def test_missing_listings_and_names_are_gathered_in_one_run(folder: Path) -> None:
    names = write(folder, "names", "../x", "ok")
    (folder / "data" / "p2" / "t1.nii.gz").unlink()
    found = refusals(config(folder, names=names, labels=folder / "lists" / "none.cfg"))
    texts = [str(problem) for problem in found]
    assert texts[0] == f"{folder / 'lists' / 'none.cfg'}: no such file; correct the path."
    assert "1 of 2 files of channel 1 cannot be read" in texts[1]
    assert "names.cfg:1: the name '../x' of a result leads out of its folder" in texts[2]
    assert len(texts) == 3


def test_names_of_results_are_numbered_by_default_in_inference_only(folder: Path) -> None:
    assert [case.output_name for case in cases(config(folder), "inference")] == ["pred_case0", "pred_case1"]
    assert [case.output_name for case in cases(config(folder), "test")] == ["pred_case0", "pred_case1"]
    (problem,) = refusals(config(folder), "validation", needs_names=True)
    assert isinstance(problem, ConfigError)
    assert "give namesForPredictionsPerCaseVal" in str(problem)
    named = cases(config(folder, names=write(folder, "names", "a.nii.gz", "site/b")), "validation", needs_names=True)
    assert [(case.name, case.output_name) for case in named] == [("a", "a"), ("site/b", "site/b")]


def test_keys_are_named_as_in_the_config_of_the_role(folder: Path) -> None:
    for role, labels, channels in (
        ("training", "gtLabelsTraining", "channelsTraining or dataframe_train"),
        ("validation", "gtLabelsValidation", "channelsValidation or dataframe_val"),
        ("inference", "gtLabels", "channels or dataframe"),
    ):
        (problem,) = refusals(config(folder, labels=None), role, needs_labels=True)
        assert isinstance(problem, ConfigError)
        assert f"give {labels}, or a column" in str(problem)
        (problem,) = refusals(DataConfig(), role)
        assert isinstance(problem, ConfigError)
        assert f"{role}: no images are listed; give {channels}." in str(problem)


def test_a_number_of_channels_that_the_model_lacks_names_both_numbers(folder: Path) -> None:
    (problem,) = refusals(config(folder), channels=3)
    assert isinstance(problem, ModelError)
    assert "2 channels are listed" in str(problem)
    assert "the model has 3 input channels" in str(problem)
    assert refusals(config(folder), channels=2) == []


def test_a_table_with_the_names_of_the_model_in_another_order_is_refused(folder: Path) -> None:
    table = folder / "data" / "cases.csv"
    table.write_text("channel_T1,channel_FLAIR\np1/t1.nii.gz,p1/t2.nii.gz\n")
    listed = DataConfig(table=table)
    (problem,) = refusals(listed, channels=2, channel_names=("t1", "flair"))
    assert isinstance(problem, ModelError)
    assert "alphabetical order of their columns' names, FLAIR, T1, and those of the model are t1, flair." in str(
        problem
    )
    assert "for instance channel_1_t1, channel_2_flair." in str(problem)
    for names in (("flair", "t1"), ("T1w", "T2w"), None):
        assert refusals(listed, channels=2, channel_names=names) == []
    table.write_text("channel_1_t1,channel_2_flair\np1/t1.nii.gz,p1/t2.nii.gz\n")
    assert refusals(listed, channels=2, channel_names=("t1", "flair")) == []
    assert refusals(config(folder), channels=2, channel_names=("b", "a")) == []


def test_weight_maps_come_one_per_category(folder: Path) -> None:
    maps = (write(folder, "w0", "../data/p1/roi.nii.gz", "-"), write(folder, "w1", *["../data/p2/roi.nii.gz"] * 2))
    first, second = cases(config(folder, weight_maps=maps), categories=2)
    assert [ref.path.parent.name for ref in first.weight_maps] == ["p1", "p2"]
    assert second.weight_maps[0] is None
    (problem,) = refusals(config(folder, weight_maps=maps), categories=3)
    assert isinstance(problem, ConfigError)
    assert "2 weight maps are listed (weightedMapsForSamplingEachCategoryTrain)" in str(problem)
    assert "has 3 categories" in str(problem)


def test_a_table_is_read_relative_to_itself_and_replaces_the_lists(folder: Path) -> None:
    table = folder / "data" / "cases.csv"
    table.write_text("channel_b,channel_a,ground_truth\np1/t2.nii.gz,p1/t1.nii.gz,p1/labels.nii.gz\n")
    notes: list[str] = []
    (case,) = cases(config(folder, table=table), notes=notes, needs_labels=True)
    assert [ref.path.name for ref in case.channels] == ["t1.nii.gz", "t2.nii.gz"]
    assert case.labels.listed_at == f"{table}:2"
    assert notes == ["training: dataframe_train is given, so channelsTraining and the other lists are not used"]


def test_repeated_images_are_noted_with_their_lines(folder: Path) -> None:
    (folder / "data" / "p2" / "t1.nii.gz").unlink()
    (folder / "data" / "p2" / "t1.nii.gz").symlink_to("../p1/t1.nii.gz")
    write(folder, "t2", "../data/p1/t2.nii.gz", "../data/p2/labels.nii.gz")
    notes: list[str] = []
    cases(config(folder), notes=notes)
    assert len(notes) == 2
    assert "is listed 2 times as channel 1" in notes[0]
    assert "t1.cfg:1, " in notes[0]
    assert notes[0].endswith("t1.cfg:2")
    assert "training, case p2: one file serves as two of its images" in notes[1]


def test_cases_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    def names(*files: str) -> list[str]:
        for file in files:
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).write_bytes(b"x")
        (tmp_path / "list.cfg").write_text("\n".join(files))
        return [case.name for case in cases(DataConfig(channels=(tmp_path / "list.cfg",)))]

    assert names("a/t1.nii", "b/t1.nii") == ["a", "b"]
    assert names("a/one.nii.gz", "a/two.nii") == ["one", "two"]
    assert names("a/x.nii", "a/y.nii", "b/x.nii") == ["a/x", "a/y", "b/x"]
    assert names("a/x/t1.nii", "b/x/t1.nii") == ["case0", "case1"]
    assert names("a/alone.nii.gz") == ["alone"]


def test_images_in_training_and_validation_are_found_through_links(folder: Path) -> None:
    (folder / "link.nii.gz").symlink_to(folder / "data" / "p1" / "t1.nii.gz")
    training = [Case("p1", (ImageRef(folder / "data" / "p1" / "t1.nii.gz", None, "train.cfg:1"),))]
    validation = [
        Case("v1", (ImageRef(folder / "data" / "p2" / "t1.nii.gz", None, "val.cfg:1"),)),
        Case("v2", (ImageRef(folder / "link.nii.gz", None, "val.cfg:2"),)),
        Case("v3", (ImageRef(folder / "data" / "p1" / "t1.nii.gz", 1, "val.cfg:3"), None)),
    ]
    (found,) = duplicates_between(training, validation)
    assert "p1/t1.nii.gz is used in training (case p1, train.cfg:1) and in validation (case v2, val.cfg:2)" in found
    assert duplicates_between(training, validation[:1]) == []


def test_subjects_come_from_a_listing_or_a_column(folder: Path) -> None:
    subjects = write(folder, "subjects", "anna", "anna")
    assert [case.subject for case in cases(config(folder, subjects=subjects))] == ["anna", "anna"]
    assert [case.subject for case in cases(config(folder))] == [None, None]
    table = folder / "lists" / "cases.csv"
    table.write_text("channel_t1,subject\n../data/p1/t1.nii.gz,anna\n../data/p2/t1.nii.gz,ben\n")
    assert [case.subject for case in cases(DataConfig(table=table))] == ["anna", "ben"]
    table.write_text("channel_t1,subject\n../data/p1/t1.nii.gz,anna\n../data/p2/t1.nii.gz,\n")
    (problem,) = refusals(DataConfig(table=table))
    assert f"{table}:3: found '-' as the subject of this case; give each case the name" in str(problem)


def test_cases_that_are_not_wanted_are_not_looked_at_but_keep_their_names_for_themselves(folder: Path) -> None:
    (folder / "data" / "p1" / "t1.nii.gz").unlink()
    write(folder, "roi", "../data/p1/roi.nii.gz", "../data/p2/roi.nii.gz")
    data = config(folder, roi_masks=folder / "lists" / "roi.cfg")
    problems, notes = ProblemList(), []
    (kept,) = read_cases(data, "training", problems, notes, keep={"p2"})
    assert (kept.name, kept.roi.listed_at) == ("p2", f"{folder / 'lists' / 'roi.cfg'}:2")
    assert (problems.problems, notes) == ([], [])
    assert "cannot be read" in str(refusals(data)[0])


def test_listed_cases_are_told_without_looking_at_their_files(folder: Path) -> None:
    (folder / "data" / "p1" / "t1.nii.gz").unlink()
    problems = ProblemList()
    assert [case.name for case in list_cases(config(folder), "training", problems)] == ["p1", "p2"]
    assert problems.problems == []
    write(folder, "labels", "../data/p1/labels.nii.gz")
    assert list_cases(config(folder), "training", problems) == []
    assert "differ in their number of cases" in str(problems.problems[0])
