"""Scores of gym tasks: each module has one function of its name, which is copied into a `task.py`.

So a task needs neither this package nor reasoning-gym, and its score can be read and changed there.
A function takes what was submitted and what `puzzles.py` records of the question, and returns
whether the answer is right. Answers come from models: no function raises on any text.
"""
