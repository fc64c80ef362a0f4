"""Messages between the server and the process of vLLM: frozen dataclasses over one socket.

A request is one run of tokens through vLLM; a turn is one or several of them. Numbers of requests,
turns and adapters are never used twice, in no process. Both ends are the same program on one
machine, and the socket is theirs alone, so messages travel pickled.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hope_runtime.engine.sampling import Sampling, TokenLogprobs
from hope_runtime.models.fast_memory.weights import FastMemoryConfig

FAST = "fast"


@dataclass(frozen=True, slots=True)
class Options:
    """Options of the process: the first message that it reads."""

    model: str
    dtype: str
    window_tokens: int
    # Turns that run at a time, and so memories that are ready at a time.
    rows: int
    rank: int
    kv_bytes: int
    # What a low-rank term of rank 1 looks like: layers, width, MLP width.
    layers: int
    d_model: int
    d_ff: int
    vocab_size: int
    # The trained fast memory beside the model, if one is served: its configuration, and its
    # weights as safetensors.
    fast_memory: tuple[FastMemoryConfig, bytes] | None = None


# From the server.


@dataclass(frozen=True, slots=True)
class Put:
    """Make a memory the adapter number `adapter`; `tensors` are safetensors of its LoraAdapter and
    of its fast memory, (H, V, K) under FAST. Either may be missing."""

    adapter: int
    tensors: bytes


@dataclass(frozen=True, slots=True)
class Drop:
    """No request will name the adapter any more."""

    adapter: int


@dataclass(frozen=True, slots=True)
class Begin:
    """Read `tokens` with an adapter, 0 for the frozen base, and write at most `max_tokens` more.

    Blocks of keys and values are shared by requests of one `salt` and adapter and by no others.
    `reply` is what the turn wrote in earlier requests. `score` are ascending indices of tokens
    whose log-probability is wanted; with `afresh` none is left out because its keys and values were
    there already.
    """

    request: int
    turn: int
    adapter: int
    salt: str
    tokens: tuple[int, ...]
    max_tokens: int
    stop_ids: tuple[int, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)
    reply: tuple[int, ...] = ()
    score: tuple[int, ...] = ()
    afresh: bool = False


@dataclass(frozen=True, slots=True)
class Abort:
    """End a request early; it is told when it has ended."""

    request: int


@dataclass(frozen=True, slots=True)
class Forget:
    """The turn has ended, and what was kept to choose its tokens goes."""

    turn: int


# From the process.


@dataclass(frozen=True, slots=True)
class Ready:
    """It serves, and has shown that rows do not reach each other."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """It will not serve; the process ends."""

    reason: str


@dataclass(frozen=True, slots=True)
class Piece:
    """Result of one step of a request.

    `logprobs` are there when they were asked for, one a token. `scores` come with the first tokens:
    one log-probability, nats, for each index of `Begin.score`, None where keys and values were
    there already. After `ended` nothing comes of the request; `failure` says why it could not be
    done.
    """

    request: int
    tokens: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    scores: tuple[float | None, ...] | None = None
    ended: bool = False
    failure: str | None = None


@dataclass(frozen=True, slots=True)
class Stepped:
    """One step was made; also the sign of life that the watchdog looks for."""

    pieces: tuple[Piece, ...]


ToProcess = Put | Drop | Begin | Abort | Forget
FromProcess = Ready | Refused | Stepped
