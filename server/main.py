"""`hope serve`: the command line of the server, and the process that it starts."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence

from pydantic import ValidationError
from pydantic_settings import CliApp

from hope_runtime.checkpoints import load_model
from hope_runtime.checkpoints.chat_template_file import with_chat_template
from hope_runtime.device import Device
from hope_runtime.engine.torch_engine import adapter_bytes
from hope_runtime.errors import HopeError
from hope_runtime.layers.kernels.native import native_kernels
from hope_runtime.models.decoder.weights import BaseModel
from hope_runtime.models.hope.served import HopeModel
from server.app.status import describe_levels
from server.crypto.files import KeyFileError
from server.crypto.keys import MasterKeyError
from server.running import running_server, window_bytes
from server.settings import Settings
from server.store.base import StoreError
from server.telemetry.logs import configure


def _bytes(settings: Settings, model: BaseModel | HopeModel) -> str:
    """Bytes that serving takes at most, beside the working memory of a step."""
    weights = sum(tensor.nbytes for _, tensor in model.weights.named())
    parts = {"weights": weights}
    if isinstance(model, BaseModel):
        parts["windows"] = window_bytes(settings, model)
        parts["adapters"] = adapter_bytes(model, settings.memory_cache_bytes)
    return ", ".join(f"{name} {size / (1 << 20):,.0f} MiB" for name, size in parts.items())


def _kernels(model: BaseModel | HopeModel) -> str:
    """Name of what decodes on a CPU; nothing on other devices, and of models without the choice."""
    if model.device.type != "cpu" or not isinstance(model, BaseModel):
        return ""
    native = native_kernels(model.dtype)
    return "; decodes with compiled kernels" if native else "; decodes with torch alone"


async def serve(settings: Settings) -> None:
    """Serves until SIGTERM, SIGINT or an operator's Drain, then drains."""
    # vLLM, as it is installed here, decodes on the CPU.
    device = "cpu" if settings.engine == "vllm" and settings.device == "auto" else settings.device
    model = load_model(settings.model, dtype=settings.dtype, device=device, progress=_show_progress)
    if settings.chat_template is not None:
        model = with_chat_template(model, settings.chat_template)
    chosen = Device.of(model, settings.threads)
    sizes = _bytes(settings, model)
    print(f"computes on {chosen.describe()}{_kernels(model)}; {sizes}", file=sys.stderr)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running_server(settings, model, stop.set) as running:
        print(describe_levels(running.sessions), file=sys.stderr, flush=True)
        host = settings.address.rsplit(":", 1)[0]
        if running.admin_port is not None:
            admin_host = settings.admin_address.rsplit(":", 1)[0]
            print(f"operators: {admin_host}:{running.admin_port}", flush=True)
        print(f"hope-server listens on {host}:{running.port}", flush=True)
        if running.http is not None:
            place = f"{running.http.scheme}://{host}:{running.http.port}"
            print(f"HTTP (OpenAI-compatible): {place}/v1", flush=True)
            print(f"console: {place}/", flush=True)
        if running.metrics_port is not None:
            print(
                f"metrics: http://{settings.metrics_host}:{running.metrics_port}/metrics",
                flush=True,
            )
        await stop.wait()
        print("draining", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of `hope serve`. Returns the exit status; expected errors are one line."""
    configure("text")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        settings = CliApp.run(Settings, cli_args=arguments)
        configure(settings.log_format)
        asyncio.run(serve(settings))
    except ValidationError as error:
        for item in error.errors():
            where = "".join(f"{part}: " for part in item["loc"])
            print(f"hope serve: {where}{item['msg']}", file=sys.stderr)
        return 2
    except (HopeError, StoreError, KeyFileError, MasterKeyError, OSError) as error:
        print(f"hope serve: {error}", file=sys.stderr)
        return 1
    return 0


def _show_progress(fraction: float, text: str) -> None:
    print(f"{text}: {fraction:.0%}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
