"""Errors of the runtime.

A message says in one sentence what is wrong with the value it names, and what to do where there
is a remedy. It begins in lower case and has no full stop, as Python's own do.

HopeError
+- ModelError                    the base model cannot be used
|  +- ModelNotFoundError         no such file or directory
|  +- UnsupportedModelError      an architecture or quantisation that is not known
|  +- CorruptModelError          truncated, or a tensor is missing or misshapen
|  +- TokenizerMissingError
+- StateError                    a stored state cannot be used
|  +- CorruptStateError          bytes that are not what was stored
|  +- FingerprintMismatchError   it was learnt on another base model
|  +- StateVersionError          a format newer than this code
|  +- UnsupportedMemoryError     this engine cannot serve it
|  +- DivergedStateError         learning would have left numbers that cannot be used; has `rows`
+- InvalidRequestError           what the caller asked for makes no sense; has `field`
|  +- WindowOverflowError        longer than the window holds
+- NotFiniteError                a pass of the model computed what is no number
+- EngineLostError               the process that computes was lost; another one starts
+- CancelledTurnError            the turn was cancelled before its commit
"""


class HopeError(Exception):
    """Base of all errors that this package raises on purpose."""


class ModelError(HopeError):
    """The base model cannot be used."""


class ModelNotFoundError(ModelError):
    """There is no such file or directory."""


class UnsupportedModelError(ModelError):
    """The architecture or the quantisation is not known."""


class CorruptModelError(ModelError):
    """The file is truncated, or a tensor is missing or has the wrong shape."""


class TokenizerMissingError(ModelError):
    """The checkpoint holds no tokenizer."""


class StateError(HopeError):
    """A stored state cannot be used."""


class CorruptStateError(StateError):
    """The bytes are not what was stored."""


class FingerprintMismatchError(StateError):
    """The state was learnt on another base model."""


class StateVersionError(StateError):
    """The state was written in a format that this code does not know."""


class UnsupportedMemoryError(StateError):
    """This engine cannot serve such a memory; another one can."""


class DivergedStateError(StateError):
    """Learning would have left a memory that is not finite or beyond every bound.

    `rows` are the places in the batch; the state that was given is unchanged.
    """

    def __init__(self, message: str, *, rows: tuple[int, ...]) -> None:
        super().__init__(message)
        self.rows = rows


class InvalidRequestError(HopeError):
    """The request is invalid.

    `field` names the offending field of the request, as the API spells it.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class WindowOverflowError(InvalidRequestError):
    """The text is longer than the window holds."""


class OptimiserError(HopeError):
    """An update rule cannot do what was asked. Parameters and state are as they were."""


class UnknownRuleError(OptimiserError):
    """There is no update rule of that name."""


class HyperparameterError(OptimiserError, ValueError):
    """A hyper-parameter of an update rule is unknown or out of its range."""


class GradientError(OptimiserError):
    """A gradient, or a layer's input, is missing, misshapen or not finite."""


class NotFiniteError(HopeError):
    """A pass of the model computed what is no finite number; nothing of it was kept."""


class EngineLostError(HopeError):
    """The process that computes was lost, and another one starts. The turn left no trace."""


class CancelledTurnError(HopeError):
    """The turn was cancelled before its commit; it left no trace."""


class TrainingDivergedError(HopeError):
    """The outer loop's loss or gradient is not finite; nothing that was stored has changed.

    `step` counts from 1.
    """

    def __init__(self, message: str, *, step: int) -> None:
        super().__init__(message)
        self.step = step
