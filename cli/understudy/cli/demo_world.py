"""The demo's world: cloud, edge and night as processes, and how they are asked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import msgspec

from understudy.cli.demo_setup import TASK, Places, understudy_command
from understudy.cli.output import Progress
from understudy.cli.processes import TERM_GRACE_S, Child
from understudy.cli.report import NightLine
from understudy.cli.rows import Row
from understudy.cli.stream import WorldState
from understudy.types.answer import Answer
from understudy.types.errors import ConfigError, TeacherError
from understudy.types.records import LoggedRow

NODE = "demo-edge"
START_S, NIGHT_S, SWAP_S, SETTLE_S = 180.0, 600.0, 60.0, 60.0
NIGHT_PAUSE_S = 0.1


class EdgeProcess:
    """The product with its embedded client, asked by lines of JSON."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def ask(self, text: str, *, private: bool = False) -> Answer:
        """One `predict`; a private one never leaves the edge."""
        command = {"ask": text, "private": private}
        return msgspec.convert(self._call(command)["answer"], Answer)

    def flush(self, seconds: float) -> bool:
        """Waits until the spool is empty; False if it was not in time."""
        return bool(self._call({"flush": seconds})["flushed"])

    def status(self) -> dict[str, Any]:
        """What the client says of itself, and the process's resident memory."""
        return self._call({"status": True})

    def _call(self, command: dict[str, Any]) -> dict[str, Any]:
        try:
            self._child.input.write(json.dumps(command).encode() + b"\n")
            self._child.input.flush()
            line = self._child.output.readline()
        except OSError as error:
            raise ConfigError(f"the edge process is gone: {self._child.last_words()}") from error
        if not line:
            raise ConfigError(f"the edge process ended: {self._child.last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer


class DemoWorld:
    """Implements `World` with processes; a context manager that ends them all."""

    def __init__(self, places: Places, said: Mapping[str, str], audit_rate: float) -> None:
        self._places, self._said, self._audit_rate = places, said, audit_rate
        self._stack = ExitStack()
        self._edge: EdgeProcess | None = None
        self._cloud: Child | None = None
        self._logged_after = 0
        self._night_requests = self._night_failures = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    @property
    def edge(self) -> EdgeProcess:
        """The running edge."""
        if self._edge is None:
            raise ConfigError("the demo's edge was not started")
        return self._edge

    def start(self, bar: Progress) -> None:
        """Starts the cloud, enrols the node, starts the edge."""
        places = self._places
        bar.say("starting the cloud: Ray Serve, teacher, gateway")
        self.start_cloud()
        bar.advance()
        bar.say("enrolling the edge node")
        invitation = str(places.root / "invitation.json")
        self._run("invite", "node", "invite", NODE, "-c", str(places.cloud_yaml), "-o", invitation)
        self._run("enroll", "node", "enroll", invitation, "-o", str(places.node))
        bar.advance()
        bar.say("starting the product with its embedded client")
        self._write_edge_yaml()
        self._edge = EdgeProcess(self._edge_child())
        self._edge.status()
        bar.advance()

    def start_cloud(self) -> None:
        """Starts the cloud process and waits until it serves."""
        places = self._places
        words = ("cloud", "up", "-c", str(places.cloud_yaml), "--with-parent")
        self._cloud = self._child("cloud", *words)
        state = places.root / "cloud" / "cloud.json"
        self._cloud.wait_until(state.exists, what="the cloud", timeout_s=START_S)

    def kill_cloud(self) -> None:
        """SIGKILL to the cloud and all it started: a fault to be tried, not a way to stop."""
        if self._cloud is not None:
            self._cloud.kill()

    def state(self) -> WorldState:
        """What the client says is in force."""
        status = self.edge.status()["status"]
        threshold = status["threshold"]
        return WorldState(
            threshold=float("inf") if threshold is None else threshold,
            certified=status["certified"],
            bundle=status["bundle"],
        )

    def ask(self, row: Row) -> Answer:
        return self.edge.ask(row.text)

    def settle(self) -> None:
        """Waits until spooled records are in the log and audits have their labels."""
        self.edge.flush(SETTLE_S)
        give_up = time.monotonic() + SETTLE_S
        with self._open_log() as log:
            while log.unlabelled(1) and time.monotonic() < give_up:
                time.sleep(0.1)

    def logged(self) -> Mapping[str, LoggedRow]:
        """Rows of the log since the last call."""
        with self._open_log() as log:
            rows = list(log.scan(self._logged_after))
        self._logged_after = max((row.sequence for row in rows), default=self._logged_after)
        return {row.record.event_id: row for row in rows}

    def shadow(self, rows: Sequence[Row]) -> Sequence[str]:
        return [self._said.get(row.text, "") for row in rows]

    def night(self, day: int) -> NightLine | None:
        """Runs the night as its own process, then waits for the client to take what it shipped."""
        before = self.edge.status()["status"]["bundle"]
        begun = time.monotonic()
        result = self._run_night(day)
        seconds = time.monotonic() - begun
        shipped = 0
        if result["bundle"] != before:
            self._await_swap(result["bundle"])
            shipped = self._changed_bytes(before, result["bundle"])
        return NightLine(
            day=day,
            verdict=result["verdict"],
            reason=result["reason"],
            bundle=result["bundle"],
            seconds=seconds,
            rows=result["rows"].get("train", 0),
            bytes_shipped=shipped,
            teacher_calls=result["teacher_calls"],
        )

    def test_accuracy(self) -> float | None:
        return None

    def facts(self) -> tuple[tuple[str, str], ...]:
        """What the demo saw of its own machinery."""
        return (
            ("requests while students were taught, shipped and swapped", str(self._night_requests)),
            ("of these, without an answer", str(self._night_failures)),
            ("memory of the edge process", f"{self.edge.status()['rss_mb']:.0f} MB"),
        )

    def _changed_bytes(self, before: str, after: str) -> int:
        """Bytes of the files that differ: unchanged ones never travel again."""
        from understudy.distill_loop.refresh import shipped_bytes

        bundles = self._places.root / "cloud" / "nights" / "bundles"
        return shipped_bytes(bundles / before, bundles / after)

    def _await_swap(self, bundle: str) -> None:
        """Keeps asking until the new student answers."""
        give_up = time.monotonic() + SWAP_S
        while self.edge.status()["status"]["bundle"] != bundle:
            if time.monotonic() > give_up:
                raise TeacherError(f"the client did not take bundle {bundle[:12]} in {SWAP_S:g} s")
            self._ask_by_night()

    def _ask_by_night(self) -> None:
        """The product goes on at night; what it asks now stays on the edge and teaches nothing."""
        texts = list(self._said)
        answer = self.edge.ask(texts[self._night_requests % len(texts)], private=True)
        self._night_requests += 1
        self._night_failures += not answer.label
        time.sleep(NIGHT_PAUSE_S)

    def _run_night(self, day: int) -> dict[str, Any]:
        places, output = self._places, self._places.log(f"night-{day}-result")
        words = ("distill", "run", "-c", str(places.recipe_yaml), "--date", f"day-{day}", "--json")
        with Child(
            understudy_command(*words),
            log=places.log(f"night-{day}"),
            environment=places.environment,
            pipe_output=True,
        ) as child:
            give_up = time.monotonic() + NIGHT_S
            while child.alive() and time.monotonic() < give_up:
                self._ask_by_night()
            said = child.output.read() if not child.alive() else b""
            code = child.wait(TERM_GRACE_S)
        if code != 0:
            raise ConfigError(f"the night after day {day} failed: {child.last_words()}")
        output.write_bytes(said)
        result: dict[str, Any] = json.loads(said)
        return result

    def _child(self, name: str, *words: str) -> Child:
        child = Child(
            understudy_command(*words),
            log=self._places.log(name),
            environment=self._places.environment,
        )
        return self._stack.enter_context(child)

    def _edge_child(self) -> Child:
        module = [understudy_command()[0], "-m", "understudy.cli.edge_worker"]
        child = Child(
            [*module, str(self._places.node / "edge.yaml")],
            log=self._places.log("edge"),
            environment=self._places.environment,
            pipe_output=True,
        )
        return self._stack.enter_context(child)

    def _run(self, name: str, *words: str) -> None:
        child = self._child(name, *words)
        if child.wait(START_S) != 0:
            raise ConfigError(f"`understudy {' '.join(words[:2])}` failed: {child.last_words()}")

    def _write_edge_yaml(self) -> None:
        """The file that enrolment wrote, and what a demo adds to it."""
        import yaml

        path = self._places.node / "edge.yaml"
        fields = yaml.safe_load(path.read_text("utf-8"))
        fields |= {
            "bundle": str(self._places.first_student),
            "task": TASK,
            "deadline_ms": 5000.0,
            "audit": {"rate": self._audit_rate},
        }
        fields["updater"] = {
            **fields.get("updater", {}),
            "check_interval_s": 1.0,
            "probation_requests": 50,
            "probation_s": 1.0,
        }
        path.write_text(yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")

    def _open_log(self) -> Any:  # noqa: ANN401 - closing() of the log
        from contextlib import closing

        from understudy.cloud.config import load_config
        from understudy.cloud.parts import open_log

        return closing(open_log(load_config(self._places.cloud_yaml)))
