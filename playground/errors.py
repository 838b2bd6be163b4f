"""Every error that the playground raises on purpose. Messages are written for the user.

PlaygroundError
├── InvalidInput          a value typed, uploaded or passed is not usable (CLI exit code 2)
│   ├── InvalidParams     a method's parameter is out of range or unknown
│   ├── TaskError         a task file is wrong; names the line and the column
│   └── DocumentError     a document cannot be read
├── ModelUnavailable      the model cannot be had here; says what can
├── RunNotFound           no run with that id
├── QueueError            the queue cannot do that now
├── StoreError            the results store cannot be opened or written
├── AdapterError          a saved adapter is corrupt, foreign or incomplete
├── HubError              the Hugging Face Hub cannot be reached, or refuses
└── RunFailed             a run ended without a result; the reason is the message
    ├── OutOfMemory       too little memory; says what to lower
    └── TrainingDiverged  the loss became NaN or infinite; says at which step
"""


class PlaygroundError(Exception):
    """Base of all errors with a message that can be shown as it stands."""


class InvalidInput(PlaygroundError):
    """A value that a person gave cannot be used.

    Args:
        message: what is wrong and what would be right.
        field: name of the form field or option, where there is one.
    """

    def __init__(self, message: str, field: str | None = None):
        super().__init__(message)
        self.field = field


class InvalidParams(InvalidInput):
    """A method's parameter is out of range, of the wrong type or unknown."""


class TaskError(InvalidInput):
    """A task file cannot be used; names the line and the column.

    Args:
        message: what is wrong.
        line: 1-based line of the file.
        column: name of the column.
    """

    def __init__(self, message: str, line: int | None = None, column: str | None = None):
        place = ", ".join(
            part
            for part in (
                f"line {line}" if line is not None else "",
                f"column “{column}”" if column is not None else "",
            )
            if part
        )
        super().__init__(f"{place[0].upper()}{place[1:]}: {message}" if place else message)
        self.line = line
        self.column = column


class DocumentError(InvalidInput):
    """A document cannot be read as text."""


class ModelUnavailable(PlaygroundError):
    """The model cannot be had here; the message says which ones can."""


class RunNotFound(PlaygroundError):
    """There is no run with that id."""


class QueueError(PlaygroundError):
    """The queue cannot do what was asked in its present state."""


class StoreError(PlaygroundError):
    """The results store cannot be opened or written."""


class AdapterError(PlaygroundError):
    """A saved adapter is corrupt, foreign or incomplete."""


class HubError(PlaygroundError):
    """The Hugging Face Hub cannot be reached, or refuses what was asked."""


class RunFailed(PlaygroundError):
    """A run ended without a result."""


class OutOfMemory(RunFailed):
    """The device had too little memory; the message says what to lower."""


class TrainingDiverged(RunFailed):
    """The loss became NaN or infinite; the message says at which step."""
