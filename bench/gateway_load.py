"""How many escalations a second the gateway takes, against a bare grpc.aio echo with the same TLS.

Three questions, each measured side by side in rounds that take turns:

1. throughput, gateway against echo; p50 and p99 at half that load
2. a thousand connected nodes
3. one hostile node that floods: what the others notice
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path

from gateway_fleet import (
    Badge,
    Load,
    Plan,
    cpu_seconds,
    echo_process,
    enroll_nodes,
    gateway_process,
    memory_mb,
    percentile,
    play,
    prepare_state,
    run_load,
    write_config,
)


def throughput(folder: Path, rounds: int, seconds: float, processes: int) -> dict[str, object]:
    config = write_config(folder)
    prepare_state(config)
    badges = enroll_nodes(config, 24)
    rates: dict[str, list[float]] = {"echo": [], "gateway": []}
    costs: dict[str, list[float]] = {"echo": [], "gateway": []}
    with echo_process(config) as echo, gateway_process(config) as gateway:
        for _ in range(rounds):
            for name, (pid, address) in (("echo", echo), ("gateway", gateway)):
                before = cpu_seconds(pid)
                load = run_load(address, badges, Plan(seconds, depth=6), processes)
                used = cpu_seconds(pid) - before
                done = len(load.latencies)
                rates[name].append(done / load.seconds)
                costs[name].append(used / (done * (seconds + 1.0) / seconds) * 1e6)
        half = statistics.median(rates["gateway"]) / 2
        paced = [
            run_load(gateway[1], badges, Plan(seconds * 2, rate=half), processes)
            for _ in range(rounds)
        ]
    p50 = [percentile(load.latencies, 0.5) * 1e3 for load in paced]
    p99 = [percentile(load.latencies, 0.99) * 1e3 for load in paced]
    ratios = [g / e for g, e in zip(rates["gateway"], rates["echo"], strict=True)]
    return {
        "echo_per_s": statistics.median(rates["echo"]),
        "gateway_per_s": statistics.median(rates["gateway"]),
        "ratio": statistics.median(ratios),
        "echo_cpu_us": statistics.median(costs["echo"]),
        "gateway_cpu_us": statistics.median(costs["gateway"]),
        "half_load_per_s": half,
        "half_load_p50_ms": statistics.median(p50),
        "half_load_p99_ms": statistics.median(p99),
        "p99_over_p50": statistics.median(b / a for a, b in zip(p50, p99, strict=True)),
        "failures": _failures(paced),
    }


def many_nodes(folder: Path, nodes: int, seconds: float, processes: int) -> dict[str, object]:
    config = write_config(folder)
    prepare_state(config)
    badges = enroll_nodes(config, nodes)
    with gateway_process(config) as (pid, address):
        empty = memory_mb(pid)
        load = run_load(address, badges, Plan(seconds, rate=200.0, warm_s=2.0), processes)
        full = memory_mb(pid)
    return {
        "nodes": nodes,
        "answered": len(load.latencies),
        "failures": load.failures,
        "p50_ms": percentile(load.latencies, 0.5) * 1e3,
        "p99_ms": percentile(load.latencies, 0.99) * 1e3,
        "kb_per_node": (full - empty) * 1024 / nodes,
    }


QUOTAS = "{requests_per_s: 50, bytes_per_s: 1000000, teacher_calls_per_s: 50, burst_s: 2}"
FLOODS = {
    "patient": {"depth": 200},
    # Gives each call up after 20 ms and sends the next one: late refusals cost it nothing.
    "impatient": {"depth": 64, "timeout_s": 0.02},
}


def hostile(folder: Path, rounds: int, seconds: float) -> dict[str, object]:
    """What honest nodes notice of a flood, beside the same flood at another gateway.

    Flooding node and honest nodes run on the cores of the gateways, where real ones would not: the
    flood elsewhere shows what that alone costs.
    """
    (here, honest), (there, _) = (_guarded(folder / name) for name in ("here", "there"))
    villains = {at: enroll_nodes(at, 1)[0] for at in (here, there)}
    calm: list[Load] = []
    seen: dict[str, list[Load]] = {}
    floods: dict[str, list[Load]] = {}
    with gateway_process(here) as (pid, address), gateway_process(there) as (_, elsewhere):
        plan = Plan(seconds, rate=100.0)
        for _ in range(rounds):
            calm.append(run_load(address, honest, plan, 1))
            for kind, how in FLOODS.items():
                for place, target, badge in (
                    ("elsewhere", elsewhere, villains[there]),
                    ("here", address, villains[here]),
                ):
                    flood = Plan(seconds + 4.0, warm_s=0.0, **how)  # type: ignore[arg-type]
                    attacked, flooded = _under(flood, target, badge, (address, honest, plan))
                    seen.setdefault(f"{kind}_{place}", []).append(attacked)
                    floods.setdefault(f"{kind}_{place}", []).append(flooded)
        memory = memory_mb(pid)
    return _noticed(calm, seen, floods) | {"gateway_mb": memory}


def _guarded(folder: Path) -> tuple[Path, list[Badge]]:
    """A gateway's configuration with quotas, and its honest nodes."""
    folder.mkdir()
    config = write_config(folder, quotas=QUOTAS)
    prepare_state(config)
    return config, enroll_nodes(config, 21)[1:]


def _under(
    flood: Plan, target: str, badge: Badge, honest: tuple[str, list[Badge], Plan]
) -> tuple[Load, Load]:
    """What honest nodes see while the flood goes on, and what the flood saw."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        flooding = pool.apply_async(play, (target, [badge], flood))
        time.sleep(1.5)
        attacked = run_load(*honest, 1)
        return attacked, flooding.get()


def _noticed(
    calm: list[Load], seen: dict[str, list[Load]], floods: dict[str, list[Load]]
) -> dict[str, object]:
    found: dict[str, object] = {"calm_p99_ms": _median_p99(calm)}
    for name, loads in seen.items():
        found[f"{name}_p99_ms"] = _median_p99(loads)
        found[f"{name}_over_calm"] = _median_ratio(loads, calm)
        found[f"{name}_honest_failures"] = _failures(loads)
        calls = [(len(f.latencies) + sum(f.failures.values())) / f.seconds for f in floods[name]]
        found[f"{name}_flood_calls_per_s"] = statistics.median(calls)
        found[f"{name}_flood_served_per_s"] = statistics.median(
            len(f.latencies) / f.seconds for f in floods[name]
        )
    for kind in FLOODS:
        found[f"{kind}_here_over_elsewhere"] = _median_ratio(
            seen[f"{kind}_here"], seen[f"{kind}_elsewhere"]
        )
    return found


def _median_ratio(loads: list[Load], base: list[Load]) -> float:
    return statistics.median(
        percentile(b.latencies, 0.99) / percentile(a.latencies, 0.99)
        for a, b in zip(base, loads, strict=True)
    )


def _failures(loads: list[Load]) -> dict[str, int]:
    total = Load()
    for load in loads:
        total.add(load)
    return total.failures


def _median_p99(loads: list[Load]) -> float:
    return statistics.median(percentile(load.latencies, 0.99) for load in loads) * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="longer rounds, 1,000 nodes")
    parser.add_argument("--only", choices=["throughput", "nodes", "hostile"])
    parser.add_argument("--processes", type=int, default=2, help="load processes")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    rounds, seconds, nodes = (5, 10.0, 1000) if options.full else (3, 4.0, 200)
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="gateway-") as name:
        questions = {
            "throughput": lambda at: throughput(at, rounds, seconds, options.processes),
            "nodes": lambda at: many_nodes(at, nodes, seconds * 2, options.processes),
            "hostile": lambda at: hostile(at, rounds, seconds),
        }
        for question, measure in questions.items():
            if options.only in (None, question):
                folder = Path(name) / question
                folder.mkdir()
                found[question] = measure(folder)
    _print(found)
    if options.out:
        options.out.write_text(json.dumps(found, indent=1))


def _print(found: dict[str, object]) -> None:
    print("| question | figure | value |\n|---|---|---|")
    for question, figures in found.items():
        assert isinstance(figures, dict)
        for name, value in figures.items():
            shown = f"{value:.4g}" if isinstance(value, float) else value
            print(f"| {question} | {name} | {shown} |")


if __name__ == "__main__":
    main()
