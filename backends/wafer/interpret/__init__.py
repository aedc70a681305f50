"""Runs programs, with two engines over the same steps.

* `pe` is the definition: every PE has its own bytes, its own place in its steps, and queues; which ready PE runs next is a schedule.
* `fast` runs each step over a whole region at once.

They give the same bits. Neither imports anything of the graph IR or the passes.
"""
