"""Directions of the base's inputs that no level learns to read, found once for a base model.

Full steps on a few statements ruin everything else, because most of what an MLP reads is the same
whatever is said. The strongest directions of what its matrices read in the base's own text, in
everyday exchanges about the speaker and about strangers, in other languages and in code are taken
out of every step of a level's first factors. Kept in a file like the base's samples (kept.py).

Shape suffixes: L layers, D model width, F MLP width, K directions, N inputs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hope_runtime.learning.packing import WIDE_ROW_TOKENS, Example, in_batches, pack
from hope_runtime.learning.recipe import Work
from hope_runtime.learning.recipes.replay.null_space import CommonDirections, strongest
from hope_runtime.learning.workers import Workers
from hope_runtime.models.decoder.forward import forward
from hope_runtime.models.decoder.weights import BaseModel

# Inputs of each kind of text, about.
INPUTS_EACH = 600
# Inputs of a stretch's own contrasts: their number costs as its cube.
OWN_INPUTS = 320
# Of a matrix's inputs at most this share is taken away.
LARGEST_SHARE = 1 / 3
# Text that the base's own samples hold little of: other languages, and code.
FOREIGN = (
    "Der Zug nach Hamburg hat zwanzig Minuten Verspätung, deshalb trinken wir einen Kaffee.",
    "Kannst du mir bitte erklären, warum das Fenster nicht schließt? Ich habe es schon versucht.",
    "Le marché ouvre à sept heures et les pêcheurs vendent leurs poissons jusqu'à midi.",
    "Quand il pleut, nous restons à la maison et nous lisons des livres d'histoire.",
    "La biblioteca está cerrada los lunes, pero puedes devolver los libros en la entrada.",
    "Mi abuela preparaba una sopa de verduras que todos en el pueblo querían probar.",
    "O barco partiu cedo e ninguém sabia quando iria voltar ao porto.",
    "Il treno parte dal binario quattro alle nove e un quarto, non dimenticare il biglietto.",
    "De kinderen spelen in de tuin terwijl hun ouders het eten klaarmaken.",
    "Sommaren var kort men varm, och sjön låg stilla hela kvällen.",
    "W sobotę pojechaliśmy w góry, gdzie leżał jeszcze śnieg.",
    "Bugün hava çok güzel, akşam parkta yürüyüş yapabiliriz.",
    "def mean(values):\n    total = 0.0\n    for value in values:\n        total += value\n"
    "    return total / len(values)\n",
    "for (int i = 0; i < count; i++) {\n    if (items[i] == NULL) continue;\n"
    '    printf("%s\\n", items[i]->name);\n}\n',
    "import json\n\nwith open(path) as file:\n    data = json.load(file)\nprint(sorted(data))\n",
    "SELECT name, count(*) FROM orders WHERE year = 2020 GROUP BY name ORDER BY 2 DESC;\n",
    "class Stack:\n    def __init__(self):\n        self._items = []\n\n    def push(self, item):\n"
    "        self._items.append(item)\n",
    '<ul>\n  <li><a href="index.html">Home</a></li>\n  <li class="active">About</li>\n</ul>\n',
)


class Directions:
    """Finds and keeps the directions of one base model; `directory` None keeps nothing."""

    def __init__(self, model: BaseModel, workers: Workers, directory: Path | None) -> None:
        self._model = model
        self._workers = workers
        self._directory = directory
        self._found: dict[str, CommonDirections] = {}

    def of(
        self, texts: Sequence[Sequence[Example]], outer: int, inner: int
    ) -> Work[CommonDirections]:
        """The strongest directions, `outer` of what gate and up read and `inner` of what down
        reads, in kinds of `texts` that count alike. Strongest by the uncentred second moment."""
        asked = {
            "model": self._model.fingerprint,
            "dtype": str(self._model.dtype),
            "device": str(self._model.device),
            "torch": torch.__version__,
            "texts": [[[*each.prefix, *each.ids] for each in kind] for kind in texts],
            "directions": [outer, inner],
        }
        key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]
        if key not in self._found:
            file = self._directory / f"{key}.safetensors" if self._directory else None
            kept = self._read(file, outer, inner) if file else None
            if kept is None:
                kept = yield from self._find(texts, outer, inner)
                if file:
                    _store(file, kept)
            self._found[key] = kept
        return self._found[key]

    def with_own(
        self, general: CommonDirections, inputs: Sequence[tuple[Tensor, Tensor]], count: int
    ) -> Work[CommonDirections]:
        """`general` directions and, beside them, the `count` strongest of `inputs`, (N, D) and
        (N, F) of each of the last layers: what the stretch's own contrasts have in common. Layers
        below them get none."""
        if not inputs or not count:
            return general
        found: list[Tensor] = []
        for which, known_LKX in ((0, general.outer_LKD), (1, general.inner_LKF)):
            layers = [layer[which] for layer in inputs]
            chosen = torch.linspace(0, len(layers[0]) - 1, min(OWN_INPUTS, len(layers[0]))).long()
            beside = partial(_beside, chosen=chosen, count=count)
            lower = len(known_LKX) - len(layers)
            pairs = list(zip(layers, known_LKX[lower:].cpu().unbind(0), strict=True))
            upper_LKX = torch.stack(self._workers.map(beside, pairs)).to(self._model.device)
            more = upper_LKX.shape[1] - known_LKX.shape[1]
            lower_LKX = torch.nn.functional.pad(known_LKX[:lower], (0, 0, 0, more))
            found.append(torch.cat([lower_LKX, upper_LKX]))
            yield None
        return CommonDirections(*found)

    def _find(
        self, texts: Sequence[Sequence[Example]], outer: int, inner: int
    ) -> Work[CommonDirections]:
        kinds: list[list[tuple[Tensor, Tensor]]] = []
        for kind in texts:
            batches = in_batches(kind)
            each = -(-INPUTS_EACH // max(len(batches), 1))
            parts: list[list[tuple[Tensor, Tensor]]] = []
            for at in range(0, len(batches), 2):
                read = partial(self._inputs, count=each)
                parts += self._workers.map(read, batches[at : at + 2])
                yield None
            if parts:
                kinds.append(
                    [
                        (_alike([o for o, _ in layer]), _alike([i for _, i in layer]))
                        for layer in zip(*parts, strict=True)
                    ]
                )
        layers = list(zip(*kinds, strict=True))
        rows: list[Tensor] = []
        for which, count in ((0, outer), (1, inner)):
            found: list[Tensor] = []
            for at in range(0, len(layers), 2):
                read_NX = [torch.cat([k[which] for k in layer]) for layer in layers[at : at + 2]]
                most = min(count, int(read_NX[0].shape[1] * LARGEST_SHARE))
                found += self._workers.map(partial(strongest, count=most), read_NX)
                yield None
            rows.append(torch.stack(found).to(self._model.device))
        return CommonDirections(*rows)

    @torch.no_grad()
    def _inputs(self, examples: Sequence[Example], *, count: int) -> list[tuple[Tensor, Tensor]]:
        """Inputs of gate and up, and of down, at each layer, (N, D) and (N, F): at most `count`,
        evenly spread. Without a text's first token, whose activations outweigh all others."""
        packed = pack(examples, row_tokens=WIDE_ROW_TOKENS)
        used_N = (packed.positions_BT > 0).flatten().nonzero()[:, 0]
        chosen = torch.linspace(0, len(used_N) - 1, min(count, len(used_N))).long()
        used_N = used_N[chosen].to(self._model.device)
        found: list[tuple[Tensor, Tensor]] = []

        def seen(_: int, x_BTD: Tensor, h_BTF: Tensor) -> None:
            outer_ND, inner_NF = (
                read.flatten(0, 1)[used_N].float().cpu() for read in (x_BTD, h_BTF)
            )
            found.append((outer_ND, inner_NF))

        forward(
            self._model,
            packed.ids_BT.to(self._model.device),
            positions_BT=packed.positions_BT.to(self._model.device),
            mask_BTS=packed.mask_BTT.to(self._model.device),
            on_mlp=seen,
        )
        return found

    def _read(self, file: Path, outer: int, inner: int) -> CommonDirections | None:
        config = self._model.config
        try:
            found = load_file(file)
            outer_LKD, inner_LKF = found["outer"], found["inner"]
        except (OSError, SafetensorError, KeyError):
            return None
        for tensor, count, width in (
            (outer_LKD, outer, config.d_model),
            (inner_LKF, inner, config.d_ff),
        ):
            most = min(count, int(width * LARGEST_SHARE))
            shape = (config.n_layers, most, width)
            if tensor.shape != shape or tensor.dtype != torch.float32:
                return None
            if not bool(tensor.isfinite().all()):
                return None
        device = self._model.device
        return CommonDirections(outer_LKD.to(device), inner_LKF.to(device))


def _beside(pair: tuple[Tensor, Tensor], *, chosen: Tensor, count: int) -> Tensor:
    """Known orthonormal rows (K, X), and under them the strongest of what these inputs hold
    besides."""
    inputs_NX, known_KX = pair
    inputs_NX = inputs_NX[chosen]
    rest_NX = inputs_NX - (inputs_NX @ known_KX.mT) @ known_KX
    most = min(count, int(inputs_NX.shape[1] * LARGEST_SHARE) - known_KX.shape[0], len(chosen))
    return torch.cat([known_KX, strongest(rest_NX, count=most)]) if most > 0 else known_KX


def _alike(parts: Sequence[Tensor]) -> Tensor:
    """Inputs of one kind (N, X), scaled so that all kinds have the same energy."""
    inputs_NX = torch.cat(list(parts))
    scaled_NX: Tensor = inputs_NX / inputs_NX.norm().clamp(min=1e-30)
    return scaled_NX


def _store(file: Path, found: CommonDirections) -> None:
    building = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError, SafetensorError):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"outer": found.outer_LKD.cpu(), "inner": found.inner_LKF.cpu()}, building)
            building.replace(file)
        finally:
            building.unlink(missing_ok=True)
