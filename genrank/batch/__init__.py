"""Batch jobs, ``genrank batch``: files of any size ranked in constant memory, resumable after a kill.

`genrank.batch.job.Job` is one job: it reads rows (`genrank.batch.sources`), skips those whose answers are on disk
already (`genrank.batch.ledger`), has the others ranked here (`genrank.batch.workers`) or on a Ray cluster
(`genrank.batch.cluster`), and writes the answers (`genrank.batch.outputs`). `genrank.batch.dialects` and
`genrank.batch.run_batch` say what a row and an answer look like; `genrank.batch.settings` says what ranks, and hashes
it; `genrank.batch.pace` estimates the time left.
"""
