"""The worker processes of the tests."""

import math
import operator
import time

import pytest
from support.processes import Pool

pytestmark = pytest.mark.ddp


def test_failure_and_silence_of_a_process_end_in_an_error_and_the_next_call_works():
    pool = Pool(2)
    try:
        with pytest.raises(RuntimeError, match=r"(?s)Rank 0: .*ZeroDivisionError.*Rank 1: Traceback"):
            pool.run(operator.truediv, 0)
        with pytest.raises(
            RuntimeError, match=r"(?s)Rank 0: Traceback.*ValueError: math domain error$"
        ):
            pool.run(math.log)
        assert pool.run(operator.add, 1) == [1, 2]
        with pytest.raises(TimeoutError, match=r"Ranks \[1\] have not returned within 0.5 s"):
            pool.run(time.sleep, timeout=0.5)
    finally:
        pool.close()
