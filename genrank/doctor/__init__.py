"""What works on this machine, and how to get what does not: the checks behind ``genrank doctor``.

`genrank.doctor.examine.examine` makes them all. None of them imports torch or vllm unless it is asked to look deep.
"""
