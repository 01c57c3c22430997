"""The five services: convert, call, convert. Errors become statuses in the layers around them."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections.abc import AsyncIterator, Callable, Container, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import cast

import grpc

from understudy.cloud.enrolment import Enrolment
from understudy.cloud.gateway.answering import Answering, Asking
from understudy.cloud.gateway.caller import current_caller
from understudy.cloud.gateway.checks import RecordRules
from understudy.cloud.gateway.faults import NoSuchYetError
from understudy.cloud.gateway.ports import Adviser, Context, Fleet, Observer, Releases
from understudy.cloud.gateway.writer import LogWriter
from understudy.cloud.log import NewRow
from understudy.types.convert import (
    directive_to_wire,
    label_to_wire,
    record_from_wire,
    status_from_wire,
)
from understudy.types.errors import BundleError, InvalidValueError, LinkError, UnderstudyError
from understudy.types.records import EscalationRecord
from understudy.wire.v1 import (
    artifact_pb2,
    artifact_pb2_grpc,
    enrollment_pb2,
    enrollment_pb2_grpc,
    feedback_pb2,
    feedback_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    inference_pb2,
    inference_pb2_grpc,
    records_pb2,
)

_CHUNK_BYTES = 64 << 10
_MAX_CHUNK_BYTES = 1 << 20
# TUF's clients ask for one root after the other, until there is none.
_NEXT_ROOT = re.compile(r"[1-9][0-9]*\.root\.json")

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Intake:
    """Wire records to checked nouns, for both services that take them."""

    rules: RecordRules
    max_records: int
    observer: Observer
    now: Clock = time.time

    def take(self, message: records_pb2.EscalationRecord) -> EscalationRecord:
        """The record, with the node its certificate names.

        Raises:
            InvalidValueError: Says what the node must change.
        """
        record = record_from_wire(message, node=current_caller().node)
        self.rules.check(record, self.now())
        return record

    def check_count(self, records: Sequence[object]) -> None:
        """Passes if a message does not hold too many records.

        Raises:
            InvalidValueError: If it does.
        """
        if len(records) > self.max_records:
            raise InvalidValueError(f"send at most {self.max_records} records in one message")


class InferenceFace(inference_pb2_grpc.InferenceServiceServicer):
    """Asks the teacher."""

    def __init__(
        self, intake: Intake, answering: Answering, trace: Callable[[], str] = lambda: ""
    ) -> None:
        """Takes `trace` to name the span in progress, where there are spans."""
        self._intake = intake
        self._answering = answering
        self._trace = trace

    async def Predict(  # noqa: N802 - the wire's name
        self, request: inference_pb2.PredictRequest, context: Context
    ) -> inference_pb2.PredictResponse:
        record = self._intake.take(request.record)
        answered = await self._answering.answer(record, self._asking(context))
        return inference_pb2.PredictResponse(
            label=label_to_wire(answered.label), cached=answered.cached
        )

    async def PredictBatch(  # noqa: N802 - the wire's name
        self, request: inference_pb2.PredictBatchRequest, context: Context
    ) -> inference_pb2.PredictBatchResponse:
        self._intake.check_count(request.records)
        asking = self._asking(context)
        outcomes = await asyncio.gather(*(self._outcome(m, asking) for m in request.records))
        return inference_pb2.PredictBatchResponse(outcomes=outcomes)

    async def _outcome(
        self, message: records_pb2.EscalationRecord, asking: Asking
    ) -> inference_pb2.PredictOutcome:
        try:
            answered = await self._answering.answer(self._intake.take(message), asking)
        except UnderstudyError as error:
            self._intake.observer.refused(error)
            return inference_pb2.PredictOutcome(error=str(error))
        return inference_pb2.PredictOutcome(label=label_to_wire(answered.label))

    def _asking(self, context: Context) -> Asking:
        # Without a deadline it is None, whatever grpc's types say.
        left_s = cast("float | None", context.time_remaining())
        return Asking(math.inf if left_s is None else left_s, self._trace())


class FeedbackFace(feedback_pb2_grpc.FeedbackServiceServicer):
    """Takes what nodes kept while the cloud was away; a receipt means: durable."""

    def __init__(self, intake: Intake, writer: LogWriter) -> None:
        self._intake = intake
        self._writer = writer

    async def ReportEscalations(  # noqa: N802 - the wire's name
        self,
        request: feedback_pb2.ReportEscalationsRequest,
        context: Context,  # noqa: ARG002 - the generated signature
    ) -> feedback_pb2.ReportEscalationsResponse:
        self._intake.check_count(request.records)
        receipts: list[feedback_pb2.RecordReceipt] = []
        taken: list[NewRow] = []
        for message in request.records:
            receipt = _receipt(message.event_id, feedback_pb2.RECORD_OUTCOME_STORED)
            try:
                taken.append(NewRow(self._intake.take(message)))
            except InvalidValueError as error:
                self._intake.observer.refused(error)
                receipt.outcome = feedback_pb2.RECORD_OUTCOME_REFUSED
                receipt.message = str(error)
            receipts.append(receipt)
        await self._store(taken, receipts)
        return feedback_pb2.ReportEscalationsResponse(receipts=receipts)

    async def _store(
        self, taken: Sequence[NewRow], receipts: Sequence[feedback_pb2.RecordReceipt]
    ) -> None:
        try:
            await self._writer.append(taken)
            self._intake.observer.took([row.record for row in taken], "feedback")
        except LinkError as error:
            self._intake.observer.refused(error)
            for receipt in receipts:
                if receipt.outcome == feedback_pb2.RECORD_OUTCOME_STORED:
                    receipt.outcome = feedback_pb2.RECORD_OUTCOME_RETRY
                    receipt.message = str(error)


class ArtifactFace(artifact_pb2_grpc.ArtifactServiceServicer):
    """Hands out weights and the metadata that signs them; needs no teacher and no log."""

    def __init__(self, releases: Releases) -> None:
        self._releases = releases

    async def GetMetadata(  # noqa: N802 - the wire's name
        self,
        request: artifact_pb2.GetMetadataRequest,
        context: Context,  # noqa: ARG002 - the generated signature
    ) -> artifact_pb2.GetMetadataResponse:
        try:
            data = await asyncio.to_thread(self._releases.metadata, request.name)
        except BundleError as error:
            if not _NEXT_ROOT.fullmatch(request.name):
                raise
            raise NoSuchYetError(str(error)) from error
        return artifact_pb2.GetMetadataResponse(data=data)

    async def ReadBlob(  # noqa: N802 - the wire's name
        self, request: artifact_pb2.ReadBlobRequest, context: Context
    ) -> AsyncIterator[artifact_pb2.ReadBlobResponse]:
        blob, size = await asyncio.to_thread(self._releases.open_blob, request.sha256)
        with closing(blob):
            if request.offset > size:
                await context.abort(
                    grpc.StatusCode.OUT_OF_RANGE,
                    f"the file ends at {size} bytes; begin at or before its end",
                )
            chunk = min(request.chunk_bytes or _CHUNK_BYTES, _MAX_CHUNK_BYTES)
            offset = blob.seek(request.offset)
            while True:
                data = await asyncio.to_thread(blob.read, chunk)
                yield artifact_pb2.ReadBlobResponse(offset=offset, data=data, total_size=size)
                offset += len(data)
                if offset >= size or not data:
                    return


class FleetFace(fleet_pb2_grpc.FleetServiceServicer):
    """Hears how nodes are and says what to do."""

    def __init__(
        self,
        fleet: Fleet,
        adviser: Adviser,
        observer: Observer,
        *,
        tasks: Container[str],
        check_in_s: float,
        now: Clock = time.time,
    ) -> None:
        self._fleet = fleet
        self._adviser = adviser
        self._observer = observer
        self._tasks = tasks
        self._check_in_s = check_in_s
        self._now = now

    async def CheckIn(  # noqa: N802 - the wire's name
        self,
        request: fleet_pb2.CheckInRequest,
        context: Context,  # noqa: ARG002 - the generated signature
    ) -> fleet_pb2.CheckInResponse:
        node, status = current_caller().node, status_from_wire(request.status)
        if status.task not in self._tasks:
            raise InvalidValueError(f"task '{status.task[:64]}' is unknown to this cloud")
        self._observer.checked_in(status.task, status)
        directive = await asyncio.to_thread(self._fleet.check_in, node, status, self._now())
        advised = self._adviser.advise(directive, status)
        soon = min(advised.next_check_in_s, self._check_in_s)
        return fleet_pb2.CheckInResponse(
            directive=directive_to_wire(replace(advised, next_check_in_s=soon))
        )


class EnrollmentFace(enrollment_pb2_grpc.EnrollmentServiceServicer):
    """Gives nodes their certificates."""

    def __init__(self, enrolment: Enrolment, releases: Releases) -> None:
        self._enrolment = enrolment
        self._releases = releases

    async def Enroll(  # noqa: N802 - the wire's name
        self,
        request: enrollment_pb2.EnrollRequest,
        context: Context,  # noqa: ARG002 - the generated signature
    ) -> enrollment_pb2.EnrollResponse:
        # The root first: without it the token would be spent for nothing.
        root = await asyncio.to_thread(self._releases.trusted_root)
        node, certificate = await asyncio.to_thread(
            self._enrolment.enroll, request.token, request.certificate_request
        )
        return enrollment_pb2.EnrollResponse(
            certificate=certificate,
            ca_certificate=self._enrolment.ca_certificate,
            node=node,
            trusted_root=root,
        )

    async def RenewCertificate(  # noqa: N802 - the wire's name
        self,
        request: enrollment_pb2.RenewCertificateRequest,
        context: Context,  # noqa: ARG002 - the generated signature
    ) -> enrollment_pb2.RenewCertificateResponse:
        certificate = await asyncio.to_thread(
            self._enrolment.renew, current_caller(), request.certificate_request
        )
        return enrollment_pb2.RenewCertificateResponse(
            certificate=certificate, ca_certificate=self._enrolment.ca_certificate
        )


def _receipt(
    event_id: str, outcome: feedback_pb2.RecordOutcome.ValueType
) -> feedback_pb2.RecordReceipt:
    return feedback_pb2.RecordReceipt(event_id=event_id, outcome=outcome)
