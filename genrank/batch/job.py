"""One batch job: its files, what they are bound to, and the loop from rows to written answers."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from genrank.batch.dialects import Dialect, key
from genrank.batch.ledger import Ledger
from genrank.batch.outputs import LinesOutput, Output, ParquetOutput
from genrank.batch.pace import Pace
from genrank.batch.sources import Place, Row, Source
from genrank.batch.workers import Outcome, Stopping, Workers, failure
from genrank.engines.base import Closing
from genrank.errors import ConfigError, EngineError, InputError
from genrank.files import write_atomically

BATCH = 16
"""Queries that are ranked at once by default."""

_FORMAT = 1
_HOPELESS = 3  # batches in which the engine failed every row; then the job ends


class Job(Closing):
    """A job, with its output locked until `close`. It goes on where an earlier run of the same job was stopped.

    Beside the output OUT lie ``OUT.batch.json``, what it is bound to, and ``OUT.failed.jsonl``, the rows without an
    answer, each with its reason. A row is done when its answer stands in OUT, and for no other reason.

    Args:
        source: The rows.
        out: A file of JSON Lines; or, where the name ends with ``.parquet``, a folder of Parquet parts.
        dialect: The rows' and answers' format.
        identity: What the answers depend on, by name; see `genrank.batch.settings.Settings.identity`.
        overwrite: Begin again: an earlier output is removed.
        retry_failed: Try the failed rows again.

    Attributes:
        notes: What the user should know, in words.

    Raises:
        InputError: When OUT cannot be written, is not of a job, or another process writes it.
        ConfigError: When OUT is bound to something else; names it.
        DataFormatError: When OUT holds a line that no job has written.
        MissingExtraError: When OUT is Parquet, and pyarrow is not installed.
    """

    def __init__(
        self,
        source: Source,
        out: str | Path,
        dialect: Dialect,
        identity: Mapping[str, str],
        *,
        overwrite: bool = False,
        retry_failed: bool = False,
    ) -> None:
        self.out = Path(out)
        self.notes: list[str] = []
        self._source = source
        self._dialect = dialect
        self._bound = self._beside(".batch.json")
        self._failed = self._beside(".failed.jsonl")
        self._closing = contextlib.ExitStack()
        self._duplicates: list[Outcome] = []
        self._hopeless = 0
        try:
            self._open(identity, overwrite=overwrite, retry_failed=retry_failed)
        except BaseException:
            self._closing.close()
            raise

    def _open(self, identity: Mapping[str, str], *, overwrite: bool, retry_failed: bool) -> None:
        self._check_place()
        self._lock()
        self._closing.callback(self._drop_empty)
        if overwrite:
            self._remove()
        digest = self._source.digest()
        changed = self._check_bound(identity, digest)
        self._output: Output = (
            ParquetOutput(self.out, self._dialect.key_of)
            if self.out.suffix == ".parquet"
            else LinesOutput(self.out, self._dialect.key_of)
        )
        self._closing.callback(self._output.close)
        self._failures = self._closing.enter_context(LinesOutput(self._failed, self._failed_key))
        self._ledger = self._closing.enter_context(Ledger(self._hidden("ids")))
        for done in self._output.recover():
            if not self._ledger.add_done(done):
                raise ConfigError(f"{self.out} holds the answer to {_said(done)} twice; begin again with --overwrite")
            if changed and done.startswith("row:"):
                raise ConfigError(
                    f"the input has changed since {self.out} was begun, and rows without an id are known by their "
                    "place; give them ids, name another OUT, or begin again with --overwrite"
                )
        if changed:
            self.notes.append("the input has changed: rows whose ids were answered before keep their answers")
        if changed or retry_failed:
            self._failures.clear()
        for failed in self._failures.recover():
            self._ledger.add_done(failed)
        self._bind(identity, digest)

    def run(
        self,
        workers: Workers,
        *,
        batch: int = BATCH,
        report: Callable[[Pace], object] = lambda _: None,
        stop: Stopping | None = None,
    ) -> Pace:
        """Rank every row that has no answer yet.

        Args:
            workers: Ranks.
            batch: Queries that are ranked at once.
            report: Told the counts after each batch.
            stop: Asked to stop, the job ends early; `Pace.rows` then falls short of the rows there are.

        Raises:
            DataFormatError: When the input cannot be read.
            EngineError: When the engine fails batch after batch.
            OSError: When an answer cannot be written.
        """
        stop = stop or Stopping()
        pace = Pace(self._source.count())
        with contextlib.closing(workers.rank(self._chunks(batch, pace), stop)) as ranked:
            for outcomes in ranked:
                self._write(outcomes, pace)
                report(pace)
                self._check_hope(outcomes)
        self._write((), pace)
        if not stop.asked:
            self._output.finish()
        return pace

    def close(self) -> None:
        """Close the files, and let other processes write them."""
        self._closing.close()

    def _drop_empty(self) -> None:
        """Remove the file of failed rows when there are none."""
        with contextlib.suppress(OSError):
            if not self._failed.stat().st_size:
                self._failed.unlink()

    def _chunks(self, batch: int, pace: Pace) -> Iterator[list[Row]]:
        rows = self._todo(pace)
        while chunk := list(itertools.islice(rows, batch)):
            yield chunk

    def _todo(self, pace: Pace) -> Iterator[Row]:
        """The rows that are to be ranked in this run."""
        for row in self._source.rows():
            row_id = self._dialect.row_id(row)
            state = self._ledger.see(key(row_id, row.label))
            if state == "done":
                pace.add(resumed=1)
            elif self._ledger.is_done(_failed(row_id, row.label)):
                pace.add(failed=1)
            elif state == "again":
                reason = f"the id {row_id!r} is already that of an earlier row; give each its own"
                self._duplicates.append(failure(self._dialect, row, reason))
            else:
                yield row

    def _write(self, outcomes: Sequence[Outcome], pace: Pace) -> None:
        """Write outcomes; an answer that came twice, as from a worker that was killed, is written once."""
        answers = [one.line for one in outcomes if not one.failed and self._ledger.add_done(one.key)]
        duplicates, self._duplicates = self._duplicates, []
        failures = [one.line for one in (*outcomes, *duplicates) if one.failed]
        failures = [line for line in failures if self._ledger.add_done(self._failed_key(line) or "")]
        self._output.append(answers)
        self._failures.append(failures)
        pace.add(ranked=len(answers), failed=len(failures))

    def _check_hope(self, outcomes: Sequence[Outcome]) -> None:
        """End the job when the engine fails whatever it is given."""
        failed = bool(outcomes) and all(one.engine_failed for one in outcomes)
        self._hopeless = self._hopeless + 1 if failed else 0
        if self._hopeless == _HOPELESS:
            raise EngineError(
                f"the engine failed on every row of {_HOPELESS} batches, at last with: {outcomes[-1].line['reason']}. "
                "Repair it, then run the command again with --retry-failed"
            )

    def _failed_key(self, line: Mapping[str, Any]) -> str | None:
        found = line.get("row")
        row_id = self._dialect.row_id(Row(Place(0, 0), "", line))
        return _failed(row_id, found) if isinstance(found, str) and "reason" in line else None

    def _beside(self, suffix: str) -> Path:
        return self.out.with_name(self.out.name + suffix)

    def _hidden(self, suffix: str) -> Path:
        return self.out.with_name(f".{self.out.name}.{suffix}")

    def _check_place(self) -> None:
        if not self.out.name:
            raise InputError(f"must name a file, got {self.out}", field="OUT")
        if not self.out.parent.is_dir():
            raise InputError(
                f"cannot write {self.out}: there is no folder {self.out.parent}; make it first", field="OUT"
            )
        if self.out.exists() and self.out.is_dir() != (self.out.suffix == ".parquet"):
            kind = "a folder" if self.out.is_dir() else "a file"
            raise InputError(
                f"{self.out} is {kind}; OUT is a file of JSON Lines, or a folder whose name ends with .parquet",
                field="OUT",
            )

    def _lock(self) -> None:
        lock = FileLock(self._hidden("lock"), timeout=0)
        try:
            self._closing.enter_context(lock)
        except Timeout:
            raise InputError(
                f"another process writes {self.out}; wait for it, or name another OUT", field="OUT"
            ) from None
        except OSError as error:
            raise InputError(f"cannot write {self.out}: {error.strerror or error}", field="OUT") from None

    def _remove(self) -> None:
        """Remove an earlier output; of a folder, only what a job writes."""
        self._bound.unlink(missing_ok=True)
        self._failed.unlink(missing_ok=True)
        if not self.out.is_dir():
            self.out.unlink(missing_ok=True)
            return
        for pattern in ("part-*.parquet", ".*.part", ".waiting.jsonl"):
            for file in self.out.glob(pattern):
                file.unlink()
        if left := next(self.out.iterdir(), None):
            raise InputError(f"{left} is not of a batch job; name another folder", field="OUT")

    def _check_bound(self, identity: Mapping[str, str], digest: str) -> bool:
        """Check that the output, if there is one, is of this job; returns whether the input has changed since."""
        if not self.out.exists():
            self._failed.unlink(missing_ok=True)
            return False
        try:
            bound = json.loads(self._bound.read_bytes())
            before, digest_before = dict(bound["identity"]), str(bound["input"])
        except (OSError, ValueError, LookupError, TypeError):
            if self._has_rows():
                raise InputError(
                    f"{self.out} exists, and is not the output of genrank batch; name another file, or replace it "
                    "with --overwrite",
                    field="OUT",
                ) from None
            before, digest_before = dict(identity), ""
            self._failed.unlink(missing_ok=True)
        names = [name for name in before | dict(identity) if before.get(name) != identity.get(name)]
        if names and not self._has_rows():
            self._failed.unlink(missing_ok=True)
            return False
        if names:
            changes = "; ".join(f"{name}: {before.get(name, 'none')} -> {identity.get(name, 'none')}" for name in names)
            raise ConfigError(
                f"{self.out} was begun with another {', '.join(names)} ({changes}); go on with the former, name "
                "another OUT, or begin again with --overwrite"
            )
        return bool(digest and digest_before and digest != digest_before)

    def _has_rows(self) -> bool:
        files = self.out.iterdir() if self.out.is_dir() else [self.out]
        return any(not file.is_file() or file.stat().st_size for file in files)

    def _bind(self, identity: Mapping[str, str], digest: str) -> None:
        bound = {"format": _FORMAT, "identity": dict(identity), "input": digest}
        with write_atomically(self._bound) as part:
            part.write_text(json.dumps(bound, indent=1) + "\n", encoding="utf-8")


def _failed(row_id: str, label: str) -> str:
    """What a failed row is known by: both its place and its id, so that a changed input is read again."""
    return f"failed:{label}\n{row_id}"


def _said(found: str) -> str:
    return repr(found.partition(":")[2])
