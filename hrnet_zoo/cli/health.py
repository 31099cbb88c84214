"""Commands that tell how fast and how right things are here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import click

from hrnet_zoo.cli.options import as_json, leave, model_options, say, say_errors, say_json

if TYPE_CHECKING:
    from hrnet_zoo.evaluation.benchmark import Comparison, TableTiming, Timing
    from hrnet_zoo.evaluation.costs import Measurement
    from hrnet_zoo.evaluation.doctor import Report


def _size(_: click.Context, option: click.Parameter, text: str | None) -> tuple[int, int] | None:
    """Read HxW."""
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text or "", re.IGNORECASE)
    if text is not None and not match:
        raise click.BadParameter(f"{text!r} is no height x width, such as 512x1024", param=option)
    return (int(match[1]), int(match[2])) if match else None


@click.command()
@click.argument("name")
@click.option("--size", callback=_size, metavar="HxW", help="Of the images, in pixels; default: the dataset's.")
@click.option("--batch", type=click.IntRange(1), help="Images at once through the network; default: 1.")
@click.option("--table", is_flag=True, help="The published Mem and fps columns, and the same measured here.")
@click.option("--against", is_flag=True, help="Beside its fast forms: each engine and precision that works here.")
@click.option("--compile", "compiled", is_flag=True, help="With --against: torch.compile too, a minute of waiting.")
@model_options
@as_json
def benchmark(
    name: str,
    size: tuple[int, int] | None,
    batch: int | None,
    table: bool,
    against: bool,
    compiled: bool,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Measure speed and memory of the model NAME here.

    With random weights, on which neither depends: nothing is downloaded.
    """
    if table and (size or batch or dtype):
        raise click.UsageError(
            "--table has its own size, batch and dtype (float32): leave --size, --batch, --dtype out"
        )
    if against and (table or batch):
        raise click.UsageError("--against measures one image at a time: leave --table and --batch out")
    if compiled and not against:
        raise click.UsageError("--compile goes with --against")
    from hrnet_zoo.errors import raise_on_oom
    from hrnet_zoo.evaluation.benchmark import benchmark, benchmark_table, compare
    from hrnet_zoo.zoo.create import create_model

    timing: Timing | TableTiming | Comparison
    if table:
        timing = benchmark_table(name, device=device)
        lines = _table_lines(timing)
    else:
        with raise_on_oom(f"benchmark {name}"):
            model = create_model(name, pretrained=False, device=device, dtype=dtype)
        if against:
            timing = compare(model, size=size, compiled=compiled)
            lines = _comparison_lines(timing)
        else:
            timing = benchmark(model, size=size, batch=batch or 1)
            lines = _timing_lines(timing)
    facts = timing.to_dict()
    if as_json:
        say_json(facts)
        return
    machine = timing.machine
    say(
        f"{timing.model} with random weights, {machine.dtype} on {machine.device} ({machine.device_name}), "
        f"{machine.threads} CPU threads, torch {machine.torch}"
    )
    say(*lines, *(f"{figure}: {meaning}" for figure, meaning in facts["about"].items()))


def _timing_lines(timing: Timing) -> list[str]:
    size, fitted = f"{timing.height} x {timing.width}", "{} x {}".format(*timing.prediction_input)
    return [
        f"network     batch of {timing.batch} at {size}: {_cost(timing.network)}; "
        f"{timing.images_per_second:.3g} images/s",
        f"prediction  one image of {size}, at {fitted} in the network: {_cost(timing.prediction)}",
    ]


def _table_lines(timing: TableTiming) -> list[str]:
    image, fitted = "{} x {}".format(*timing.image), "{} x {}".format(*timing.network_input)
    windows = ", in windows" if timing.sliding_window else ""
    crop = "{} x {}".format(*timing.crop)
    return [
        f"{'':<14} {'published':>10} {'here':>10}   (published figures: {timing.published_of})",
        f"{'fps':<14} {timing.published_fps:>10} {timing.fps:>10.2f}   image of {image}, at {fitted} in the "
        f"network{windows}: {_cost(timing.inference)}",
        f"{'training, GB':<14} {timing.published_memory_gb:>10} {_gb(timing.training_memory):>10}   "
        f"{timing.batch_per_gpu} crops of {crop}",
    ]


def _comparison_lines(found: Comparison) -> list[str]:
    lines = [f"{'image of ' + f'{found.height} x {found.width}':<26} {'network':<28} prediction"]
    for each in found.variants:
        cells = [
            f"{1000 * cost.median:,.1f} ms {ratio:.2f}x {_gb(cost.peak_memory)} GB" if cost and ratio else "-"
            for cost, ratio in ((each.network, each.network_speedup), (each.prediction, each.prediction_speedup))
        ]
        lines.append(f"{each.name + ' ' + each.dtype:<26} {cells[0]:<28} {cells[1]}")
    return [*lines, *(f"skipped: {name}: {why}" for name, why in found.skipped.items())]


def _cost(cost: Measurement) -> str:
    times = [f"{1000 * each:,.1f}" for each in (cost.median, cost.minimum, cost.p10, cost.p90, cost.maximum)]
    return (
        "{} ms (min {}, p10 {}, p90 {}, max {}; {} runs), peak memory ".format(*times, cost.runs)
        + f"{_gb(cost.peak_memory)} GB"
    )


def _gb(number: int | None) -> str:
    return "?" if number is None else f"{number / 1e9:.2f}"


@click.command()
@click.argument("name", required=False)
@click.option("--network", is_flag=True, help="Also ask all hosts and mirrors for the files of all models, or of NAME.")
@model_options
@as_json
def doctor(name: str | None, network: bool, device: str | None, dtype: str | None, as_json: bool) -> None:
    """Check this machine, or what the model NAME computes on it.

    The weights are checked against their digest; the device and dtype against float32 on the CPU.

    The exit code is that of the first error.
    """
    from hrnet_zoo.evaluation.doctor import doctor

    report = doctor(name, device=device, dtype=dtype, network=network)
    if as_json:
        say_json(report.to_dict())
    else:
        _show(report)
    say_errors(report.errors)
    if report.errors:
        leave(report.errors[0].exit_code)


def _show(report: Report) -> None:
    """Print a report for people."""
    from hrnet_zoo.evaluation.doctor import FINE_PIXELS

    say("environment")
    for key, value in report.environment.items():
        if key != "busy":  # stands before the verdict
            _line(key.replace("_", " "), value)
    say("settings")
    for key, value in report.settings.items():
        _line(key, value)
    say("cache")
    for key, value in report.cache.items():
        _line(key.replace("_", " "), value)
    if report.network is not None:
        say("network")
        for each in report.network:
            state = {True: "ok", False: "FAILS", None: "off"}[each.reachable]
            say(f"  {state:<5} {each.model} {each.file}: {each.url}: {each.found}")
    if report.health is not None:
        say(report.health.model)
        _line("weights", f"SHA-256 {report.health.data_sha256}")
        for fidelity in filter(None, (report.health.fidelity, report.health.fast)):
            score = "not finite" if fidelity.worst_logit is None else f"{fidelity.worst_logit:.2g} of the largest"
            name = fidelity.device if fidelity.engine is None else f"fast: {fidelity.engine}"
            _line(
                f"{name} {fidelity.dtype}",
                f"{'fine' if fidelity.fine else 'NOT FINE'}: {fidelity.pixels:.3%} of a street scene's pixels agree "
                f"with float32 on the CPU (fine: from {FINE_PIXELS:.1%}); worst logit off by {score}",
            )
    if busy := report.environment.get("busy"):
        say(f"note: {busy}")
    if count := len(report.errors):
        verdict = f"NOT FINE: {count} {'error' if count == 1 else 'errors'}, each with what to do"
    elif report.health:
        verdict = f"fine: {report.health.model} computes what it should"
    else:
        verdict = "fine: nothing is wrong (to check what a model computes: hrnet-zoo doctor NAME)"
    say(f"verdict: {verdict}")


def _line(key: str, value: Any) -> None:  # noqa: ANN401 - whatever a report holds
    """Print one fact; lists and mappings in lines of their own."""
    if isinstance(value, list) and value:
        say(f"  {key}", *("    " + ", ".join(_fact(*fact) for fact in each.items()) for each in value))
    elif isinstance(value, dict) and value:
        lines = (f"    {name}: " + ", ".join(_fact(*fact) for fact in facts.items()) for name, facts in value.items())
        say(f"  {key}", *lines)
    elif key.endswith(" bytes") and value is not None:
        say(f"  {key.removesuffix(' bytes'):<20} {_readable(value)}")
    else:
        shown = ("yes" if value else "no") if isinstance(value, bool) else value
        say(f"  {key:<20} {'-' if value in (None, [], {}) else shown}")


def _fact(name: str, value: object) -> str:
    if isinstance(value, int) and name.endswith("bytes"):
        return f"{name.removesuffix('bytes').strip('_')} {_readable(value)}".strip()
    return f"{name} {value}"


def _readable(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
