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
from dataclasses import dataclass
from pathlib import Path

from gateway_fleet import (
    Badge,
    Calm,
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


@dataclass(frozen=True)
class Pair:
    """One round of the same load on both servers, one after the other.

    Attributes:
        rates: Calls a second, by server.
        costs: Processor time a call, microseconds, by server.
    """

    rates: dict[str, float]
    costs: dict[str, float]


def throughput(
    folder: Path, rounds: int, seconds: float, processes: int, calm: Calm
) -> dict[str, object]:
    config = write_config(folder)
    prepare_state(config)
    badges = enroll_nodes(config, 24)
    with echo_process(config) as echo, gateway_process(config) as gateway:
        servers, pids = {"echo": echo, "gateway": gateway}, (echo[0], gateway[0])
        pairs = calm.rounds(
            rounds, pids, lambda: _pair(servers, badges, Plan(seconds, depth=6), processes)
        )
        half = statistics.median(pair.rates["gateway"] for pair in pairs) / 2
        paced = calm.rounds(
            2 * rounds,
            pids,
            lambda: {
                name: run_load(address, badges, Plan(seconds, rate=half), processes)
                for name, (_, address) in servers.items()
            },
        )
    tails = [_tail([one[name] for one in paced], f"half_load_{name}") for name in servers]
    return _compared(pairs) | {"half_load_per_s": half} | tails[0] | tails[1]


def _pair(
    servers: dict[str, tuple[int, str]], badges: list[Badge], plan: Plan, processes: int
) -> Pair:
    pair = Pair({}, {})
    for name, (pid, address) in servers.items():
        before = cpu_seconds(pid)
        load = run_load(address, badges, plan, processes)
        used, done = cpu_seconds(pid) - before, len(load.latencies)
        pair.rates[name] = done / load.seconds
        calls = done * (plan.seconds + plan.warm_s) / plan.seconds
        pair.costs[name] = used / calls * 1e6
    return pair


def _compared(pairs: list[Pair]) -> dict[str, object]:
    ratios = [pair.rates["gateway"] / pair.rates["echo"] for pair in pairs]
    return {
        "rounds": len(pairs),
        "echo_per_s": statistics.median(pair.rates["echo"] for pair in pairs),
        "gateway_per_s": statistics.median(pair.rates["gateway"] for pair in pairs),
        "ratio": statistics.median(ratios),
        "ratio_lowest": min(ratios),
        "echo_cpu_us": statistics.median(pair.costs["echo"] for pair in pairs),
        "gateway_cpu_us": statistics.median(pair.costs["gateway"] for pair in pairs),
    }


def _tail(paced: list[Load], what: str) -> dict[str, object]:
    p50 = [percentile(load.latencies, 0.5) * 1e3 for load in paced]
    p99 = [percentile(load.latencies, 0.99) * 1e3 for load in paced]
    ratios = [b / a for a, b in zip(p50, p99, strict=True)]
    return {
        f"{what}_rounds": len(paced),
        f"{what}_p50_ms": statistics.median(p50),
        f"{what}_p99_ms": statistics.median(p99),
        f"{what}_p99_over_p50": statistics.median(ratios),
        f"{what}_p99_over_p50_each": " ".join(f"{one:.1f}" for one in ratios),
        f"{what}_failures": _failures(paced),
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


def hostile(folder: Path, rounds: int, seconds: float, calm_only: Calm) -> dict[str, object]:
    """What honest nodes notice of a flood, beside the same flood at another gateway.

    Flooding node and honest nodes run on the cores of the gateways, where real ones would not: the
    flood elsewhere shows what that alone costs.
    """
    (here, honest), (there, _) = (_guarded(folder / name) for name in ("here", "there"))
    villains = {at: enroll_nodes(at, 1)[0] for at in (here, there)}
    with gateway_process(here) as (pid, address), gateway_process(there) as (other, elsewhere):
        asked = (address, honest, Plan(seconds, rate=100.0))

        def once() -> dict[str, tuple[Load, Load]]:
            seen = {"calm": (run_load(*asked, 1), Load())}
            for kind, how in FLOODS.items():
                flood = Plan(seconds + 4.0, warm_s=0.0, **how)  # type: ignore[arg-type]
                seen[f"{kind}_elsewhere"] = _under(flood, elsewhere, villains[there], asked)
                seen[f"{kind}_here"] = _under(flood, address, villains[here], asked)
            return seen

        found = calm_only.rounds(rounds, (pid, other), once)
    return _noticed(found)


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


def _noticed(rounds: list[dict[str, tuple[Load, Load]]]) -> dict[str, object]:
    seen = {name: [one[name][0] for one in rounds] for name in rounds[0]}
    found: dict[str, object] = {"rounds": len(rounds), "calm_p99_ms": _median_p99(seen["calm"])}
    for kind in FLOODS:
        for name in (f"{kind}_elsewhere", f"{kind}_here"):
            floods = [one[name][1] for one in rounds]
            calls = [(len(f.latencies) + sum(f.failures.values())) / f.seconds for f in floods]
            found[f"{name}_p99_ms"] = _median_p99(seen[name])
            found[f"{name}_over_calm"] = _median_ratio(seen[name], seen["calm"])
            found[f"{name}_honest_failures"] = _failures(seen[name])
            found[f"{name}_flood_calls_per_s"] = statistics.median(calls)
        here, elsewhere = seen[f"{kind}_here"], seen[f"{kind}_elsewhere"]
        found[f"{kind}_here_over_elsewhere"] = _median_ratio(here, elsewhere)
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
    parser.add_argument(
        "--calm",
        type=float,
        default=1.0,
        help="count only rounds in which others used at most this share of the processors",
    )
    parser.add_argument("--patience", type=float, default=600.0, help="seconds to wait for those")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    options = parser.parse_args()
    rounds, seconds, nodes = (5, 10.0, 1000) if options.full else (3, 4.0, 200)
    calm = Calm(options.calm, options.patience)
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="gateway-") as name:
        questions = {
            "throughput": lambda at: throughput(at, rounds, seconds, options.processes, calm),
            "nodes": lambda at: many_nodes(at, nodes, seconds * 2, options.processes),
            "hostile": lambda at: hostile(at, rounds, seconds, calm),
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
