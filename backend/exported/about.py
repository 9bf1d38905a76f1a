"""What an exported net says of itself: texts by name, for the metadata of every format."""
import dataclasses
import json
from typing import Optional, Tuple

from engine.data.class_names import SYNSETS
from engine.data.dataset import Known, Preprocessing
from engine.experiment import DATASETS, LABEL_MODES, SIDE, one_of
from support import json_files
from support.errors import InputError
from support.json_files import LINES, NOTHING, NUMBER, OBJECT, SOME, TEXT

FORMAT = "attention-as-activation 1"
SHAPE = {"model": TEXT, "arguments": OBJECT, "dataset": one_of(*DATASETS), "class_names": [LINES],
         "label_mode": (NOTHING, one_of(*LABEL_MODES)),
         "preprocessing": {"size": SIDE, "shorter": SIDE, "resize": TEXT, "mean": [NUMBER], "std": [NUMBER]}}

PLAIN = ("model", "dataset", "label_mode")  # all else is JSON


@dataclasses.dataclass(frozen=True)
class About:
    """The net, the data that it was trained on, and how a picture becomes its input.

    arguments : all keyword arguments of get_model. class_names : by output; the net may have more outputs.
    """

    model: str
    arguments: dict
    dataset: str
    label_mode: Optional[str]
    class_names: Tuple[str, ...]
    preprocessing: Preprocessing

    @classmethod
    def of(cls, subject):
        """Of a Subject (engine.cli.subject)."""
        data = subject.data
        return cls(subject.model, subject.arguments, data.name, data.label_mode, tuple(subject.class_names),
                   data.preprocessing)

    def as_texts(self):
        """{name: text}; what is no text is JSON, and without what is None."""
        fields = {"format": FORMAT, **dataclasses.asdict(self)}
        return {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()
                if value is not None}

    @classmethod
    def from_texts(cls, texts, path):
        """Back from `as_texts`. Raises InputError for the texts of another program, or damaged ones."""
        if texts.get("format") != FORMAT:
            raise InputError(f"{path} was not written by scripts/export.sh: it does not say which net it holds and "
                             "which pictures that takes; use it with the program that wrote it")
        texts = {"label_mode": None, **texts}
        try:
            fields = {name: texts[name] if name in PLAIN else json_files.loads(texts[name]) for name in SHAPE}
        except KeyError as error:
            wrong = f"it has no {error}"
        except ValueError as error:
            wrong = str(error)
        else:
            wrong = json_files.problem(fields, SHAPE) or json_files.problem(fields["arguments"], {"classes": SOME},
                                                                            "arguments")
        if wrong:
            raise InputError(f"{path}: its description cannot be used: {wrong}; export it again")
        settings = {name: tuple(value) if isinstance(value, list) else value
                    for name, value in fields["preprocessing"].items()}
        return cls(**{**fields, "class_names": tuple(fields["class_names"]),
                      "preprocessing": Preprocessing(**settings)})

    @property
    def known(self):
        """The Known of the net: ImageNet's classes by their WordNet ids, as its data have them."""
        names = self.class_names
        if self.dataset == "imagenet":
            ids = set(SYNSETS)
            names = tuple(name.partition(" ")[0] if name.partition(" ")[0] in ids else name for name in names)
        size, shorter = self.preprocessing.size, self.preprocessing.shorter
        return Known(self.model, self.arguments, self.dataset, self.label_mode, names, size, size / shorter)
