"""One way to break the mechanism behind each invariant of the architecture.

The numbers are those of the 30 invariants that tests name ("Invariant 7" in a docstring, or
`test_29_` in a name). Each mutant is one replacement in one file of the package, and the test files
in which a test that names the number must then fail."""

from __future__ import annotations

from dataclasses import dataclass

ASSOCIATIVE = "hope_runtime/layers/associative.py"
CONTINUUM = "hope_runtime/layers/cms.py"
DELTA = "hope_runtime/layers/delta_rule.py"
TITANS = "hope_runtime/layers/titans.py"
READING = "hope_runtime/models/hope/reading.py"
GRADIENTS = "hope_runtime/models/hope/gradients.py"
TITANS_STATE = "hope_runtime/layers/titans_state.py"

TEST_ASSOCIATIVE = "tests/layers/test_associative.py"
TEST_CONTINUUM = "tests/layers/test_cms.py"
TEST_STREAM = "tests/models/hope/test_stream.py"
TEST_TITANS = "tests/layers/test_titans.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """`old` occurs once in `file`."""

    number: int
    what: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [
    Mutant(
        1,
        "the delta rule erases half of the old value",
        ASSOCIATIVE,
        "erase = eta * key_BHTK if step.erases else None",
        "erase = 0.5 * eta * key_BHTK if step.erases else None",
        TEST_ASSOCIATIVE,
    ),
    Mutant(
        2,
        "the literal rule takes the delta rule's objective",
        ASSOCIATIVE,
        'return "dot" if self.rule in ("delta", "hebbian") else "l2"',
        'return "dot" if self.rule != "gd" else "l2"',
        TEST_ASSOCIATIVE,
    ),
    Mutant(
        3,
        "a write forgets its step size",
        ASSOCIATIVE,
        "Writes(key_BHTK, eta * error, erase, step.decay_BHTT)",
        "Writes(key_BHTK, error, erase, step.decay_BHTT)",
        TEST_ASSOCIATIVE,
    ),
    Mutant(
        4,
        "the proximal step is a plain one",
        ASSOCIATIVE,
        "eta = eta / (1 + eta * hidden_BHNTF.square().sum(-1, keepdim=True))",
        "eta = eta / (1 + 0 * hidden_BHNTF.square().sum(-1, keepdim=True))",
        TEST_ASSOCIATIVE,
    ),
    Mutant(
        5,
        "linear memories have a skip",
        ASSOCIATIVE,
        "        return z_BHTK @ matrix.mT",
        "        out = z_BHTK @ matrix.mT\n        return out + z_BHTK.mean(-1, keepdim=True)",
        TEST_ASSOCIATIVE,
    ),
    Mutant(
        6,
        "deep memories have no skip",
        ASSOCIATIVE,
        "branch + z_BHTK[:, :, None] if self.skip else branch",
        "branch",
        TEST_ASSOCIATIVE,
    ),
    Mutant(
        7,
        "the triangular solve leaves the decays out",
        DELTA,
        "system = (erase @ key.mT) * before[..., 1:]",
        "system = (erase @ key.mT).tril(-1)",
        TEST_TITANS,
    ),
    Mutant(
        8,
        "the convolution looks one token ahead",
        TITANS,
        "joined[:, tap : tap + T]",
        "joined[:, tap + 2 : tap + 2 + T].roll(-1, 1)",
        TEST_TITANS,
    ),
    Mutant(
        9,
        "a token reads what it has just written",
        DELTA,
        "    if not after:\n        decay = _shift(decay)\n    return decay",
        "    return decay",
        TEST_TITANS,
    ),
    Mutant(
        10,
        "the norm of zero is divided by",
        TITANS,
        ".sum(-1, keepdim=True) + 1e-12)",
        ".sum(-1, keepdim=True))",
        TEST_TITANS,
    ),
    Mutant(
        11,
        "queries keep their static projection beside their memory",
        "hope_runtime/models/hope/weights.py",
        'q=static("q"),',
        'q=static("q") if static("q") is not None else torch.eye(D),',
        TEST_TITANS,
    ),
    Mutant(
        12,
        "all memories change with the chunk of the last one",
        TITANS_STATE,
        "(config.chunk_other,) * others",
        "(config.chunk_mem,) * others",
        TEST_TITANS,
    ),
    Mutant(
        13,
        "a segment ends one token after the boundary",
        READING,
        "missing = period - int(self.state.observed_B[row]) % period",
        "missing = period - int(self.state.observed_B[row]) % period + 1",
        TEST_CONTINUUM,
    ),
    Mutant(
        14,
        "the loss of a chunk is a mean",
        GRADIENTS,
        "loss = nats.masked_fill(~chosen, 0.0).sum()",
        "loss = nats.masked_fill(~chosen, 0.0).mean()",
        TEST_CONTINUUM,
    ),
    Mutant(
        15,
        "a rate of nought still moves a level",
        CONTINUUM,
        "alpha=learning_rate)",
        "alpha=max(learning_rate, 1e-3))",
        TEST_CONTINUUM,
    ),
    Mutant(
        16,
        "a level of frequency 0 is counted among those that learn",
        "hope_runtime/models/hope/config.py",
        "return tuple(i for i, level in enumerate(self.levels) if level.period_tokens)",
        "return tuple(range(len(self.levels)))",
        TEST_CONTINUUM,
    ),
    Mutant(
        17,
        "a nested level never begins again",
        CONTINUUM,
        "if state.theta is None or not bool(due_B.any()):\n        return state\n    if bool",
        "if True:\n        return state\n    if bool",
        TEST_CONTINUUM,
    ),
    Mutant(
        18,
        "independent levels read what the faster ones added",
        CONTINUUM,
        "total = total + weight * _mlp(x_BTD, level, theta, eps)",
        "total = total + weight * _mlp(total, level, theta, eps)",
        TEST_CONTINUUM,
    ),
    Mutant(
        19,
        "gradients are taken at theta_0, not at the weights of their time",
        GRADIENTS,
        "    weights = weights.detached()\n",
        "    weights = weights.detached()\n    thetas = tuple(None for _ in config.levels)\n",
        TEST_CONTINUUM,
    ),
    Mutant(
        20,
        "the convolution's tail is not carried",
        TITANS,
        "return mixed, joined[:, T:]",
        "return mixed, tail_BSD",
        TEST_STREAM,
    ),
    Mutant(
        21,
        "a window that was read under another memory is served",
        "hope_runtime/engine/window_reader.py",
        "if slot.levels_digest != digest:",
        "if not slot.tokens:",
        "tests/engine/test_window_reader.py",
    ),
    Mutant(
        22,
        "rows are mixed by a product instead of a choice",
        CONTINUUM,
        "return torch.where(keep_B.view(-1, *(1,) * (new.dim() - 1)), old, new)",
        "keep = keep_B.view(-1, *(1,) * (new.dim() - 1)).to(new.dtype)\n"
        "    return keep * old + (1 - keep) * new + 0 * new.mean()",
        TEST_STREAM,
    ),
    Mutant(
        23,
        "gradients are gathered in place",
        CONTINUUM,
        "tuple(a + b for a, b in zip(state.gathered, gradient, strict=True))",
        "tuple(a.add_(b) for a, b in zip(state.gathered, gradient, strict=True))",
        TEST_STREAM,
    ),
    Mutant(
        24,
        "a silent token makes the memory decay",
        TITANS,
        "eta, log_keep = eta.masked_fill(silent, 0.0), log_keep.masked_fill(silent, 0.0)",
        "eta = eta.masked_fill(silent, 0.0)",
        TEST_TITANS,
    ),
    Mutant(
        25,
        "tokens that are only read are counted",
        READING,
        "observed[row] += int(learnable_BT[row, seen[row] : length].sum())",
        "observed[row] += length - seen[row]",
        TEST_STREAM,
    ),
    Mutant(
        26,
        "a text shorter than a chunk is not kept for its boundary",
        READING,
        "segment = segment.with_tokens(ids, learnable, lengths_B)",
        "pass",
        "tests/models/hope/test_stream_limits.py",
    ),
    Mutant(
        27,
        "the window never lets a key go",
        "hope_runtime/models/hope/window.py",
        "most = min(int((filled_B + read_B).max()), size - 1)",
        "most = int((filled_B + read_B).max())",
        TEST_STREAM,
    ),
    Mutant(
        28,
        "rows of a memory have no bound",
        TITANS,
        "    return memory * factor",
        "    return memory + 0 * factor",
        TEST_TITANS,
    ),
    Mutant(
        29,
        "M3's slow direction changes at every step",
        "hope_runtime/optim/muon.py",
        "if int(count) > 1 and (int(count) - 1) % self.period == 0:",
        "if int(count) > 1:",
        "tests/optim/test_muon.py",
    ),
    Mutant(
        30,
        "a deep momentum is not read through Newton-Schulz",
        "hope_runtime/optim/deep_momentum.py",
        'if self.output == "newton_schulz":',
        'if self.output == "never":',
        "tests/optim/test_deep_momentum.py",
    ),
]
