"""Which image is which channel of a model: images named on the command line, and files in folders of cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from deepmedic.data.cases import Case, ImageRef, image_ref
from deepmedic.data.output_names import without_extension
from deepmedic.errors import CommandLineError, DataError, ProblemList
from deepmedic.words import channels_by_number, counted

_MISSING = "-"
_NAMED = re.compile(r"(?P<name>[^=]+)=(?P<image>.+)", re.DOTALL)
_MOST_LISTED = 12
_IMAGES = (".nii", ".nii.gz")


@dataclass(frozen=True)
class Channels:
    """The channels that a model wants."""

    count: int
    names: tuple[str, ...] | None

    def in_words(self) -> str:
        if self.names is None:
            return f"{counted(self.count, 'channel')} without names"
        return f"the channel{'s' * (self.count != 1)} {', '.join(self.names)}"

    def example(self) -> str:
        names = self.names or ("",) * self.count
        files = (f"{re.sub(r'[^A-Za-z0-9]+', '_', name).lower()}.nii.gz" for name in names)
        return " ".join(f"{name}={file}" if name else "scan.nii.gz" for name, file in zip(names, files, strict=True))

    def described(self, case: Case) -> str:
        """What was taken for what, for the user to see."""
        names = self.names or channels_by_number(self.count)
        images = [*zip(names, case.channels, strict=True), *([("ROI", case.roi)] if case.roi else [])]
        return ", ".join(f"{name} = {ref.path.name if ref else _MISSING}" for name, ref in images)

    def contradictions(self, case: Case) -> list[str]:
        """Notes of images that are given as one channel and have the name of another one in their file's name."""
        notes = []
        for name, ref in zip(self.names or (), case.channels, strict=False):
            meant = (
                []
                if ref is None
                else [other for other, files in _matched([ref.path], self.names or ()).items() if files]
            )
            if ref is not None and meant and name not in meant:
                notes.append(
                    f"{case.name}: {ref.path.name} is given as {name}, and its name says {' and '.join(meant)}: check "
                    "which image is which."
                )
        return notes


def named_case(words: Sequence[str], roi: str | None, channels: Channels) -> Case:
    """The case whose images are given one by one: NAME=file where the model knows names, else files in its order.

    `-` stands for a missing channel.

    Raises:
        CommandLineError: names that the model does not know, that are missing or given twice, or too many or few files.
    """
    texts = _by_name(words, channels) if channels.names is not None else _in_order(words, channels)
    if all(text == _MISSING for text in texts):
        raise CommandLineError("-images: all channels are missing (-); at least one image is needed.")
    refs = tuple(None if text == _MISSING else _image(text) for text in texts)
    name = without_extension(next(ref.path.name for ref in refs if ref is not None))
    return Case(name, refs, roi=None if roi is None else _image(roi, "-roi"))


def cases_in(folder: Path, roi: str | None, channels: Channels) -> list[Case]:
    """The cases in a folder: one subfolder each, whose files are matched to channels by their names.

    A file is a channel's if the channel's name is among the words of its name (`sub1_T1.nii.gz` is T1), whatever the
    case of letters; where no file has it as a word, if it contains the name (`sub1_T1w.nii.gz`) and is no other
    channel's. A longer name goes first: `sub1_T1c.nii.gz` is T1c, not T1, and what is the mask is no channel. Exactly
    one file must be left for each.

    Args:
        folder: the folder.
        roi: what the names of masks contain, matched likewise; None: there are none.
        channels: of the model. Without names, there may be one channel only, and one image in each subfolder.

    Raises:
        CommandLineError: the folder or the model is not of that kind.
        DataError: files are missing or ambiguous; all cases are listed. A link leads nowhere.
    """
    if channels.names is None and channels.count > 1:
        raise CommandLineError(
            f"-images {folder}: the model has {channels.in_words()}, so files in a folder cannot be told apart; give "
            "the images of one case in the order of training."
        )
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    lost = [path.name for path in entries if not path.exists()]
    if lost:
        raise DataError(
            f"{folder}: {', '.join(lost[:_MOST_LISTED])}: {'a link' if len(lost) == 1 else f'{len(lost)} links'} to "
            "what does not exist, so a case may be missing. Correct or remove it, or mount the disk it is on."
        )
    subfolders = [path for path in entries if path.is_dir()]
    if not subfolders:
        raise CommandLineError(
            f"-images {folder}: there is no folder in it; a folder of cases has one subfolder per case."
        )
    problems = ProblemList()
    cases = []
    for subfolder in subfolders:
        with problems.gather():
            cases.append(_case_in(subfolder, roi, channels))
    problems.raise_if_any()
    return cases


def images_beside_cases(folder: Path) -> list[str]:
    """Say which images lie in a folder of cases but in none of its subfolders, so that they are not segmented."""
    loose = sorted(path.name for path in folder.iterdir() if not path.name.startswith(".") and _is_image(path))
    if not loose:
        return []
    more = f" and {len(loose) - _MOST_LISTED} more" if len(loose) > _MOST_LISTED else ""
    return [
        f"{folder}: left out, since they belong to no case: {', '.join(loose[:_MOST_LISTED])}{more}. Each subfolder is "
        "a case; to segment them too, give each a folder of its own, or name it with -images."
    ]


def _is_image(path: Path) -> bool:
    return path.name.lower().endswith(_IMAGES) and path.is_file()


def _by_name(words: Sequence[str], channels: Channels) -> list[str]:
    assert channels.names is not None
    advice = f"The model has {channels.in_words()}; give -images {channels.example()}, or - for a missing image."
    given: dict[str, str] = {}
    for word in words:
        named = _NAMED.fullmatch(word)
        if named is None:
            raise CommandLineError(f"-images {word}: which channel is this? {advice}")
        if named["name"] in given:
            raise CommandLineError(f"-images: {named['name']} is given twice. {advice}")
        given[named["name"]] = named["image"]
    unknown = [name for name in given if name not in channels.names]
    absent = [name for name in channels.names if name not in given]
    if unknown or absent:
        found = [f"there is no channel {', '.join(unknown)}"] if unknown else []
        found += [f"nothing is given for {', '.join(absent)}"] if absent else []
        raise CommandLineError(f"-images: {' and '.join(found)}. {advice}")
    return [given[name] for name in channels.names]


def _in_order(words: Sequence[str], channels: Channels) -> list[str]:
    named = next((word for word in words if _NAMED.fullmatch(word) and not Path(word).exists()), None)
    if named is not None:
        raise CommandLineError(
            f"-images {named}: the model has {channels.in_words()}; give the images in the order of training: "
            f"-images {channels.example()}"
        )
    if len(words) != channels.count:
        raise CommandLineError(
            f"-images: {len(words)} {'is' if len(words) == 1 else 'are'} given, the model has {channels.in_words()}."
        )
    return list(words)


def _image(text: str, option: str = "-images") -> ImageRef:
    return image_ref(text, Path.cwd(), option)


def _case_in(folder: Path, roi: str | None, channels: Channels) -> Case:
    files = sorted(path for path in folder.iterdir() if path.name.lower().endswith(_IMAGES))
    mask = None if roi is None else _only(folder, roi, _matched(files, [roi])[roi], files)
    images = [path for path in files if mask is None or path != mask.path]
    names = channels.names or ("",)
    matched = _matched(images, names)
    refs = tuple(_only(folder, name, matched[name], files) for name in names)
    return Case(folder.name, refs, roi=mask, output_name=folder.name)


def _matched(files: Sequence[Path], names: Sequence[str]) -> dict[str, list[Path]]:
    """The files that each name may mean; "" means every file."""

    def having(test: Callable[[Path, str], bool], among: Sequence[Path]) -> dict[str, list[Path]]:
        """For each name, the files that have it, unless they have a longer name of which it is a part."""
        return {
            name: [
                path
                for path in among
                if test(path, name) and not any(test(path, longer) for longer in names if _is_part(name, longer))
            ]
            for name in names
        }

    by_word = having(_has_word, files)
    claimed = {path for found in by_word.values() for path in found}
    contained = having(_contains, [path for path in files if path not in claimed])
    return {name: by_word[name] or contained[name] for name in names}


def _is_part(name: str, longer: str) -> bool:
    return name != longer and name.lower() in longer.lower()


def _contains(path: Path, name: str) -> bool:
    return name.lower() in path.name.lower()


def _has_word(path: Path, name: str) -> bool:
    """Whether the words of a channel's name are among those of a file's name, one after the other."""
    words, wanted = _words(without_extension(path.name)), _words(name)
    starts = range(len(words) - len(wanted) + 1)
    return bool(wanted) and any(words[start : start + len(wanted)] == wanted for start in starts)


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())


def _only(folder: Path, name: str, found: Sequence[Path], files: Sequence[Path]) -> ImageRef:
    if len(found) == 1:
        return ImageRef(found[0].absolute(), listed_at=str(folder))
    what = f"for {name}" if name else "that can be the image"
    listing = ", ".join(path.name for path in files[:_MOST_LISTED]) or "no images"
    if not found:
        raise DataError(
            f"{folder}: there is no file {what}; a name with {name or 'the ending .nii.gz'} is needed, found {listing}."
        )
    raise DataError(
        f"{folder}: {len(found)} files {what}: {', '.join(path.name for path in found)}; only one may have that in its "
        "name. Rename the others, or give the images of each case by -images NAME=file."
    )
